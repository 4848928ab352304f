"""Which process drives a run, and whether it still does.

`jobs.tracking.watch` marks the runs of a driver that dies, unless it dies with it. So a run says who drives it, in the
tag `glow.driver`, and a run that `Record.running` is at is told to live every half minute, in `glow.alive`. Whoever
opens the store next looks for RUNNING runs whose driver is no more. A run without these tags is somebody else's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jobs.system.process_identity import has_ended, is_of_this_machine, this_process
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
    "beating",
    "ending",
    "forget_death",
    "fresh",
    "mark_dead",
    "taken_for_dead",
]

log = logging.getLogger(__name__)

DRIVER = tag_names.DRIVER
ALIVE = tag_names.ALIVE
ERROR = tag_names.ERROR
PARENT = tag_names.PARENT

BEAT_S = 30.0
DEAD_AFTER_S = 300.0  # longer than a driver waits for a store that is away at its end (jobs.tracking.record)

GONE = "the process that drove the run died (kill -9, or memory was short)"
SILENT = "nothing was heard for minutes of the process that drove the run, on another machine or before a reboot"

FAILED = "attributes.status = 'FAILED'"
RUNNING_OF_OURS = f"attributes.status = 'RUNNING' and tags.`{DRIVER}` LIKE '%'"

ending = threading.Lock()
"""Held while this process writes how a run ends: a beat must not set a trial running again that ends just now."""


def fresh() -> dict[str, str]:
    """The tags of a run that this process begins to drive now."""
    return {DRIVER: this_process(), ALIVE: _now()}


def _now() -> str:
    return str(int(time.time()))


@contextmanager
def beating(client: MlflowClient, run_id: str) -> Iterator[None]:
    """Tells meanwhile that the run is alive, and corrects who thought otherwise. A thread, since a process would need
    an MLflow of its own (100 MB). What fails is tried again at the next beat."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT_S):
            with unheeded(log, f"run {run_id} was not told to live; the next beat tries again"):
                client.set_tag(run_id, ALIVE, _now())
                if not stop.is_set():
                    _revive_all(client, run_id)

    thread = threading.Thread(target=beat, name="glow-alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(1.0)  # it may be waiting for a store that is away


def _revive_all(client: MlflowClient, run_id: str) -> None:
    """Sets the run, and those beneath it that this process drives too, running again where they were taken for dead:
    the store was away, this machine asleep, or the clock of who looked is ahead. That may concern a trial alone."""
    run = client.get_run(run_id)
    _revive(client, run)
    beneath = f"{FAILED} and tags.`{PARENT}` = '{run_id}'"
    for below in list(every_run(client, [run.info.experiment_id], beneath)):  # before any leaves the pages
        _revive(client, below)


def _revive(client: MlflowClient, seen: Run) -> None:
    run_id = seen.info.run_id
    if taken_for_dead(seen) and seen.data.tags.get(DRIVER) == this_process():
        with ending:
            run = client.get_run(run_id)
            if taken_for_dead(run):  # and has not ended since it was seen
                client.update_run(run_id, status="RUNNING")
                forget_death(client, run)  # last: what says that the status is wrong


def taken_for_dead(run: Run) -> bool:
    """Whether a run is FAILED because `mark_dead` or the watcher say so."""
    return run.info.status == "FAILED" and _is_said_dead(run)


def _is_said_dead(run: Run) -> bool:
    return run.data.tags.get(ERROR) in (GONE, SILENT)


def forget_death(client: MlflowClient, run: Run) -> bool:
    """Removes what `mark_dead` or the watcher said of a run; whether they had."""
    said = _is_said_dead(run)
    if said:
        client.delete_tag(run.info.run_id, ERROR)
    return said


def mark_dead(client: MlflowClient, *experiment_ids: str) -> None:
    """Marks those runs of the experiments FAILED that are RUNNING and whose driver is no more.

    One on this machine is looked up; one elsewhere is dead if nothing was heard of it for `DEAD_AFTER_S`. It is no
    error if the store takes no marks: whoever may only read it can do so.
    """
    with unheeded(log, "runs whose driver is gone are not marked"):
        running = {run.info.run_id: run for run in every_run(client, experiment_ids, RUNNING_OF_OURS)}
        for run in running.values():
            heard = _last_heard(client, run, running)
            reason = _why_dead(run.data.tags[DRIVER], heard)
            if reason is not None:
                _mark(client, run, reason, heard)


def _last_heard(client: MlflowClient, run: Run, known: dict[str, Run]) -> float:
    """When the run was last told to live, in seconds. A trial is with the ablation that is driven by the same process;
    an evaluation, which is beneath the training of its model, is not."""
    times = [run.info.start_time / 1000, float(run.data.tags.get(ALIVE, 0))]
    above = run.data.tags.get(PARENT)
    if above is not None:
        if above not in known:
            with unheeded(log, f"run {above} cannot be read"):  # it was deleted
                known = {above: client.get_run(above)}
        tags = known[above].data.tags if above in known else {}
        if tags.get(DRIVER) == run.data.tags[DRIVER]:
            times.append(float(tags.get(ALIVE, 0)))
    return max(times)


def _why_dead(who: str, heard: float) -> str | None:
    if is_of_this_machine(who):
        return GONE if has_ended(who) else None
    return SILENT if time.time() - heard > DEAD_AFTER_S else None


def _mark(client: MlflowClient, seen: Run, reason: str, heard: float) -> None:
    """Marks the run FAILED unless it has changed since it was seen: it may have ended, or be driven again."""
    run_id = seen.info.run_id
    run = client.get_run(run_id)
    if run.info.status != "RUNNING" or any(
        run.data.tags.get(tag) != seen.data.tags.get(tag) for tag in (DRIVER, ALIVE)
    ):
        return
    client.set_tag(run_id, ERROR, reason)
    client.set_terminated(run_id, "FAILED", end_time=int(heard * 1000))
    after = client.get_run(run_id)
    if after.data.tags.get(DRIVER) != seen.data.tags[DRIVER] and forget_death(client, after):  # just now
        client.update_run(run_id, status="RUNNING")
