"""What MLflow has of a run, in a form in which two runs of the same training can be compared."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from glowctl.tracking.registry import registered_versions
from glowctl.tracking.runs import child_runs, experiment_runs, recorded_images
from glowctl.tracking.store import client_of, open_store
from glowctl.tracking.tag_names import DRIVER
from glowctl.tracking.uris import TrackingError, sqlite_path
from glowctl.training.progress import IN_MLFLOW

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

OF_THE_PLACE = {
    "glow.alive",
    "glow.driver",
    "glow.place",
    "glow.source_changed",
    "mlflow.source.git.commit",
    "mlflow.user",
}
"""Tags that depend on the process, the machine, or the moment."""

NAMES = re.compile(r"\b[0-9a-f]{32}\b|models:/[\w-]+/\d+")
"""The id of a run, or the name of a registered version, in a text. A trial that ends later has a higher version."""


def files_of_ray(folder: Path) -> list[Path]:
    """Return the files in which Ray Train and Ray Tune keep their state, next to the checkpoints of a run."""
    kinds = ("experiment_state*", "*.pkl", "*-state-*", "*search*", "*_snapshot.json", ".validate*", "*.json")
    found = {path for kind in kinds for name in ("attempt-*", "tune-*") for path in folder.rglob(f"{name}/{kind}")}
    return sorted(path for path in found if path.is_file())


def damage_files_of_ray(folder: Path, how: str = "cut") -> None:
    """Empty all files of `files_of_ray`, cut them in half, or remove them, as a full disk or a kill may do."""
    files = files_of_ray(folder)
    assert files
    for path in files:
        content = path.read_bytes()
        path.unlink() if how == "removed" else path.write_bytes(content[: len(content) // 2] if how == "cut" else b"")


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


def end_driver(uri: str, run_id: str) -> None:
    """Make a run look as if the process that drives it, which is of this machine, had been killed."""
    client = client_of(uri)
    place, pid, _ = client.get_run(run_id).data.tags[DRIVER].rsplit(" ", 2)
    client.set_tag(run_id, DRIVER, f"{place} {pid} 1")  # another process has this number now


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


def unlike_history(uri: str, run: Run) -> dict[str, dict[int, float]]:
    """Return the metrics of epochs that differ from history.csv, which is made of the checkpoints, the speed included.

    The speed of an epoch differs whenever the epoch is trained again.
    """
    client, _ = open_store(uri, "glow", look=False)
    with tempfile.TemporaryDirectory() as folder:
        file = client.download_artifacts(run.info.run_id, "history.csv", folder)
        # As text first: the numbers of pandas 2 are not exact, and its argument for exact ones is gone from pandas 3.
        history = pd.read_csv(file, dtype=str).astype(float).set_index("epoch")
    points = points_of(uri, run)
    recorded = {column: dict(points.get(name, [])) for column, name in IN_MLFLOW.items()}
    return {column: steps for column, steps in recorded.items() if steps != history[column].dropna().to_dict()}


def check_epochs(uri: str, run: Run) -> None:
    """Checks that every epoch is recorded once, as the checkpoint has it."""
    assert doubled(uri, run) == {}
    assert unlike_history(uri, run) == {}


def tags_of(client: MlflowClient, run: Run) -> dict[str, Any]:
    """Return the tags that follow from the work: all but those of the place, and without ids."""
    tags: dict[str, Any] = {
        name: NAMES.sub("", text) for name, text in run.data.tags.items() if name not in OF_THE_PLACE
    }
    spec = json.loads(tags["glow.spec"])
    for settings in (spec, spec.get("train", {})):
        for name in ("output", "tracking_uri"):
            settings.pop(name, None)
    if "glow.champion" in tags:
        tags["mlflow.note.content"], tables, _ = tags["mlflow.note.content"].partition("Test NLL of each configuration")
        assert tables  # which have speeds
        tags["glow.champion"] = client.get_run(run.data.tags["glow.champion"]).data.tags["glow.trial"]
    listed = sorted(each["path"] for each in json.loads(tags.get("mlflow.loggedArtifacts", "[]")))
    return {**tags, "glow.spec": spec, "mlflow.loggedArtifacts": listed}


def artifacts_of(client: MlflowClient, run: Run, folder: str | None = None) -> Iterator[str]:
    """Yield the paths of all files of a run."""
    for found in client.list_artifacts(run.info.run_id, folder):
        if found.is_dir:
            yield from artifacts_of(client, run, found.path)
        else:
            yield found.path


def tables_of(client: MlflowClient, run: Run) -> dict[str, list[dict[Any, Any]]]:
    """Return the rows of all tables of a run, scores included, by the path of the table, without what was measured."""
    readers: dict[str, Callable[[str], pd.DataFrame]] = {
        ".json": lambda file: pd.read_json(file, orient="split", precise_float=True),
        ".csv": pd.read_csv,
        ".parquet": pd.read_parquet,
    }
    tables = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in artifacts_of(client, run):
            reader = readers.get(Path(path).suffix)
            if reader is not None and path not in ("spec.json", "environment.json"):
                table = reader(client.download_artifacts(run.info.run_id, path, folder))
                measured = [column for column in table if column == "run_id" or column in MEASURED]
                # NaN is not equal to itself.
                tables[path] = table.drop(columns=measured).astype(object).where(table.notna(), None).to_dict("records")
    return tables


def _step_of(picture: str) -> str:
    """Return what follows from the work in the path of a picture: its series, its step and the kind of file."""
    series, _, step, *_ = Path(picture).name.split("+")
    return f"{series} {step} {Path(picture).suffix}"


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
        "pictures": sorted(_step_of(path) for path in artifacts_of(client, run, "images")),
        "images": sorted(recorded_images(run)),
        "models": len(versions),
        "tags": tags_of(client, run),
        "tables": tables_of(client, run),
    }
