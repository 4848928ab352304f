"""How a run that was killed gets its final status.

The driver is the process that writes a run, and it writes the run's end itself (`Record.running`). A driver that is
killed cannot. Two tags of each run therefore tell whether its driver lives: `glow.driver` identifies the process, and
`glow.alive` is a heartbeat. `mark_dead` sets runs to FAILED whose driver is dead. It is called

- by the helper process that ends the embedded Ray of the driver, within seconds (`glowctl.ray_runtime.embedded`);
- by the next command that opens the store, if there was no such helper, or it died too.

A driver on this machine is dead if its process has ended; any other is dead if it was silent for `DEAD_AFTER_S`. Such a
driver may live, for instance if its machine slept. The status that it writes at its end then replaces the mark. Runs
without these tags belong to other tools and are never changed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from glowctl.system.process_identity import has_ended, is_of_this_machine, this_process
from glowctl.system.verbosity import unheeded
from glowctl.tracking.on_end import tell_end
from glowctl.tracking.pages import every_run
from glowctl.tracking.tag_names import ALIVE, DRIVER, ERROR, PLACE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

BEAT_S = 30.0
"""Seconds between two heartbeats."""

DEAD_AFTER_S = 300.0
"""Seconds without a heartbeat after which a driver elsewhere counts as dead.

Longer than a driver waits, at its end, for a store that does not answer (`glowctl.tracking.record.PATIENCE_S`).
"""

# These are stored in runs and compared with what is stored.
GONE = "the process that drove the run ended and could not write why (kill -9, no memory, or the store's disk is full)"
SILENT = "nothing was heard for minutes of the process that drove the run, on another machine or before a reboot"

LOG_FILES = ("log.first.txt", "log.earlier.txt", "log.txt")
"""The files of a run's log, with the oldest lines first (`glowctl.run_log`)."""

RUNNING_OF_OURS = f"attributes.status = 'RUNNING' and tags.`{DRIVER}` LIKE '%'"


def signs_of_life() -> dict[str, str]:
    """Return the tags by which this process becomes a run's driver: its identity, and a heartbeat of now."""
    return {DRIVER: this_process(), ALIVE: _now()}


def _now() -> str:
    return str(int(time.time()))


@contextmanager
def beating(client: MlflowClient, run_id: str, beside: Callable[[], None]) -> Iterator[None]:
    """Renew the run's heartbeat during the `with` block, in a thread, and call `beside` each time.

    An error is logged, and the next heartbeat follows.
    """
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT_S):
            with unheeded(log, f"the heartbeat of run {run_id} failed; the next one tries again"):
                client.set_tag(run_id, ALIVE, _now())
                beside()

    thread = threading.Thread(target=beat, name="glow-alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(1.0)  # no longer: it may be waiting for a store that does not answer


def mark_dead(client: MlflowClient, *experiment_ids: str) -> None:
    """Set RUNNING runs of the experiments to FAILED if their driver is dead.

    A driver that wrote why a run failed, but then died before it wrote the status, keeps its reason. Errors are logged
    but not raised, so that users without permission to write can still read the store.
    """
    with unheeded(log, "cannot mark runs whose driver has died"):
        running = list(every_run(client, experiment_ids, RUNNING_OF_OURS))
        heard: dict[str, float] = {}  # an ablation drives its trials too, so that its heartbeat counts for them
        for run in running:
            driver = run.data.tags[DRIVER]
            signs = run.info.start_time / 1000, float(run.data.tags.get(ALIVE, 0)), heard.get(driver, 0.0)
            heard[driver] = max(signs)
        for run in running:
            driver = run.data.tags[DRIVER]
            reason = _why_dead(driver, heard[driver])
            if reason is None:
                continue
            if ERROR not in run.data.tags:
                client.set_tag(run.info.run_id, ERROR, reason)
            client.set_terminated(run.info.run_id, "FAILED", end_time=int(heard[driver] * 1000))
            _keep_log(client, run)
            tell_end(client, run.info.run_id)


def _keep_log(client: MlflowClient, run: Run) -> None:
    """Copy the log of a run to MLflow, if the run has one and this machine reads its folder."""
    for name in LOG_FILES if PLACE in run.data.tags else ():
        path = Path(run.data.tags[PLACE], name)
        if path.exists():
            client.log_artifact(run.info.run_id, str(path))


def _why_dead(driver: str, heard: float) -> str | None:
    if is_of_this_machine(driver):
        return GONE if has_ended(driver) else None
    return SILENT if time.time() - heard > DEAD_AFTER_S else None


def is_marked(run: Run) -> bool:
    """Return whether `mark_dead` wrote the error of a run."""
    return run.data.tags.get(ERROR) in (GONE, SILENT)
