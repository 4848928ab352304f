"""Leaves a run in a true state whose driver was killed: run by `jobs.tracking.record` as a process of its own.

It reads which run from its standard input, which the driver holds open and the kernel closes when the driver dies. The
last line is ``done``, or the status that the driver could not write since the store was away; if there is none, the
driver has died. Then the run and those beneath it that are RUNNING are marked so, or FAILED.
"""

from __future__ import annotations

import json
import signal
import sys
import time

from jobs.tracking.store import TrackingError, client_of, sentences

PATIENCE_S = 300.0
RETRY_S = 5.0
REASON = "the process that drove the run died (kill -9, or memory was short)"


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    told, *after = sys.stdin.read().splitlines() or [""]
    if not told or after == ["done"]:
        return
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            _mark(**json.loads(told), status=after[0] if after else None)
            return
        except TrackingError:
            time.sleep(RETRY_S)


def _mark(uri: str, run_id: str, status: str | None) -> None:
    client = client_of(uri)
    with sentences(uri):
        experiment = client.get_run(run_id).info.experiment_id
        beneath = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'", max_results=1000)
        for run in (*beneath, client.get_run(run_id)):
            if run.info.status == "RUNNING":
                if status is None:
                    client.set_tag(run.info.run_id, "glow.error", REASON)
                client.set_terminated(run.info.run_id, status or "FAILED")


if __name__ == "__main__":
    main()
