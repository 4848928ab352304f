"""Runs whose driver has died: how the next process that opens the store recognises and marks them.

`jobs.tracking.watch`, a helper process, marks the runs of a driver that dies. If the helper dies too, as in a power
cut, or gives up because the store fails, the next process that opens the store writes the ends that drivers have left
(`jobs.tracking.left_ends`), and marks the other runs by the signs of life in `jobs.tracking.liveness`.

- A driver on this machine is dead if its process has ended.
- A driver on another machine is dead if its heartbeat is older than `DEAD_AFTER_S`.

Runs without these signs belong to other tools and are never changed.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from jobs.system.process_identity import has_ended, is_of_this_machine
from jobs.system.verbosity import unheeded
from jobs.tracking.left_ends import write_left_ends
from jobs.tracking.liveness import ALIVE, DRIVER, ERROR, PARENT, SILENT, UNTOLD, forget_death
from jobs.tracking.pages import every_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["mark_dead"]

log = logging.getLogger(__name__)

DEAD_AFTER_S = 300.0
"""Seconds without a heartbeat after which a driver elsewhere counts as dead.

Longer than a driver waits, at its end, for a store that does not answer (`jobs.tracking.record.PATIENCE_S`).
"""

RUNNING_OF_OURS = f"attributes.status = 'RUNNING' and tags.`{DRIVER}` LIKE '%'"


def mark_dead(client: MlflowClient, *experiment_ids: str) -> None:
    """Mark RUNNING runs of the experiments as FAILED if their driver has died and has not left how they ended.

    Errors are logged but not raised, so that users without permission to write can still read the store.
    """
    with unheeded(log, "cannot mark runs whose driver has died"):
        write_left_ends(client)
        running = {run.info.run_id: run for run in every_run(client, experiment_ids, RUNNING_OF_OURS)}
        for run in running.values():
            heard = _last_heard(client, run, running)
            reason = _why_dead(run.data.tags[DRIVER], heard)
            if reason is not None:
                _mark(client, run, reason, heard)


def _last_heard(client: MlflowClient, run: Run, known: dict[str, Run]) -> float:
    """Return the time of the run's last sign of life, in seconds since 1970.

    That is its start, its own heartbeat, or the heartbeat of its parent if one process drives both. The heartbeat of an
    ablation therefore counts for its trials, but that of a training does not count for evaluations of its model.
    """
    times = [run.info.start_time / 1000, float(run.data.tags.get(ALIVE, 0))]
    above = run.data.tags.get(PARENT)
    if above is not None:
        if above not in known:
            with unheeded(log, f"cannot read run {above}"):  # it may have been deleted
                known = {above: client.get_run(above)}
        tags = known[above].data.tags if above in known else {}
        if tags.get(DRIVER) == run.data.tags[DRIVER]:
            times.append(float(tags.get(ALIVE, 0)))
    return max(times)


def _why_dead(who: str, heard: float) -> str | None:
    if is_of_this_machine(who):
        return UNTOLD if has_ended(who) else None
    return SILENT if time.time() - heard > DEAD_AFTER_S else None


def _mark(client: MlflowClient, seen: Run, reason: str, heard: float) -> None:
    """Mark the run FAILED, unless it has ended or has been taken over by a driver since `seen` was read."""
    run_id = seen.info.run_id
    run = client.get_run(run_id)
    if run.info.status != "RUNNING" or any(
        run.data.tags.get(tag) != seen.data.tags.get(tag) for tag in (DRIVER, ALIVE)
    ):
        return
    if ERROR not in run.data.tags:  # else the driver wrote why it failed, but then could not write the status
        client.set_tag(run_id, ERROR, reason)
    client.set_terminated(run_id, "FAILED", end_time=int(heard * 1000))
    after = client.get_run(run_id)
    if after.data.tags.get(DRIVER) != seen.data.tags[DRIVER] and forget_death(client, after):
        # A new driver took the run over between the two reads.
        client.update_run(run_id, status="RUNNING")
