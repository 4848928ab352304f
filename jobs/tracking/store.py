"""Where runs are recorded: the MLflow store, found, checked and opened."""

from __future__ import annotations

import logging
import os
import re
import socket
import sqlite3
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from jobs.surroundings import in_ray_job

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "NoSuchRun",
    "TrackingError",
    "check_store",
    "client_of",
    "given_tracking_uri",
    "open_command",
    "open_store",
    "sentences",
    "server_command",
    "tracking_uri",
    "without_password",
]

PROBE_TIMEOUT_S = 3.0


class TrackingError(Exception):
    """The MLflow store cannot be used, or holds no such run; one sentence for the user."""


class NoSuchRun(TrackingError):
    """The store answers, and does not know the run."""


def given_tracking_uri(given: str | None = None) -> str | None:
    """`given`, else $MLFLOW_TRACKING_URI; SQLite paths made absolute."""
    uri = given or os.environ.get("MLFLOW_TRACKING_URI")
    path = sqlite_path(uri) if uri else None
    return f"sqlite:///{path}" if path is not None else uri or None


def tracking_uri(given: str | None = None) -> str:
    """`given_tracking_uri`, else a SQLite file in the working folder.

    Raises TrackingError in a job of a cluster, whose working folder goes with it.
    """
    uri = given_tracking_uri(given)
    if uri is None and in_ray_job():
        raise TrackingError(
            "there is no MLflow store: give --tracking-uri, or set MLFLOW_TRACKING_URI where the head is started"
        )
    return uri or given_tracking_uri("sqlite:///mlflow.db") or ""


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
    path = sqlite_path(uri)
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


def sqlite_path(uri: str) -> Path | None:
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


def client_of(uri: str) -> MlflowClient:
    """A client of this store alone: the process's global URI, which ends up in its environment, stays as it is."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # where --json may be writing
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # A server that is away is asked again by whoever records (jobs.channel), not for minutes inside one call.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow.MlflowClient(uri)


@contextmanager
def sentences(uri: str) -> Iterator[None]:
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
    path = sqlite_path(uri)
    if path is None:
        yield
        return
    with FileLock(f"{path}.lock"):
        yield


def open_store(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """A client and the id of the experiment, which is made if need be. Raises TrackingError."""
    check_store(uri)
    with sentences(uri), _one_at_a_time(uri):
        client = client_of(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            path = sqlite_path(uri)
            location = None if path is None else (path.parent / "mlartifacts").as_uri()
            # The UI opens such experiments in its view for models, and not in that for language models.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return client, client.create_experiment(experiment, artifact_location=location, tags=kind)
    if found.lifecycle_stage == "deleted":
        raise TrackingError(f"the experiment {experiment!r} was deleted: restore it, or choose another --experiment")
    return client, found.experiment_id


def open_command(uri: str) -> str:
    """What a user types to see this store in the UI."""
    default = uri == tracking_uri() and not in_ray_job()  # a job's environment is not the user's
    return "glowctl ui" if default else f"glowctl ui --tracking-uri {without_password(uri)}"


def server_command(uri: str, port: int) -> tuple[list[str], dict[str, str]]:
    """The command that serves the UI of this store on loopback, and what its environment needs beside.

    The store goes by the environment: a password in it would be seen in the list of processes.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    path = sqlite_path(uri)
    if path is not None:
        environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = (path.parent / "mlartifacts").as_uri()
    return command, environment
