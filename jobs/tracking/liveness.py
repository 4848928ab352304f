"""The signs of life of a run's driver, and how a run that was wrongly marked dead is revived.

The driver is the process that writes a run. Each run has two tags: `glow.driver` identifies the process that drives it,
and `glow.alive` is a heartbeat that `Record.running` renews every `BEAT_S` seconds. `jobs.tracking.dead_runs` marks the
runs whose driver gives no sign of life. A mark can be wrong, for instance if the driver's machine slept; then the next
heartbeat sets the run back to RUNNING.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jobs.system.process_identity import this_process
from jobs.system.verbosity import unheeded
from jobs.tracking import tag_names
from jobs.tracking.pages import every_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = [
    "ALIVE",
    "DRIVER",
    "ERROR",
    "GONE",
    "SILENT",
    "UNTOLD",
    "beating",
    "ending",
    "forget_death",
    "fresh",
    "taken_for_dead",
]

log = logging.getLogger(__name__)

DRIVER = tag_names.DRIVER
ALIVE = tag_names.ALIVE
ERROR = tag_names.ERROR
PARENT = tag_names.PARENT

BEAT_S = 30.0
"""Seconds between two heartbeats."""

# These are stored in runs and compared with what is stored: changing a word would orphan the marks in old stores.
GONE = "the process that drove the run died (kill -9, or memory was short)"
UNTOLD = "the process that drove the run ended and could not record how (kill -9, short memory, or a failing store)"
SILENT = "nothing was heard for minutes of the process that drove the run, on another machine or before a reboot"

FAILED = "attributes.status = 'FAILED'"

ending = threading.Lock()
"""Lock held while a final status is written, so that a concurrent heartbeat cannot set the run back to RUNNING."""


def fresh() -> dict[str, str]:
    """Return the tags by which this process becomes a run's driver: its identity, and a heartbeat of now."""
    return {DRIVER: this_process(), ALIVE: _now()}


def _now() -> str:
    return str(int(time.time()))


@contextmanager
def beating(client: MlflowClient, run_id: str) -> Iterator[None]:
    """Renew the run's heartbeat during the `with` block, and revive the run if another process marked it dead.

    A thread renews the heartbeat, and not a process, because a process would import MLflow again, which takes 100 MB.
    An error is logged, and the next heartbeat tries again.
    """
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT_S):
            with unheeded(log, f"the heartbeat of run {run_id} failed; the next one tries again"):
                client.set_tag(run_id, ALIVE, _now())
                if not stop.is_set():
                    _revive_all(client, run_id)

    thread = threading.Thread(target=beat, name="glow-alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(1.0)  # no longer: it may be waiting for a store that does not answer


def _revive_all(client: MlflowClient, run_id: str) -> None:
    """Set the run, and those nested under it that this process drives, back to RUNNING where they were marked dead.

    Reasons for a wrong mark are a store that did not answer, a machine that slept, or a clock that is ahead on the
    machine that marked. A trial can be marked while its ablation is not.
    """
    run = client.get_run(run_id)
    _revive(client, run)
    beneath = f"{FAILED} and tags.`{PARENT}` = '{run_id}'"
    for below in list(every_run(client, [run.info.experiment_id], beneath)):  # a list, as revived runs leave the pages
        _revive(client, below)


def _revive(client: MlflowClient, seen: Run) -> None:
    run_id = seen.info.run_id
    if taken_for_dead(seen) and seen.data.tags.get(DRIVER) == this_process():
        with ending:
            run = client.get_run(run_id)
            if taken_for_dead(run):  # still, as its final status may have been written since `seen`
                client.update_run(run_id, status="RUNNING")
                forget_death(client, run)  # last: until then the tag shows that the status needs correction


def taken_for_dead(run: Run) -> bool:
    """Return whether a run is FAILED because `mark_dead` or the watcher marked it dead."""
    return run.info.status == "FAILED" and _is_said_dead(run)


def _is_said_dead(run: Run) -> bool:
    return run.data.tags.get(ERROR) in (GONE, UNTOLD, SILENT)


def forget_death(client: MlflowClient, run: Run) -> bool:
    """Remove the error tag that `mark_dead` or the watcher wrote. Return whether the run had this tag."""
    said = _is_said_dead(run)
    if said:
        client.delete_tag(run.info.run_id, ERROR)
    return said
