"""Stores that are a database: a SQLite file, or a database server such as PostgreSQL.

Two things are done here that MLflow leaves undone:

- A store is checked before MLflow opens it. MLflow would retry an unreachable database for minutes.
- A SQLite or PostgreSQL store is created by one process at a time, because two that do so at once break it.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sqlite3
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from glowctl.system.environment import in_ray_job, storage
from glowctl.system.verbosity import is_verbose
from glowctl.tracking.uris import TrackingError, sqlite_path, without_password, without_secrets

PROBE_TIMEOUT_S = 3.0
"""Seconds that a server has to accept a connection."""

PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Default port of each kind of database server that MLflow supports."""

LOCK = 0x676C6F77
"""Key of the PostgreSQL advisory lock that is held while tables are created: the letters "glow"."""

PACKAGES = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""Module -> the package to install, where the two names differ."""

MISREAD = r"\?|%[0-9A-Fa-f]{2}"
"""Matches what SQLAlchemy misreads in the path of a SQLite file: ? ends the path, and %25 stands for %."""


def load_mlflow() -> None:
    """Import MLflow with its telemetry, progress bars and long retries turned off for this process.

    Environment variables that are set already are kept.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout may be carrying --json
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Writes are repeated by `Record`, so that no single request should block for minutes. A server may take long to
    # answer a request that carries a file, because it first copies the file to its bucket.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    import mlflow  # noqa: F401

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # MLflow 3.6 sets the level of alembic's loggers anew whenever it opens a database, but keeps their filters.
    logging.getLogger("alembic.runtime.migration").addFilter(_is_warning)
    if not is_verbose():  # this logger prints tracebacks of hundreds of lines, and the exception reaches us anyway
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def is_database(uri: str) -> bool:
    """Return whether the URI is that of a database server. A SQLite file is not one.

    Examples:
        >>> is_database("postgresql+psycopg2://me@host/db"), is_database("sqlite:///mlflow.db")
        (True, False)
    """
    return _kind(uri) in PORTS


def _kind(uri: str) -> str:
    return urllib.parse.urlsplit(uri).scheme.partition("+")[0]


def check_sqlite_name(path: Path) -> None:
    """Check that the URI of a SQLite file at this path would be read back as the same path.

    Raises:
        TrackingError: if the path contains ? or a percent code such as %25.
    """
    if misread := re.search(MISREAD, str(path)):
        raise TrackingError(
            f"{path} cannot be the path of an MLflow store, because {misread[0]} has another meaning in a database "
            "address",
            remedy="rename the folder or the file, or choose another store with --tracking-uri",
            code="store-path",
        )


def check_sqlite(path: Path, writes: bool = True) -> None:
    """Check that a SQLite file can be used as a store: it is a SQLite database, or can be created.

    Args:
        path: the file.
        writes: whether the caller writes to the store; if not, the file exists, and only needs to be readable.

    Raises:
        TrackingError: if the path cannot be written as a URI, its folder does not exist, the file cannot be written
            (or read), the file is not a SQLite database, or another program keeps it locked.
    """
    check_sqlite_name(path)
    if not path.parent.is_dir():
        raise TrackingError(
            f"the MLflow store {path} cannot be opened, because there is no folder {path.parent}",
            remedy=f"create {path.parent}, or correct --tracking-uri",
            code="store-folder-missing",
        )
    if not writes and not os.access(path, os.R_OK):
        raise TrackingError(
            f"the MLflow store {path} cannot be read",
            remedy="choose another store with --tracking-uri",
            code="store-not-readable",
        )
    if writes and not os.access(path if path.exists() else path.parent, os.W_OK):
        raise TrackingError(
            f"the MLflow store {path} cannot be written",
            remedy="choose another store with --tracking-uri",
            code="store-not-writable",
        )
    if path.exists():
        try:
            with sqlite3.connect(path) as connection:
                connection.execute("PRAGMA schema_version")
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:  # extended codes have more bits
                raise TrackingError(
                    f"another program keeps the MLflow store {path} locked",
                    remedy="try again when that program has ended",
                    code="store-locked",
                ) from None
            raise TrackingError(
                f"{path} is not an MLflow store ({error})",
                remedy="choose another store with --tracking-uri",
                code="store-damaged",
            ) from None


def check_database(uri: str) -> None:
    """Check within seconds that a database server answers and lets this user in.

    It connects to the server's port. For PostgreSQL it also logs in; for other databases it does not.

    Raises:
        TrackingError: if the server does not answer or refuses the login, the URI cannot be parsed, or the Python
            package for this database is not installed.
    """
    shown = without_password(uri)
    try:
        parts = urllib.parse.urlsplit(uri)
        if parts.hostname:
            probe = (parts.hostname, parts.port or PORTS[_kind(uri)])
            socket.create_connection(probe, PROBE_TIMEOUT_S).close()
    except OSError as error:
        raise TrackingError(
            f"the database {shown} does not answer ({error})",
            remedy="start it, or correct --tracking-uri",
            code="store-unreachable",
        ) from None
    except ValueError:
        raise TrackingError(
            f"the database address {shown} cannot be parsed",
            remedy="write special characters of the password as percent codes, such as %2F for /",
            code="store-address",
        ) from None
    _check_login(uri, shown)


