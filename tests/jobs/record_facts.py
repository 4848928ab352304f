"""What MLflow has of a run, in a form in which two runs of the same training can be compared."""

from pathlib import Path
from typing import Any

from mlflow.entities import Run

from jobs.tracking import TrackingError, child_runs, experiment_runs, open_store, recorded_images, registered_versions
from jobs.tracking.uris import sqlite_path

MEASURED = {
    "images_per_second",
    "images_per_second_median",
    "seconds",
    "core_seconds",
    "gpu_seconds",
}
"""Metrics whose values depend on the machine and the moment, so that only their steps are compared."""

OF_ATTEMPTS = {"restarts", "workers", "startup_seconds"}
"""Metrics of which an interrupted run has more points."""


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def all_runs(uri: str) -> list[Run]:
    """Return the runs of the experiment; none if there is no store, or a killed command did not make the experiment."""
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        return []
    try:
        return experiment_runs(uri, "glow")
    except TrackingError as error:
        if error.code != "experiment-not-found":
            raise
        return []


def runs_of_job(uri: str, job: str) -> list[Run]:
    """Return the runs of one kind of job that are not trials."""
    return [run for run in all_runs(uri) if run.data.tags["glow.job"] == job and "glow.trial" not in run.data.tags]


def trials_of(uri: str, run: Run) -> dict[str, Run]:
    """Return the trials of an ablation by label, after a check that no label has two."""
    trials = child_runs(uri, run)
    labels = [trial.data.tags["glow.trial"] for trial in trials]
    assert len(set(labels)) == len(labels), labels
    return dict(zip(labels, trials, strict=True))


def points_of(uri: str, run: Run) -> dict[str, list[tuple[int, float]]]:
    """Return all (step, value) points of every metric, including any that were written twice."""
    client, _ = open_store(uri, "glow", look=False)
    return {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }


def doubled(uri: str, run: Run) -> dict[str, list[int]]:
    """Return the steps of each metric that were written more than once."""
    found = {}
    for name, points in points_of(uri, run).items():
        steps = [step for step, _ in points]
        again = sorted({step for step in steps if steps.count(step) > 1})
        if again:
            found[name] = again
    return found


def facts_of(uri: str, run: Run) -> dict[str, Any]:
    """Return all that must be equal in two runs of one training, however often one of them was interrupted."""
    client, _ = open_store(uri, "glow", look=False)
    metrics: dict[str, Any] = {}
    for name, points in points_of(uri, run).items():
        if name in OF_ATTEMPTS:
            metrics[name] = "there"
        elif not name.startswith("system/"):
            metrics[name] = [step for step, _ in points] if name in MEASURED else points
    versions = [version for version in registered_versions(uri) if version.run_id == run.info.run_id]
    return {
        "status": run.info.status,
        "name": run.info.run_name,
        "metrics": metrics,
        "params": {name: value for name, value in run.data.params.items() if name not in ("output", "tracking_uri")},
        "artifacts": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
        "pictures": len([f for f in client.list_artifacts(run.info.run_id, "images") if f.path.endswith(".png")]),
        "images": sorted(recorded_images(run)),
        "models": len(versions),
    }
