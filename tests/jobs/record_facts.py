"""What MLflow has of a run, laid out so that two runs of the same training can be compared."""

from pathlib import Path
from typing import Any

from mlflow.entities import Run

from jobs.tracking import child_runs, experiment_runs, open_store, recorded_images, registered_versions
from jobs.tracking.uris import sqlite_path

MEASURED = {
    "images_per_second",
    "images_per_second_median",
    "seconds",
    "core_seconds",
    "gpu_seconds",
}
"""Metrics whose values depend on the machine and the moment: their steps are compared."""

OF_ATTEMPTS = {"restarts", "workers", "startup_seconds"}
"""Metrics that an interrupted run has more of."""


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def all_runs(uri: str) -> list[Run]:
    """The runs of the experiment, if there is a store."""
    path = sqlite_path(uri)
    return experiment_runs(uri, "glow") if path is None or path.exists() else []


def runs_of_job(uri: str, job: str) -> list[Run]:
    """The runs of one kind of job that are not trials."""
    return [run for run in all_runs(uri) if run.data.tags["glow.job"] == job and "glow.trial" not in run.data.tags]


def trials_of(uri: str, run: Run) -> dict[str, Run]:
    """The runs of an ablation's trials by label, each of which has one."""
    trials = child_runs(uri, run)
    labels = [trial.data.tags["glow.trial"] for trial in trials]
    assert len(set(labels)) == len(labels), labels
    return dict(zip(labels, trials, strict=True))


def points_of(uri: str, run: Run) -> dict[str, list[tuple[int, float]]]:
    """All points of every metric, those included that were written twice."""
    client, _ = open_store(uri, "glow", look=False)
    return {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }


def doubled(uri: str, run: Run) -> dict[str, list[int]]:
    """The steps of each metric that stand more than once."""
    found = {}
    for name, points in points_of(uri, run).items():
        steps = [step for step, _ in points]
        again = sorted({step for step in steps if steps.count(step) > 1})
        if again:
            found[name] = again
    return found


def facts_of(uri: str, run: Run) -> dict[str, Any]:
    """All that must be equal of two runs of one training, however often one of them was interrupted."""
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