def _check_login(uri: str, shown: str) -> None:
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(uri)
        url.get_dialect().import_dbapi()
        if url.get_driver_name() in ("psycopg2", "psycopg"):
            timeout = {"connect_timeout": int(PROBE_TIMEOUT_S)}
            sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool, connect_args=timeout).connect().close()
    except ImportError as error:
        package = PACKAGES.get(error.name or "", error.name)
        raise TrackingError(
            f"{shown} needs the Python package {package}",
            remedy=f"install it with pip install {package}",
            code="package-missing",
        ) from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        first = without_secrets(str(error).strip().splitlines()[0], uri)
        raise TrackingError(
            f"the database {shown} refuses the connection ({first})",
            remedy="correct the user, the password or the name of the database in --tracking-uri",
            code="store-login",
        ) from None


def artifact_location(uri: str) -> str | None:
    """Return the URI of the place where a new experiment of this store puts its artifact files.

    Returns:
        - SQLite: the folder mlartifacts next to the file.
        - A database server: $MLFLOW_DEFAULT_ARTIFACT_ROOT, or else mlartifacts in $GLOW_STORAGE, or else mlartifacts
          in the working folder.
        - An MLflow server: None, because the server decides.

        The URI of a folder has its absolute path.

    Raises:
        TrackingError: for a database server, if the place contains a password; also if neither variable is set in a Ray
            job, because Ray deletes the working folder of a job with the job.
    """
    path = sqlite_path(uri)
    if path is not None:
        return (path.parent / "mlartifacts").as_uri()
    if not is_database(uri):
        return None
    under = storage()
    given = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT") or (under and f"{under.rstrip('/')}/mlartifacts")
    if not given and in_ray_job():
        raise TrackingError(
            f"the database {without_password(uri)} cannot hold artifact files, and no place for them is set",
            remedy="set GLOW_STORAGE or MLFLOW_DEFAULT_ARTIFACT_ROOT where the Ray head is started",
            code="artifact-place-missing",
        )
    place = given or "mlartifacts"
    if without_password(place) != place:
        raise TrackingError(
            f"the artifact location {without_password(place)} holds a password, which every run would store and show",
            remedy="leave the password out, and set the variables of the bucket's own client, such as "
            "AWS_SECRET_ACCESS_KEY",
            code="password-in-address",
        )
    return place if "://" in place or place.startswith("file:") else Path(place).expanduser().absolute().as_uri()


def check_artifact_location(uri: str, experiment: str, location: str) -> None:
    """Check, in a Ray job, that this machine has the folder that contains an experiment's artifact files.

    The check applies only if the store is a database server and the files are in a local folder, which may exist only
    on the machine that created the experiment. In all other cases the function does nothing.

    Args:
        uri: the store.
        experiment: name of the experiment, for the message.
        location: URI of the experiment's artifacts, which the store has recorded.

    Raises:
        TrackingError: if this machine does not have the folder. The folder that a new experiment would get
            (`artifact_location`) may be missing.
    """
    folder = urllib.parse.unquote(urllib.parse.urlsplit(location).path)
    if not (in_ray_job() and is_database(uri) and location.startswith("file:")) or Path(folder).is_dir():
        return
    if location != artifact_location(uri):
        raise TrackingError(
            f"the files of experiment {experiment!r} are in {folder}, which this machine does not have",
            remedy="choose another --experiment, or make that folder available on all machines",
            code="artifacts-elsewhere",
        )


@contextmanager
def prepared(uri: str) -> Iterator[None]:
    """Let one process at a time into the `with` block, and create the SQLite file first if it is missing.

    Other processes wait, because two that create a store at once would break it. This holds for SQLite files and
    PostgreSQL only; with other stores, no process waits.
    """
    path = sqlite_path(uri)
    with _without_infos():
        if path is not None:
            with FileLock(f"{path}.lock"):
                if is_missing(path):
                    _make_sqlite(path)
                yield
        elif _kind(uri) == "postgresql":
            with _locked_postgres(uri):
                yield
        else:
            yield


@contextmanager
def _without_infos() -> Iterator[None]:
    """Log nothing below a warning in the block, in which MLflow 3.6 reports each table that it creates."""
    if not is_verbose():
        logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def is_missing(path: Path) -> bool:
    """Return whether the SQLite file is missing or empty: a process killed right after opening it leaves it empty."""
    return not path.exists() or path.stat().st_size == 0


def _make_sqlite(path: Path) -> None:
    """Create the store under another name, then rename it: a process that is killed in between leaves no half store."""
    load_mlflow()
    from mlflow import MlflowClient

    unfinished = Path(f"{path}.unfinished")
    _remove(unfinished)
    MlflowClient(f"sqlite:///{unfinished}").search_experiments(max_results=1)
    _remove(path)  # an empty file of a killed process, and its journals
    unfinished.rename(path)


def _remove(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


@contextmanager
def _locked_postgres(uri: str) -> Iterator[None]:
    """Hold a transaction-level advisory lock, which PostgreSQL releases if this process dies.

    A session-level lock would not survive a connection pooler, which may give each statement another session.
    """
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        yield
