"""The watcher: a helper process that writes how a run ended if the run's driver cannot.

The driver is the process that writes the run. For each run, `jobs.tracking.record` starts a watcher with
`jobs.system.helper_processes`. The watcher reads from its standard input until the input is closed. The kernel closes
it if the driver dies. The input has two lines:

1. the run that is watched, in JSON;
2. ``done`` if the driver has written the final status itself; otherwise, in JSON, the final status and error that the
   driver could not write, for example because the store did not answer or its disk was full. If this line is missing,
   the driver has died.

Unless the second line is ``done``, the watcher ends the run as `jobs.tracking.left_ends` says. It first notes the final
status and error in a file, because the store may fail for longer than the watcher waits.
"""

from __future__ import annotations

import json
import sys

from jobs.system.helper_processes import last_words, shield
from jobs.system.retry import patient
from jobs.tracking.left_ends import LeftEnd, Note
from jobs.tracking.store import TrackingError, client_of, sentences

PATIENCE_S = 300.0
"""Seconds for which the watcher repeats a write while the store does not answer. After that, the next process of this
user that opens the store writes how the run ended, which the watcher has noted in a file."""

RETRY_S = 5.0
"""Seconds between two tries."""


def main() -> None:
    """Wait until standard input is closed, then write the final status of the run unless the driver has written it."""
    shield()
    told = sys.stdin.readline()
    if not told:
        return
    uri, run_id, driver = (json.loads(told)[name] for name in ("uri", "run_id", "driver"))
    with Note.reserved(run_id, driver) as note:
        after = last_words()
        if after == "done":
            return
        left = LeftEnd(run_id, driver, **(json.loads(after) if after else {}))
        note.keep(left)
        patient(_is_absence, PATIENCE_S, RETRY_S)(_write, uri, left)


def _write(uri: str, left: LeftEnd) -> None:
    with sentences(uri):
        left.write(client_of(uri))


def _is_absence(error: BaseException) -> bool:
    return isinstance(error, TrackingError)


if __name__ == "__main__":
    main()
