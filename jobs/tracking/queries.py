"""What the MLflow store knows: runs, tables and models."""

from __future__ import annotations

import json
import re
import tempfile
import urllib.parse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.tracking.store import (
    NoSuchRun,
    TrackingError,
    check_store,
    client_of,
    open_store,
    sentences,
    sqlite_path,
    without_password,
)

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = [
    "child_runs",
    "download_model",
    "experiment_runs",
    "find_run",
    "find_tagged",
    "metric_history",
    "newest_run",
    "page_of",
    "read_artifact",
    "read_table",
    "recorded_images",
    "recorded_sizes",
    "run_of_id",
]


def find_run(uri: str, experiment: str, name_or_id: str) -> Run:
    """The run with this id, or the newest of this name in the experiment. Raises NoSuchRun if there is none."""
    from mlflow.exceptions import MlflowException

    client, experiment_id = open_store(uri, experiment)
    with suppress(MlflowException):
        return client.get_run(name_or_id)
    with sentences(uri):
        quoted = name_or_id.replace("'", "")
        runs = client.search_runs(
            [experiment_id], f"attributes.run_name = '{quoted}'", order_by=["attributes.start_time DESC"], max_results=1
        )
    if not runs:
        raise NoSuchRun(f"no run {name_or_id!r} in experiment {experiment!r} of {without_password(uri)}")
    return runs[0]


def recorded_images(run: Run) -> dict[str, str]:
    """The fingerprints of a run's data sets, by name."""
    return {entry.dataset.name: entry.dataset.digest for entry in run.inputs.dataset_inputs}


def recorded_sizes(run: Run) -> dict[str, tuple[int, ...]]:
    """The shapes of a run's data sets, by name, where they are known."""
    shapes = {}
    for entry in run.inputs.dataset_inputs:
        with suppress(ValueError, KeyError, TypeError):
            shapes[entry.dataset.name] = tuple(json.loads(entry.dataset.profile)["features_shape"])
    return shapes


def run_of_id(uri: str, run_id: str) -> Run | None:
    """The run with this id, of whatever experiment. None if the store knows none."""
    from mlflow.exceptions import MlflowException

    client = client_of(uri)
    with sentences(uri), suppress(MlflowException):
        return client.get_run(run_id)
    return None


def experiment_runs(uri: str, experiment: str) -> list[Run]:
    """All runs of an experiment, the newest first. Raises TrackingError if there is no such experiment, and makes
    neither it nor a store."""
    path = sqlite_path(uri)
    if path is not None and path.parent.is_dir() and not path.exists():
        raise TrackingError(f"there is no MLflow store {path}: record something with glowctl demo, or correct it")
    check_store(uri)
    client = client_of(uri)
    with sentences(uri):
        found = client.get_experiment_by_name(experiment)
        if found is None:
            names = ", ".join(repr(known.name) for known in client.search_experiments(max_results=10))
            raise TrackingError(f"there is no experiment {experiment!r} in {without_password(uri)}, only {names}")
        return _every_run(client, found.experiment_id, "", "attributes.start_time DESC")


