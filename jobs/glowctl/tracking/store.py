"""The MLflow store: check that it answers, create it if it is missing, and open it.

Every access to a store starts here. `check_store` is quick and changes nothing; `check_existing` is for commands that
need what a store has; `open_store` creates what is missing; `sentences` turns whatever a store raises into a
`TrackingError`.
"""

from __future__ import annotations

import re
import shlex
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING

from glowctl.system.environment import in_ray_job
from glowctl.tracking import tag_names
from glowctl.tracking.databases import (
    PROBE_TIMEOUT_S,
    artifact_location,
    check_artifact_location,
    check_database,
    check_sqlite,
    check_sqlite_name,
    is_database,
    is_missing,
    load_mlflow,
    prepared,
)
from glowctl.tracking.liveness import mark_dead
from glowctl.tracking.uris import (
    TrackingError,
    sqlite_path,
    tracking_uri,
    without_password,
    without_secrets,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment


ABOUT = """\
Glow normalizing flows, trained by `glowctl`. The description of each run shows what the run is, its result, and the
command that repeats it.

- **train** trains a model, and registers it as `glow-DATASET`.
- **ablate** compares variants of a model. Its trials are the trainings nested under it; the tables, figures and
  conclusions are files of the ablation itself.
- **nll, sample, interpolate, ood** evaluate a model. They are nested under its training.

`test/bits_per_dim` and `validation/best_bits_per_dim` can be compared between runs on the same data set and image
size; lower is better. `glowctl report` summarises this experiment in one document.
"""
"""Description of an experiment in the MLflow UI, in Markdown."""

ADDRESSES = "use sqlite:///FILE, http://HOST:PORT, or a database such as postgresql://USER@HOST/NAME"
"""The remedy for an address that is not that of a store."""

HOST_AND_PORT = r"(\[[^\]/]+\]|[^/:@\[\]]+):\d+(/.*)?"
"""Matches the address of a server without its scheme, such as localhost:5000."""

OTHER_STORES = {"databricks", "databricks-uc", "uc"}
"""URI schemes that MLflow supports and that are passed to it unchecked."""

PLUGINS = "mlflow.tracking_store"
"""Entry point group by which other packages add kinds of stores to MLflow."""

FULL = "database or disk is full"
"""SQLite's message when the disk is full."""

UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's codes for something that does not exist; it returns the second one for unknown aliases and malformed ids."""


_opened: set[str] = set()
"""URIs of database servers that this process has opened, so that MLflow's tables are there."""


def check_store(uri: str, writes: bool = True) -> None:
    """Check within seconds that a store can be used.

    Args:
        uri: a SQLite file, an MLflow server, a database server, or a kind of store that MLflow or a plugin adds.
            The last kind is not checked further.
        writes: whether the caller writes to the store; if not, a SQLite file that can only be read is enough.

    Raises:
        TrackingError: if the store does not answer, or the URI is not that of a store.
    """
    shown = without_password(uri)
    path = sqlite_path(uri)
    try:
        parts = urllib.parse.urlsplit(uri)
    except ValueError as error:  # such as http://[
        raise TrackingError(
            f"{shown} is not the address of an MLflow store ({without_secrets(str(error), uri)})",
            remedy=ADDRESSES,
            code="store-address",
        ) from None
    if path is not None:
        check_sqlite(path, writes)
    elif parts.scheme in ("http", "https"):
        _check_server(uri)
    elif re.fullmatch(HOST_AND_PORT, uri):
        raise TrackingError(
            f"{shown} is no address of an MLflow server, because it does not begin with http:// or https://",
            remedy=f"use --tracking-uri http://{shown}",
            code="store-address",
        )
    elif parts.scheme == "file" or ("://" not in uri and uri != "databricks"):
        raise TrackingError(
            f"{shown} is a folder, and MLflow no longer writes to folders",
            remedy=f"use --tracking-uri sqlite:///{parts.path}/mlflow.db",
            code="store-address",
        )
    elif is_database(uri):
        check_database(uri)
    elif uri != "databricks" and parts.scheme not in OTHER_STORES | _plugins():
        raise TrackingError(
            f"{shown} is not the address of an MLflow store",
            remedy=ADDRESSES,
            code="store-address",
        )


def _plugins() -> set[str]:
    """Return the URI schemes of stores that installed packages add to MLflow."""
    return {found.name for found in metadata.entry_points(group=PLUGINS)}


def check_existing(uri: str, writes: bool = False) -> None:
    """Check a store as `check_store` does, and, for a SQLite store, also that its file exists.

    Commands that need a store with runs call this first, because MLflow would create a missing file.

    Args:
        uri: the store.
        writes: whether the caller writes to the store.

    Raises:
        TrackingError: as `check_store` does, or if the SQLite file does not exist.
    """
    path = sqlite_path(uri)
    if path is not None:
        check_sqlite_name(path)
    if path is not None and path.parent.is_dir() and not path.exists():
        raise TrackingError(
            f"there is no MLflow store {path}",
            remedy="record a run first (glowctl demo does), or choose another store with --tracking-uri",
            code="store-missing",
        )
    check_store(uri, writes)


def client_of(uri: str) -> MlflowClient:
    """Return an MLflow client of this store, and create the database first if it does not exist.

    MLflow's global tracking URI stays as it is: setting it would put the URI, and any password in it, into the
    environment of this process.

    Raises:
        TrackingError: if the database cannot be created.
    """
    with sentences(uri):
        _make_store(uri)
        return _client(uri)


def _client(uri: str) -> MlflowClient:
    load_mlflow()
    import mlflow

    return mlflow.MlflowClient(uri)


def _make_store(uri: str) -> None:
    """Create the database if it is missing. MLflow alone would not keep two processes from doing so at once."""
    path = sqlite_path(uri)
    if path is not None and is_missing(path):
        with prepared(uri):
            pass
    elif is_database(uri) and uri not in _opened:
        with prepared(uri):
            _client(uri)  # which creates the tables, or finds them
        _opened.add(uri)


def _check_server(uri: str) -> None:
    """Check within seconds that an MLflow server answers.

    The first request has no credentials, because most servers need none and the import of MLflow takes a second.
    """
    import requests

    refused = ""
    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=PROBE_TIMEOUT_S)
        if answer.ok:
            return
        refused = f"answers with HTTP status {answer.status_code}"
    except requests.exceptions.SSLError:
        refused = "has a certificate that is not accepted"
    except requests.RequestException as error:
        raise TrackingError(
            f"the MLflow server at {without_password(uri)} does not answer ({type(error).__name__})",
            remedy="start it, or correct --tracking-uri",
            code="store-unreachable",
        ) from None
    try:
        _client(uri).search_experiments(max_results=1)  # with the credentials and the certificates of the user
    except Exception as error:
        first = without_secrets(str(error).partition("\n")[0], uri)
        raise TrackingError(
            f"the MLflow server at {without_password(uri)} {refused} ({first})",
            remedy="check the address, the server's option --allowed-hosts, and MLFLOW_TRACKING_TOKEN, or "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_SERVER_CERT_PATH",
            code="store-refuses",
        ) from None


