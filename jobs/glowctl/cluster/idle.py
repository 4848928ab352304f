"""The end of a head that has had no job for long: `python -m glowctl.cluster.idle`, which deploy/head.sh starts.

A head that is forgotten costs money every hour. When no job has run or waited for $GLOW_IDLE_DOWN, this program copies
MLflow's database to the storage and executes $GLOW_SHUTDOWN. With the argument ``restore``, it copies the database back
to a head that has none.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from glowctl.cluster.client import Cluster
from glowctl.errors import JobError
from glowctl.outputs import open_storage
from glowctl.system.environment import storage
from glowctl.text import seconds_in

DASHBOARD = "http://127.0.0.1:8265"
"""Address of the cluster's dashboard on the head."""

DATABASE = Path("~/glow/mlflow.db")
"""MLflow's database on the head."""

STARTED = Path("~/glow/idle.pid")
"""File with the id of this process, written when it starts."""

SHUTDOWN = "sudo shutdown -h now"
"""The command that ends the head, unless $GLOW_SHUTDOWN is another."""


def limit() -> float | None:
    """Return the seconds after which the head ends, from $GLOW_IDLE_DOWN; None if it never does.

    Raises:
        JobError: if the variable is not a time such as 4h.
    """
    given = os.environ.get("GLOW_IDLE_DOWN", "")
    if not given:
        return None
    try:
        if not (seconds := seconds_in(given)):
            raise ValueError(f"must be above 0, not {given!r}")
        return seconds
    except ValueError as error:
        raise JobError(
            f"the variable GLOW_IDLE_DOWN of the cluster {error}",
            remedy="correct it on the head of the cluster",
            code="idle-down",
        ) from None


def seconds_left(cluster: Cluster, started: float) -> float | None:
    """Return the seconds until the head ends if no job comes; None if a job runs or waits, or the head never ends.

    Args:
        cluster: the cluster of the head.
        started: when the head started, in seconds since 1970.
    """
    after = limit()
    since = cluster.idle_since()
    return None if after is None or since is None else max(since, started) + after - time.time()


def seconds_left_here() -> float | None:
    """Return `seconds_left` of the cluster whose head is this machine; None if no process of this program runs."""
    file = STARTED.expanduser()
    return seconds_left(Cluster(DASHBOARD), file.stat().st_mtime) if file.exists() else None


def watch() -> None:
    """Wait until the head has been idle for long enough, save the database, and end the head."""
    after, started = limit(), time.time()
    if after is None:
        return
    STARTED.expanduser().write_text(str(os.getpid()))
    cluster: Cluster | None = None
    while True:
        time.sleep(min(60.0, after / 10))
        try:
            cluster = cluster or Cluster(DASHBOARD)
            if not _is_over(cluster, started):
                continue
            save()
            if _is_over(cluster, started):  # no job has come in the meantime
                print(f"the head has had no job for {after:.0f} s, and ends", flush=True)
                subprocess.run(os.environ.get("GLOW_SHUTDOWN") or SHUTDOWN, shell=True, check=True)
                return
        except (JobError, OSError, ValueError, sqlite3.Error, subprocess.CalledProcessError) as error:
            print(f"the next look tries again ({error})", flush=True)


def _is_over(cluster: Cluster, started: float) -> bool:
    left = seconds_left(cluster, started)
    return left is not None and left <= 0


def save() -> None:
    """Copy MLflow's database, which a server may be writing, to the storage.

    Raises:
        OSError, ValueError: if the storage cannot be written.
    """
    source = DATABASE.expanduser()
    if not source.exists():  # it is on a database server
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, DATABASE.name)
        with sqlite3.connect(source) as live, sqlite3.connect(copy) as kept:
            live.backup(kept)
        files, place = open_storage(_kept())
        with files.open_output_stream(f"{place}.part") as stream:
            stream.write(copy.read_bytes())
        files.move(f"{place}.part", place)


def restore() -> None:
    """Copy the database that `save` has kept to this head, unless it has one.

    Raises:
        OSError, ValueError: if the storage cannot be read.
    """
    target = DATABASE.expanduser()
    if target.exists():
        return
    files, place = open_storage(_kept())
    try:
        with files.open_input_stream(place) as stream:
            content = stream.read()
    except FileNotFoundError:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    part.write_bytes(content)
    part.replace(target)
    print(f"restored MLflow's database from {_kept()}", flush=True)


def _kept() -> str:
    """Return the place of the kept database in the storage."""
    return f"{str(storage()).rstrip('/')}/mlflow.db"


if __name__ == "__main__":
    restore() if sys.argv[1:] == ["restore"] else watch()
