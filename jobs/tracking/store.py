"""Where runs are recorded: the MLflow store, found, checked and opened."""

from __future__ import annotations

import re
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING

from jobs.system.environment import in_ray_job
from jobs.tracking import tag_names
from jobs.tracking.databases import (
    PROBE_TIMEOUT_S,
    artifact_location,
    check_artifact_location,
    check_database,
    check_sqlite,
    check_sqlite_name,
    has_tables,
    is_database,
    is_half_made,
    load_mlflow,
    prepared,
    wait_for_maker,
)
from jobs.tracking.liveness import mark_dead
from jobs.tracking.uris import (
    NoSuchRun,
    TrackingError,
    given_tracking_uri,
    sqlite_path,
    tracking_uri,
    without_password,
    without_secrets,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "NoSuchRun",
    "TrackingError",
    "check_existing",
    "check_store",
    "client_of",
    "given_tracking_uri",
    "if_known",
    "open_command",
    "open_store",
    "sentences",
    "server_command",
    "tracking_uri",
    "without_password",
]


ABOUT = """\
Glow normalizing flows, by `glowctl`. The description of each run says what it is, its result, and the command that
repeats it.

- **train** trains a model, and registers it as `glow-DATASET`.
- **ablate** compares variants of one: its trials are the trainings beneath it; tables, figures and conclusions are its
  own.
- **nll, sample, interpolate, ood** evaluate a model, beneath its training.

`test/bits_per_dim` and `validation/best_bits_per_dim` can be compared over runs on the same data set and image size;
lower is better. `glowctl report` puts what is here into one document.
"""
"""The description of an experiment in the UI."""

WRONG_TABLES = r"table \S+ already exists|duplicate column|no such (table|column)"
"""What SQLite says of a file whose tables are not all there, or not as they are said to be."""

OTHER_STORES = {"databricks", "databricks-uc", "uc"}
"""Schemes that MLflow itself knows, beside those that are looked at here."""

PLUGINS = "mlflow.tracking_store"
"""What MLflow calls the entry points by which other packages bring stores."""

FULL = "database or disk is full"
"""What SQLite says of a full disk."""

UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's codes for what is not there; the second one for aliases, and for what cannot be an id."""


def check_store(uri: str) -> None:
    """Raises TrackingError within seconds if the store does not answer."""
    shown = without_password(uri)
    parts = urllib.parse.urlsplit(uri)
    path = sqlite_path(uri)
    if path is not None:
        check_sqlite(path)
    elif parts.scheme in ("http", "https"):
        _check_server(uri)
    elif parts.scheme == "file" or ("://" not in uri and uri != "databricks"):
        raise TrackingError(
            f"{shown} is a folder, which MLflow no longer writes to: use sqlite:///{parts.path}/mlflow.db"
        )
    elif is_database(uri):
        check_database(uri)
    elif uri != "databricks" and parts.scheme not in OTHER_STORES | _plugins():
        raise TrackingError(
            f"{shown} is not the address of an MLflow store: use sqlite:///FILE, http://HOST:PORT, or a database such "
            "as postgresql://USER@HOST/NAME"
        )


def _plugins() -> set[str]:
    """The schemes of stores that other packages bring."""
    return {found.name for found in metadata.entry_points(group=PLUGINS)}


def check_existing(uri: str) -> None:
    """As `check_store`, for commands that only read: raises TrackingError, too, for a SQLite file that is not there,
    which MLflow would make."""
    path = sqlite_path(uri)
    if path is not None:
        check_sqlite_name(path)
        wait_for_maker(path)
    if path is not None and path.parent.is_dir() and not path.exists():
        raise TrackingError(
            f"there is no MLflow store {path}: record something (glowctl demo does), or name another with "
            "--tracking-uri"
        )
    check_store(uri)


def _check_server(uri: str) -> None:
    import requests

    shown = without_password(uri)
    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=PROBE_TIMEOUT_S)
    except requests.RequestException as error:
        raise TrackingError(
            f"the MLflow server at {shown} does not answer ({type(error).__name__}): start it, or correct "
            "--tracking-uri"
        ) from None
    if not answer.ok:
        raise TrackingError(
            f"the MLflow server at {shown} answers {answer.status_code}: check the address and its --allowed-hosts"
        )


def client_of(uri: str) -> MlflowClient:
    """A client of this store alone: the process's global URI, which ends up in its environment, stays as it is.

    A database that is not there yet is made. Raises TrackingError if it cannot be.
    """
    with sentences(uri):
        _make_store(uri)
        return _client(uri)


def _client(uri: str) -> MlflowClient:
    load_mlflow()
    import mlflow

    return mlflow.MlflowClient(uri)


def _make_store(uri: str) -> None:
    """MLflow itself would not wait for another process that makes it, nor let another wait."""
    if (sqlite_path(uri) is not None or is_database(uri)) and not has_tables(uri):
        with prepared(uri):
            _client(uri)


@contextmanager
def sentences(uri: str) -> Iterator[None]:
    """Whatever the store raises, as one sentence: MLflow, SQLAlchemy, requests, a bucket's client, a full disk."""
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        path = sqlite_path(uri)
        if path is not None and re.search(WRONG_TABLES, str(error)) and is_half_made(path):
            raise TrackingError(
                f"the MLflow store {path} is not whole, most likely because a process was killed while it made it, and "
                "holds no runs: remove it, and it is made anew"
            ) from error
        if FULL in str(error):
            raise TrackingError(
                f"the disk that the MLflow store {without_password(uri)} is on is full: free some space"
            ) from error
        first = without_secrets((str(error).strip() or type(error).__name__).splitlines()[0], uri)
        raise TrackingError(f"the MLflow store {without_password(uri)} failed: {first}") from error


@contextmanager
def if_known() -> Iterator[None]:
    """Leaves out what the store does not know, and raises the MlflowException of a store that fails."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in UNKNOWN:
            raise


def open_store(uri: str, experiment: str, look: bool = True) -> tuple[MlflowClient, str]:
    """A client and the id of the experiment, which is made if need be. Runs in it whose driver is gone are marked so,
    unless told not to `look`. Raises TrackingError."""
    check_store(uri)
    with sentences(uri), prepared(uri):
        client = _client(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return client, _make_experiment(client, uri, experiment)
    if found.lifecycle_stage == "deleted":
        raise TrackingError(f"the experiment {experiment!r} was deleted: restore it, or choose another --experiment")
    check_artifact_location(uri, experiment, found.artifact_location)
    if look:
        mark_dead(client, found.experiment_id)
    return client, found.experiment_id


def _make_experiment(client: MlflowClient, uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    # The UI opens such experiments in its view for models, and not in that for language models.
    tags = {tag_names.EXPERIMENT_KIND: "custom_model_development", tag_names.NOTE: ABOUT}
    try:
        made: str = client.create_experiment(name, artifact_location=artifact_location(uri), tags=tags)
    except MlflowException:
        found = client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage == "deleted":
            raise
        return str(found.experiment_id)  # somebody else was faster
    return made


def open_command(uri: str) -> str:
    """What a user types to see this store in the UI."""
    default = uri == tracking_uri() and not in_ray_job()  # a job's environment is not the user's
    return "glowctl ui" if default else f"glowctl ui --tracking-uri {without_password(uri)}"


def server_command(uri: str, port: int) -> tuple[list[str], dict[str, str]]:
    """The command that serves the UI of this store on loopback, and what its environment needs beside.

    The store goes by the environment: a password in it would be seen in the list of processes.
    """
    with sentences(uri):
        _make_store(uri)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    location = artifact_location(uri)
    if location is not None:
        environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = location
    return command, environment