@contextmanager
def sentences(uri: str) -> Iterator[None]:
    """Turn every error of the `with` block into a TrackingError that is one sentence without passwords.

    Such errors come from MLflow, SQLAlchemy, requests, the client of a bucket, and the disk. A TrackingError is raised
    again unchanged.

    Raises:
        TrackingError: with code "disk-full" or "store-failed".
    """
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        if FULL in str(error):
            raise TrackingError(
                f"the disk of the MLflow store {without_password(uri)} is full",
                remedy="free some space",
                code="disk-full",
            ) from error
        first = without_secrets((str(error).strip() or type(error).__name__).splitlines()[0], uri)
        raise TrackingError(
            f"the MLflow store {without_password(uri)} failed ({first})",
            remedy="check the store, or choose another with --tracking-uri",
            code="store-failed",
        ) from error


@contextmanager
def if_known() -> Iterator[None]:
    """Skip the rest of the `with` block, without an error, if the store lacks what the block asks for.

    Raises:
        MlflowException: if the store fails in another way, with a code that is not in `UNKNOWN`.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in UNKNOWN:
            raise


def open_store(uri: str, experiment: str, look: bool = True) -> tuple[MlflowClient, str]:
    """Check a store, create it and the experiment if they are missing, and mark runs whose driver has died.

    Args:
        uri: the store.
        experiment: name of the experiment.
        look: whether to look for runs that are RUNNING although their driver has died, and mark them FAILED.

    Returns:
        An MLflow client and the id of the experiment.

    Raises:
        TrackingError: if the store cannot be used, or the experiment was deleted.
    """
    check_store(uri)
    with sentences(uri), prepared(uri):
        client = _client(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return client, _make_experiment(client, uri, experiment)
    return client, _checked(client, uri, found, look)


def look_into(uri: str, experiment: str) -> tuple[MlflowClient | None, str | None]:
    """Check a store, and mark runs of the experiment whose driver has died. Nothing is created.

    Returns:
        An MLflow client, and the id of the experiment. The client is None if the store does not exist, because MLflow
        would create the store. The id is None if the experiment does not exist.

    Raises:
        TrackingError: if the store cannot be used, or the experiment was deleted.
    """
    check_store(uri)
    path = sqlite_path(uri)
    if path is not None and is_missing(path):
        return None, None
    client = client_of(uri)
    with sentences(uri):
        found = client.get_experiment_by_name(experiment)
    return client, None if found is None else _checked(client, uri, found, look=True)


def _checked(client: MlflowClient, uri: str, found: Experiment, look: bool) -> str:
    """Check an experiment, mark the dead runs in it if `look` is true, and return its id."""
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the experiment {found.name!r} was deleted",
            remedy=f"restore it with mlflow experiments restore -x {found.experiment_id}, or choose another "
            "--experiment",
            code="experiment-deleted",
        )
    check_artifact_location(uri, found.name, found.artifact_location)
    if look:
        mark_dead(client, found.experiment_id)
    return str(found.experiment_id)


def _make_experiment(client: MlflowClient, uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    # The UI opens experiments of this kind in its view for models. Its default is the view for language models.
    tags = {tag_names.EXPERIMENT_KIND: "custom_model_development", tag_names.NOTE: ABOUT}
    try:
        made: str = client.create_experiment(name, artifact_location=artifact_location(uri), tags=tags)
    except MlflowException:
        found = client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage == "deleted":
            raise
        return str(found.experiment_id)  # another process has created it since
    return made


def open_command(uri: str) -> str:
    """Return the command that opens this store in the MLflow UI, without a password and quoted for a shell.

    The command has no --tracking-uri if this store is the default of this process. In a Ray job it always has one,
    because the default on the user's machine may differ.
    """
    default = uri == tracking_uri() and not in_ray_job()  # the default of a Ray job is not that of the user
    return "glowctl ui" if default else f"glowctl ui --tracking-uri {shlex.quote(without_password(uri))}"


def server_command(uri: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Return the command that serves the MLflow UI of this store on 127.0.0.1, and variables for its environment.

    The URI is passed in the environment, because a password in it would be visible in the list of processes.

    Raises:
        TrackingError: if the database does not exist and cannot be created.
    """
    with sentences(uri):
        _make_store(uri)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # MLflow would start eight more processes, which are not used
    }
    location = artifact_location(uri)
    if location is not None:
        environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = location
    return command, environment
