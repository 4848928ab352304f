"""Everything that touches MLflow: the stores, the runs that are written, and the runs that are found again.

This is the only package that imports `mlflow`. It does so inside functions, because the import takes a second.

The process that drives a job (the driver) writes the job's run to MLflow; workers never write to MLflow. A cluster can
therefore use a store that only the driver's machine can reach, such as a SQLite file, and the death of a worker loses
nothing that the driver has received.
"""

from typing import TYPE_CHECKING

from jobs.tracking.liveness import taken_for_dead
from jobs.tracking.models import save_model
from jobs.tracking.record import Record, Status, source_tags
from jobs.tracking.registry import (
    Champion,
    Promotion,
    Version,
    present_champion,
    promote,
    registered_versions,
    set_champion,
)
from jobs.tracking.runs import (
    MODEL,
    child_runs,
    download_model,
    experiment_runs,
    find_run,
    find_tagged,
    metric_history,
    model_id_of,
    newest_run,
    page_of,
    read_artifact,
    read_table,
    recorded_images,
    recorded_sizes,
    run_of_id,
)
from jobs.tracking.store import (
    NoSuchRun,
    TrackingError,
    check_existing,
    check_store,
    client_of,
    given_tracking_uri,
    open_command,
    open_store,
    server_command,
    tracking_uri,
    without_password,
)

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = [
    "MODEL",
    "Champion",
    "NoSuchRun",
    "Promotion",
    "Record",
    "Run",
    "Status",
    "TrackingError",
    "Version",
    "check_existing",
    "check_store",
    "child_runs",
    "client_of",
    "download_model",
    "experiment_runs",
    "find_run",
    "find_tagged",
    "given_tracking_uri",
    "metric_history",
    "model_id_of",
    "newest_run",
    "open_command",
    "open_store",
    "page_of",
    "present_champion",
    "promote",
    "read_artifact",
    "read_table",
    "recorded_images",
    "recorded_sizes",
    "registered_versions",
    "run_of_id",
    "save_model",
    "server_command",
    "set_champion",
    "source_tags",
    "taken_for_dead",
    "tracking_uri",
    "without_password",
]
