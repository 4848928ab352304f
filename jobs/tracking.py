"""MLflow: where runs are recorded. The only file that imports mlflow.

The process that drives a job writes the record, and no worker does: a store that only the driver's machine can reach
(SQLite) then serves a cluster too, and a worker that dies takes nothing of the record with it.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = [
    "Record",
    "Status",
    "TrackingError",
    "check_store",
    "download_model",
    "find_run",
    "find_tagged",
    "newest_run",
    "open_command",
    "open_store",
    "read_table",
    "server_command",
    "tracking_uri",
    "without_password",
]

PROBE_TIMEOUT_S = 3.0

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class TrackingError(Exception):
    """The MLflow store cannot be used, or holds no such run; one sentence for the user."""


def tracking_uri(given: str | None = None) -> str:
    """`given`, else $MLFLOW_TRACKING_URI, else a SQLite file in the working folder; SQLite paths made absolute."""
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    path = _sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path}"


def without_password(uri: str) -> str:
    """The URI as it may be shown: passwords and tokens in it are replaced."""
    parts = urllib.parse.urlsplit(uri)
    if parts.password:
        uri = uri.replace(f":{parts.password}@", ":***@", 1)
    return re.sub(r"([?&][^=&]*(?:password|passwd|pwd|token|secret)[^=&]*=)[^&]*", r"\1***", uri, flags=re.IGNORECASE)


def check_store(uri: str) -> None:
    """Raises TrackingError within seconds if the store does not answer."""
    shown = without_password(uri)
    parts = urllib.parse.urlsplit(uri)
    path = _sqlite_path(uri)
    if path is not None:
        _check_sqlite(path)
    elif parts.scheme in ("http", "https"):
        _check_server(uri)
    elif parts.scheme == "file" or (not parts.scheme and uri != "databricks"):
        raise TrackingError(
            f"{shown} is a folder, which MLflow no longer writes to: use sqlite:///{parts.path}/mlflow.db"
        )
    elif parts.hostname:
        try:
            socket.create_connection((parts.hostname, parts.port or 5432), PROBE_TIMEOUT_S).close()
        except OSError as error:
            raise TrackingError(f"the database of {shown} does not answer ({error}): correct --tracking-uri") from None


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


def _sqlite_path(uri: str) -> Path | None:
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)).expanduser().absolute() if uri.startswith(prefix) else None


def _check_sqlite(path: Path) -> None:
    if not path.parent.is_dir():
        raise TrackingError(f"the folder of the MLflow store {path} does not exist: make it, or correct --tracking-uri")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise TrackingError(f"the MLflow store {path} cannot be written: choose another with --tracking-uri")
    if path.exists():
        try:
            with sqlite3.connect(path) as connection:
                connection.execute("PRAGMA schema_version")
        except sqlite3.DatabaseError as error:
            raise TrackingError(
                f"{path} is not an MLflow store ({error}): choose another with --tracking-uri"
            ) from None


def _client(uri: str) -> MlflowClient:
    """A client of this store alone: the process's global URI, which ends up in its environment, stays as it is."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # where --json may be writing
    # A server that is away is asked again by whoever records (jobs.channel), not for minutes inside one call.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow.MlflowClient(uri)


@contextmanager
def _sentences(uri: str) -> Iterator[None]:
    """Whatever the store raises, as one sentence: MLflow, SQLAlchemy, requests, a bucket's client, a full disk."""
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrackingError(f"the MLflow store {without_password(uri)} failed: {first}") from error


@contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Two processes that make one SQLite store at once would break it for good."""
    path = _sqlite_path(uri)
    if path is None:
        yield
        return
    with FileLock(f"{path}.lock"):
        yield


def open_store(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """A client and the id of the experiment, which is made if need be. Raises TrackingError."""
    check_store(uri)
    with _sentences(uri), _one_at_a_time(uri):
        client = _client(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            path = _sqlite_path(uri)
            location = None if path is None else (path.parent / "mlartifacts").as_uri()
            # The UI opens such experiments in its view for models, and not in that for language models.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return client, client.create_experiment(experiment, artifact_location=location, tags=kind)
    if found.lifecycle_stage == "deleted":
        raise TrackingError(f"the experiment {experiment!r} was deleted: restore it, or choose another --experiment")
    return client, found.experiment_id


def find_run(uri: str, experiment: str, name_or_id: str) -> Run:
    """The run with this id, or the newest of this name in the experiment. Raises TrackingError if there is none."""
    from mlflow.exceptions import MlflowException

    client, experiment_id = open_store(uri, experiment)
    with suppress(MlflowException):
        return client.get_run(name_or_id)
    with _sentences(uri):
        quoted = name_or_id.replace("'", "")
        runs = client.search_runs(
            [experiment_id], f"attributes.run_name = '{quoted}'", order_by=["attributes.start_time DESC"], max_results=1
        )
    if not runs:
        raise TrackingError(f"no run {name_or_id!r} in experiment {experiment!r} of {without_password(uri)}")
    return runs[0]


def newest_run(uri: str, experiment: str, job: str) -> Run:
    """The newest finished run of a job in the experiment. Raises TrackingError if there is none."""
    client, experiment_id = open_store(uri, experiment)
    with _sentences(uri):
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
    with _sentences(uri):
        runs = client.search_runs(
            [experiment_id], f"tags.`{tag}` LIKE '%'", order_by=["attributes.start_time DESC"], max_results=1
        )
    return (runs[0].info.run_id, runs[0].data.tags[tag]) if runs else None


def read_table(uri: str, run_id: str, path: str) -> pd.DataFrame | None:
    """A Parquet artifact of a run; None if it is gone or damaged."""
    import pandas as pd
    from mlflow.exceptions import MlflowException

    client = _client(uri)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return pd.read_parquet(client.download_artifacts(run_id, path, folder))
        except (MlflowException, OSError, ValueError):
            return None


def download_model(uri: str, model_uri: str, folder: str) -> tuple[Path, str | None]:
    """Downloads what an MLflow model URI names (runs:/ID/PATH, models:/NAME/VERSION, models:/NAME@ALIAS, models:/m-ID,
    or a bucket's URI) into a folder: where it lies there, and the id of the run that it is of, if that is known.

    Raises TrackingError if there is no such thing.
    """
    from mlflow.artifacts import download_artifacts

    check_store(uri)
    client = _client(uri)
    with _sentences(uri):
        place, run_id = _artifact_of(client, model_uri)
        return Path(download_artifacts(artifact_uri=place, dst_path=folder, tracking_uri=uri)), run_id


def _artifact_of(client: MlflowClient, model_uri: str) -> tuple[str, str | None]:
    if found := re.fullmatch(r"runs:/([^/]+)/.+", model_uri):
        return model_uri, found[1]
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


def open_command(uri: str) -> str:
    """What a user types to see this store in the UI."""
    return "glowctl ui" if uri == tracking_uri() else f"glowctl ui --tracking-uri {without_password(uri)}"


def server_command(uri: str, port: int) -> tuple[list[str], dict[str, str]]:
    """The command that serves the UI of this store on loopback, and what its environment needs beside.

    The store goes by the environment: a password in it would be seen in the list of processes.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    path = _sqlite_path(uri)
    if path is not None:
        environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = (path.parent / "mlartifacts").as_uri()
    return command, environment


class Record:
    """A run that is being written."""

    def __init__(self, uri: str, client: MlflowClient, run: Run) -> None:
        self._uri, self._client = uri, client
        self.run_id: str = run.info.run_id
        self.name: str = run.info.run_name
        self.artifact_uri: str = run.info.artifact_uri

    @classmethod
    def start(cls, uri: str, experiment: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> Record:
        """A new run. Raises TrackingError."""
        from mlflow.entities import Param

        client, experiment_id = open_store(uri, experiment)
        with _sentences(uri):
            run = client.create_run(experiment_id, run_name=name, tags={**_source_tags(), **tags})
            try:
                client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in params.items()])
            except Exception:
                client.set_terminated(run.info.run_id, "FAILED")
                raise
        return cls(uri, client, run)

    @classmethod
    def existing(cls, uri: str, run: Run) -> Record:
        """The record of a run that `find_run` found."""
        return cls(uri, _client(uri), run)

    def begin(self) -> None:
        """Sets the run running, which one that is resumed was no more."""
        with _sentences(self._uri):
            self._client.update_run(self.run_id, status="RUNNING")

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with _sentences(self._uri):
            self._client.log_batch(self.run_id, metrics=[Metric(k, float(v), now, step) for k, v in values.items()])

    def metric_steps(self, name: str) -> dict[int, float]:
        """The last value of a metric at each step."""
        with _sentences(self._uri):
            return {point.step: point.value for point in self._client.get_metric_history(self.run_id, name)}

    def tag(self, name: str, value: str) -> None:
        with _sentences(self._uri):
            self._client.set_tag(self.run_id, name, value)

    def describe(self, markdown: str) -> None:
        """The description that the UI shows above the run."""
        self.tag("mlflow.note.content", markdown)

    def image(self, image: np.ndarray, key: str, step: int) -> None:
        """A uint8 image (H, W, 3) of a series that the UI shows over the steps."""
        with _sentences(self._uri):
            self._client.log_image(self.run_id, image, key=key, step=step, synchronous=True)

    def folder(self, folder: Path) -> None:
        """Everything in `folder`, as artifacts of the same paths."""
        with _sentences(self._uri):
            self._client.log_artifacts(self.run_id, str(folder))

    def file(self, file: Path, folder: str) -> None:
        """A file, as an artifact in this folder of the run."""
        with _sentences(self._uri):
            self._client.log_artifact(self.run_id, str(file), folder)

    def table(self, table: pd.DataFrame, path: str) -> None:
        """A table that the UI shows and compares over runs; `path` ends in .json."""
        with _sentences(self._uri):
            self._client.log_table(self.run_id, table, path)

    def dataset(self, images: np.ndarray, name: str, digest: str, context: str, source: str) -> None:
        """A data set as an input of the run; `context` is training, validation or test."""
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.numpy_dataset import from_numpy
        from mlflow.entities import DatasetInput, InputTag

        dataset = from_numpy(images, source=CodeDatasetSource({"glow.dataset": source}), name=name, digest=digest)
        tags = [InputTag("mlflow.data.context", context)]
        with _sentences(self._uri):
            self._client.log_inputs(self.run_id, [DatasetInput(dataset._to_mlflow_entity(), tags)])

    @contextmanager
    def system_metrics(self, interval_s: float = 5.0) -> Iterator[None]:
        """Records this machine's processor, memory, disk, network and GPUs meanwhile."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(
            self.run_id, sampling_interval=interval_s, resume_logging=True, tracking_uri=self._uri
        )
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Leaves the run in a true state, however what is done meanwhile ends."""
        status: Status = "FAILED"
        try:
            self.begin()
            with self.system_metrics():
                yield
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except Exception as error:
            with suppress(TrackingError):  # the first error is the one to tell
                self.tag("glow.error", str(error)[:5000])
            raise
        finally:
            with nullcontext() if status == "FINISHED" else suppress(TrackingError):
                self.finish(status)

    def finish(self, status: Status) -> None:
        with _sentences(self._uri):
            self._client.set_terminated(self.run_id, status)


def _source_tags() -> dict[str, str]:
    """Who ran what, as MLflow's own runs say it, with the commit that the code is at where it is a git checkout."""
    tags = {"mlflow.source.name": "glowctl", "mlflow.source.type": "LOCAL"}
    with suppress(OSError, KeyError):
        tags["mlflow.user"] = getpass.getuser()
    project = Path(__file__).parents[1]
    if _git(project, "rev-parse", "--show-toplevel") == str(project):  # and not a checkout that it is installed in
        tags["mlflow.source.git.commit"] = _git(project, "rev-parse", "HEAD") or ""
        tags["glow.source_changed"] = str(bool(_git(project, "status", "--porcelain", "--untracked-files=no")))
    return tags


def _git(folder: Path, *arguments: str) -> str | None:
    with suppress(OSError):
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None
    return None