def page_of(uri: str, run: Run) -> str | None:
    """The address of a run in the UI, where the store is a server."""
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        return None
    host = parts.netloc.rpartition("@")[2]  # without a password
    return (
        f"{parts.scheme}://{host}{parts.path.rstrip('/')}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    )


def newest_run(uri: str, experiment: str, job: str) -> Run:
    """The newest finished run of a job in the experiment. Raises TrackingError if there is none."""
    client, experiment_id = open_store(uri, experiment)
    with sentences(uri):
        runs = client.search_runs(
            [experiment_id],
            f"tags.`glow.job` = '{job}' and attributes.status = 'FINISHED'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
    if not runs:
        raise TrackingError(
            f"no finished {job} run in experiment {experiment!r} of {without_password(uri)}: train one with glowctl "
            f"{job}, or name one with --model"
        )
    return runs[0]


def find_tagged(uri: str, experiment: str, tag: str) -> tuple[str, str] | None:
    """The id of the newest run of the experiment that has this tag, and the tag's value."""
    client, experiment_id = open_store(uri, experiment)
    with sentences(uri):
        runs = client.search_runs(
            [experiment_id], f"tags.`{tag}` LIKE '%'", order_by=["attributes.start_time DESC"], max_results=1
        )
    return (runs[0].info.run_id, runs[0].data.tags[tag]) if runs else None


def child_runs(uri: str, parent: Run) -> list[Run]:
    """The runs beneath a run that the store knows, the oldest first. Raises TrackingError."""
    client = client_of(uri)
    with sentences(uri):
        beneath = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        return _every_run(client, parent.info.experiment_id, beneath, "attributes.start_time ASC")


def _every_run(client: MlflowClient, experiment_id: str, which: str, order: str) -> list[Run]:
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], which, order_by=[order], page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def metric_history(uri: str, run_id: str, name: str) -> dict[int, float]:
    """The last value of a metric at each step. Raises TrackingError."""
    with sentences(uri):
        return {point.step: point.value for point in client_of(uri).get_metric_history(run_id, name)}


def read_table(uri: str, run_id: str, path: str) -> pd.DataFrame | None:
    """A Parquet artifact of a run; None if it is gone or damaged."""
    import pandas as pd
    from mlflow.exceptions import MlflowException

    client = client_of(uri)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return pd.read_parquet(client.download_artifacts(run_id, path, folder))
        except (MlflowException, OSError, ValueError):
            return None


def read_artifact(uri: str, run_id: str, path: str) -> bytes | None:
    """The content of an artifact of a run; None if it is gone."""
    from mlflow.exceptions import MlflowException

    client = client_of(uri)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return Path(client.download_artifacts(run_id, path, folder)).read_bytes()
        except (MlflowException, OSError):
            return None


def download_model(uri: str, model_uri: str, folder: str) -> tuple[Path, str | None]:
    """Downloads what an MLflow model URI names (runs:/ID/PATH, models:/NAME/VERSION, models:/NAME@ALIAS, models:/m-ID,
    or a bucket's URI) into a folder: where it lies there, and the id of the run that it is of, if that is known.

    Raises TrackingError if there is no such thing.
    """
    from mlflow.artifacts import download_artifacts

    check_store(uri)
    client = client_of(uri)
    with sentences(uri):
        place, run_id = _artifact_of(client, model_uri)
        return Path(download_artifacts(artifact_uri=place, dst_path=folder, tracking_uri=uri)), run_id


def _artifact_of(client: MlflowClient, model_uri: str) -> tuple[str, str | None]:
    if found := re.fullmatch(r"runs:/([^/]+)/(.+)", model_uri):
        return _of_run(client, found[1], found[2]) or model_uri, found[1]
    if found := re.fullmatch(r"models:/(m-[0-9a-f]+)", model_uri):
        model = client.get_logged_model(found[1])
        return model.artifact_location, model.source_run_id
    if found := re.fullmatch(r"models:/([^/@]+)@([^/@]+)", model_uri):
        version = client.get_model_version_by_alias(found[1], found[2])
    elif found := re.fullmatch(r"models:/([^/@]+)/([^/@]+)", model_uri):
        number = found[2]
        if number == "latest":
            every = client.search_model_versions(f"name = '{found[1]}'")
            number = max((entry.version for entry in every), key=int, default=number)
        version = client.get_model_version(found[1], number)
    elif model_uri.startswith("models:"):
        raise TrackingError(
            f"{model_uri} is not a model: write models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID/PATH"
        )
    else:
        return model_uri, None
    return client.get_model_version_download_uri(version.name, version.version), version.run_id


def _of_run(client: MlflowClient, run_id: str, path: str) -> str | None:
    """Where a run's logged model of this name lies, which is not among its artifacts."""
    for output in reversed(client.get_run(run_id).outputs.model_outputs):
        model = client.get_logged_model(output.model_id)
        if model.name == path:
            return str(model.artifact_location)
    return None
