"""The watcher: a helper process that writes how a run ended if the run's driver cannot.

The driver is the process that writes the run. For each run, `jobs.tracking.record` starts a watcher with
`jobs.system.helper_processes`. The watcher reads from its standard input until the input is closed. The kernel closes
it if the driver dies. The input has two lines:

1. the run that is watched, in JSON;
2. ``done`` if the driver has written the final status itself; otherwise, in JSON, the final status and error that the
   driver could not write, for example because the store did not answer or its disk was full. If this line is missing,
   the driver has died.

Unless the second line is ``done``, the watcher ends the run and the runs nested directly under it. It changes only
those that this driver left RUNNING:

- If the driver died, they all become FAILED. A reason that the driver has already recorded is kept.
- If the driver left a final status, the run gets this status. The nested runs get it too, but become KILLED if it is
  FINISHED, because a nested run that is still RUNNING when its parent has finished was cut off. The watcher then also
  corrects runs that another process has marked FAILED because it took the driver for dead.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from jobs.system.helper_processes import last_words
from jobs.system.retry import patient
from jobs.tracking.liveness import DRIVER, ERROR, GONE, forget_death, taken_for_dead
from jobs.tracking.pages import every_run
from jobs.tracking.store import TrackingError, client_of, sentences

if TYPE_CHECKING:
    from mlflow.entities import Run

PATIENCE_S = 300.0
"""Seconds for which the watcher repeats a write while the store does not answer. After that, how the run ended is lost,
and `jobs.tracking.liveness.mark_dead` records that it is not known."""

RETRY_S = 5.0
"""Seconds between two tries."""


def main() -> None:
    """Wait until standard input is closed, then write the final status of the run unless the driver has written it."""
    told, *after = last_words().splitlines() or [""]
    if not told or after == ["done"]:
        return
    end = json.loads(after[0]) if after else {"status": None, "error": None}
    patient(_is_absence, PATIENCE_S, RETRY_S)(_mark, **json.loads(told), **end)


def _is_absence(error: BaseException) -> bool:
    return isinstance(error, TrackingError)


def _mark(uri: str, run_id: str, driver: str, status: str | None, error: str | None) -> None:
    client = client_of(uri)
    with sentences(uri):
        experiment = client.get_run(run_id).info.experiment_id
        beneath = every_run(client, [experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
        for run in (*beneath, client.get_run(run_id)):
            if not _is_left(run, driver, status):
                continue
            if status is None:
                if ERROR not in run.data.tags:  # else the driver died after it had written why it failed
                    client.set_tag(run.info.run_id, ERROR, GONE)
                client.set_terminated(run.info.run_id, "FAILED")
            else:
                beneath_finished = status == "FINISHED" and run.info.run_id != run_id
                client.set_terminated(run.info.run_id, "KILLED" if beneath_finished else status)
                if error is not None and run.info.run_id == run_id:
                    client.set_tag(run_id, ERROR, error)
                else:
                    forget_death(client, run)  # last: until then the tag shows that the status needs correction


def _is_left(run: Run, driver: str, status: str | None) -> bool:
    """Return whether the run still has the state in which the driver left it.

    It has not if another process drives it now. It has if another command has marked it dead although the driver left
    a status, which that command could not see.
    """
    known_better = status is not None and taken_for_dead(run)
    return run.data.tags.get(DRIVER) == driver and (run.info.status == "RUNNING" or known_better)


if __name__ == "__main__":
    main()
