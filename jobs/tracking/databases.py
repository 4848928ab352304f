"""Stores that are a database: a SQLite file or a server. Each is looked at before MLflow does, which would wait for
minutes, and is made by one process at a time, which MLflow does not see to."""

from __future__ import annotations

import logging
import os
import re
import socket
import sqlite3
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from jobs.system.environment import in_ray_job, storage
from jobs.system.verbosity import is_verbose
from jobs.tracking.uris import TrackingError, sqlite_path, without_password, without_secrets

__all__ = [
    "PROBE_TIMEOUT_S",
    "artifact_location",
    "check_artifact_location",
    "check_database",
    "check_sqlite",
    "check_sqlite_name",
    "has_tables",
    "is_database",
    "is_half_made",
    "load_mlflow",
    "prepared",
    "wait_for_maker",
]

PROBE_TIMEOUT_S = 3.0

PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}

LOCK = 0x676C6F77  # "glow", a number of PostgreSQL's advisory locks

PACKAGES = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""Modules whose package has another name."""


MISREAD = r"\?|%[0-9A-Fa-f]{2}"
"""What SQLAlchemy reads in the path of a SQLite file as the end of the path, or as another character."""

_made: set[str] = set()


def load_mlflow() -> None:
    """Imports MLflow, for this process to use as it likes it."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # where --json may be writing
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Whoever records asks a server that is away again (jobs.ray_runtime.event_queue), not one call for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    import mlflow  # noqa: F401

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not is_verbose():  # whose tracebacks of what fails are hundreds of lines; we are told of it by its exception
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def is_database(uri: str) -> bool:
    """Whether the URI is of a database server."""
    return _kind(uri) in PORTS


def _kind(uri: str) -> str:
    return urllib.parse.urlsplit(uri).scheme.partition("+")[0]


def check_sqlite_name(path: Path) -> None:
    """Raises TrackingError for a path that the address of a store would not name."""
    if misread := re.search(MISREAD, str(path)):
        raise TrackingError(
            f"the MLflow store cannot be {path}: in an address, {misread[0]} means something else; rename the folder, "
            "or name another store with --tracking-uri"
        )


def check_sqlite(path: Path) -> None:
    """Raises TrackingError for a file that is no store and cannot become one."""
    check_sqlite_name(path)
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


def check_database(uri: str) -> None:
    """Raises TrackingError within seconds if the database does not answer, or not to this user, or if what Python
    needs to talk to it is not installed."""
    shown = without_password(uri)
    try:
        parts = urllib.parse.urlsplit(uri)
        if parts.hostname:
            probe = (parts.hostname, parts.port or PORTS[_kind(uri)])
            socket.create_connection(probe, PROBE_TIMEOUT_S).close()
    except OSError as error:
        raise TrackingError(f"the database of {shown} does not answer ({error}): correct --tracking-uri") from None
    except ValueError:
        raise TrackingError(
            f"{shown} cannot be read as an address: write what is special in its password as %2F for / and so on"
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
        raise TrackingError(f"{shown} needs the Python package {package}: pip install {package}") from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        first = without_secrets(str(error).strip().splitlines()[0], uri)
        raise TrackingError(f"the database of {shown} lets nobody in ({first}): correct --tracking-uri") from None


def artifact_location(uri: str) -> str | None:
    """Where a new experiment of this store puts its files; None where a server decides that.

    For a database server it is $MLFLOW_DEFAULT_ARTIFACT_ROOT, else a folder under $GLOW_STORAGE or the working folder.
    Raises TrackingError in a job of a cluster, whose working folder goes with it.
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
            f"{without_password(uri)} keeps no files, and nothing says where they go: set GLOW_STORAGE or "
            "MLFLOW_DEFAULT_ARTIFACT_ROOT where the head is started"
        )
    place = given or "mlartifacts"
    if without_password(place) != place:  # every run of the experiment would tell it
        raise TrackingError(
            f"{without_password(place)} holds a password, which every run would tell: leave it out, and set the "
            "variables of the bucket's own client"
        )
    return place if "://" in place or place.startswith("file:") else Path(place).expanduser().absolute().as_uri()


def check_artifact_location(uri: str, experiment: str, location: str) -> None:
    """Raises TrackingError in a job of a cluster for an experiment that was made elsewhere, and has its files there."""
    folder = urllib.parse.unquote(urllib.parse.urlsplit(location).path)
    if not (in_ray_job() and is_database(uri) and location.startswith("file:")) or Path(folder).is_dir():
        return
    if location != artifact_location(uri):
        raise TrackingError(
            f"the files of experiment {experiment!r} are in {folder}, which this machine does not have: choose another "
            "--experiment, or a folder that all share"
        )


@contextmanager
def prepared(uri: str) -> Iterator[None]:
    """One process at a time is within, and the SQLite file is there: two that make one store at once would break it."""
    path = sqlite_path(uri)
    if path is not None:
        with FileLock(f"{path}.lock"):
            if _is_missing(path):
                _make_sqlite(path)
            yield
    elif _kind(uri) == "postgresql":
        with _locked_postgres(uri):
            yield
    else:
        yield


def wait_for_maker(path: Path) -> None:
    """Returns when no other process is making this SQLite file, if one is."""
    lock = Path(f"{path}.lock")
    if _is_missing(path) and lock.exists():
        with suppress(OSError), FileLock(lock):  # of a folder that cannot be written: nobody makes a store there
            pass


def _is_missing(path: Path) -> bool:
    """Whether there is no SQLite file, or an empty one, as whoever opens one leaves it who is then killed."""
    return not path.exists() or path.stat().st_size == 0


def _make_sqlite(path: Path) -> None:
    """Makes it under another name first: a process that is killed meanwhile leaves no half of a store."""
    load_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    unfinished = Path(f"{path}.unfinished")
    _remove(unfinished)
    SqlAlchemyStore(f"sqlite:///{unfinished}", artifact_location(f"sqlite:///{path}")).engine.dispose()
    _remove(path)  # an empty one, with what the killed process may have left beside it
    unfinished.rename(path)


def _remove(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


@contextmanager
def _locked_postgres(uri: str) -> Iterator[None]:
    """By a lock of a transaction: the server ends it with the process, and one that shares out connections keeps it."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        yield


def is_half_made(path: Path) -> bool:
    """Whether a SQLite file that MLflow cannot use holds nothing: a process that made it was killed."""
    with suppress(sqlite3.Error), sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        known = [table for table in ("runs", "registered_models", "trace_info") if table in tables]
        return all(connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,) for table in known)
    return False


def has_tables(uri: str) -> bool:
    """Whether a database has been made; one that has is not asked again."""
    path = sqlite_path(uri)
    if path is not None:
        return not _is_missing(path)
    if uri not in _made:
        import sqlalchemy

        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
        if not sqlalchemy.inspect(engine).has_table("alembic_version"):  # which comes last
            return False
        _made.add(uri)
    return True
