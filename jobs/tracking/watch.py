"""Leaves a run in a true state whose driver was killed: a helper process of `jobs.tracking.record`
(`jobs.system.helper_processes`).

It reads which run from its standard input, which the driver holds open and the kernel closes when the driver dies. The
last line is ``done``, or the end that the driver could not write (a status, and why the run failed) since the store was
away or its disk full; if there is none, the driver has died. Then the run and those beneath it that it drove and that
are RUNNING are marked so, or FAILED. What is RUNNING beneath a run that is FINISHED has not come to an end of its own:
it is KILLED.
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
RETRY_S = 5.0


def main() -> None:
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
                client.set_tag(run.info.run_id, ERROR, GONE)
                client.set_terminated(run.info.run_id, "FAILED")
            else:
                beneath_finished = status == "FINISHED" and run.info.run_id != run_id
                client.set_terminated(run.info.run_id, "KILLED" if beneath_finished else status)
                if error is not None and run.info.run_id == run_id:
                    client.set_tag(run_id, ERROR, error)
                else:
                    forget_death(client, run)  # last: what says that the status is wrong


def _is_left(run: Run, driver: str, status: str | None) -> bool:
    """Whether the driver left the run as it is, and nobody has gone on with it meanwhile. Another command may have
    found that the driver is gone or silent, and not know of its last word."""
    known_better = status is not None and taken_for_dead(run)
    return run.data.tags.get(DRIVER) == driver and (run.info.status == "RUNNING" or known_better)


if __name__ == "__main__":
    main()
