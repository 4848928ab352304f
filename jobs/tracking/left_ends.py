"""How runs ended whose drivers could not write it: in MLflow, and in notes on this machine until MLflow takes it.

The watcher of a run (`jobs.tracking.watch`) writes what the driver has left. A store can fail for longer than the
watcher waits, for instance because its disk is full. The watcher therefore keeps a note in a folder of the user, and
the next process of this user on this machine that opens the store writes what the note says (`write_left_ends`).

A note takes its room on the disk when the run begins, because a full disk takes no new file. It is removed when MLflow
has the end of the run.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.system.process_identity import has_ended, is_of_this_machine
from jobs.system.verbosity import unheeded
from jobs.tracking.liveness import DRIVER, ERROR, GONE, forget_death, taken_for_dead
from jobs.tracking.pages import every_run
from jobs.tracking.tag_names import PARENT

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["LeftEnd", "Note", "write_left_ends"]

log = logging.getLogger(__name__)

ROOM = 24 * 1024
"""Size of a note in bytes: room for 5,000 characters of an error, each of up to four bytes, and for the rest."""

FORGOTTEN_AFTER_S = 90 * 24 * 3600.0
"""Age at which a note is removed although no store has the run. The run, or the whole store, was deleted."""


@dataclass(frozen=True)
class LeftEnd:
    """How a run ended, as its driver left it.

    Attributes:
        run_id: id of the run.
        driver: identity of the process that drove the run.
        status: the final status of the run; None if the driver died before it could leave one.
        error: why the run failed; None if it did not fail, or if the driver died.
    """

    run_id: str
    driver: str
    status: str | None = None
    error: str | None = None

    def write(self, client: MlflowClient) -> None:
        """End the run in MLflow, and the runs directly nested under it, if the driver has left them RUNNING.

        - If the driver died, they all become FAILED. A reason that the driver has already recorded is kept.
        - If the driver left a final status, the run gets this status. The nested runs get it too, but become KILLED if
          it is FINISHED, because a nested run that is still RUNNING when its parent has finished was cut off. Runs that
          another process has marked FAILED, because it took the driver for dead, are corrected too.
        """
        experiment = client.get_run(self.run_id).info.experiment_id
        nested = every_run(client, [experiment], f"tags.`{PARENT}` = '{self.run_id}'")
        for run in (*nested, client.get_run(self.run_id)):
            if self._is_left(run):
                self._end(client, run)

    def _is_left(self, run: Run) -> bool:
        """Return whether the run still has the state in which the driver left it.

        It has not if another process drives it now. It has if another command has marked it dead although the driver
        left a status, which that command could not see.
        """
        known_better = self.status is not None and taken_for_dead(run)
        return run.data.tags.get(DRIVER) == self.driver and (run.info.status == "RUNNING" or known_better)

    def _end(self, client: MlflowClient, run: Run) -> None:
        run_id = run.info.run_id
        if self.status is None:
            if ERROR not in run.data.tags:  # else the driver died after it had written why it failed
                client.set_tag(run_id, ERROR, GONE)
            client.set_terminated(run_id, "FAILED")
            return
        caused = self.error is not None and run_id == self.run_id
        if caused:  # first, because the next try leaves a run alone whose status is final
            client.set_tag(run_id, ERROR, self.error)
        cut_off = self.status == "FINISHED" and run_id != self.run_id
        client.set_terminated(run_id, "KILLED" if cut_off else self.status)
        if not caused:
            forget_death(client, run)  # last: until then the tag shows that the status needs correction


@dataclass(frozen=True)
class Note:
    """A file with the end of a run that MLflow lacks, or with room for it while the run goes on.

    Attributes:
        path: the file, with the id of the run as its name.
    """

    path: Path

    @classmethod
    @contextmanager
    def reserved(cls, run_id: str, driver: str) -> Iterator[Note]:
        """Take room for the end of a run; remove the note after the block, unless the block raises an error."""
        note = cls(_folder() / f"{run_id}.json")
        note._write({"driver": driver})
        yield note
        note.remove()

    def keep(self, left: LeftEnd) -> None:
        """Write the end of the run into the note."""
        self._write(asdict(left))

    def read(self) -> LeftEnd | None:
        """Return the end of the run; None if the run goes on, or if its driver and its watcher were killed.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if it is damaged.
        """
        told = json.loads(self.path.read_text("utf-8"))
        return LeftEnd(**told) if "run_id" in told else None

    def remove(self) -> None:
        """Remove the file."""
        with unheeded(log, f"cannot remove the note {self.path}", OSError):
            self.path.unlink(missing_ok=True)

    def is_abandoned(self) -> bool:
        """Return whether nobody needs the note: it is old, or has no end although the driver of the run has ended."""
        driver = json.loads(self.path.read_text("utf-8"))["driver"]
        ended = self.read() is None and is_of_this_machine(driver) and has_ended(driver)
        return ended or time.time() - self.path.stat().st_mtime > FORGOTTEN_AFTER_S

    def _write(self, content: dict[str, str | None]) -> None:
        """Replace the content, without changing the size, so that this succeeds on a full disk too."""
        text = json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")
        with unheeded(log, f"cannot write the note {self.path}", OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
            with os.fdopen(file, "wb") as out:
                out.write(text.ljust(ROOM))
                out.flush()
                os.fsync(file)


def write_left_ends(client: MlflowClient) -> None:
    """Write into the store the ends of its runs for which there are notes, and remove these notes.

    A note of a run that the store does not have is left to the next process that opens another store. Errors are
    logged but not raised; the next process tries again.
    """
    for path in _folder().glob("*.json"):
        note = Note(path)
        with unheeded(log, f"cannot do what the note {path} says"):
            if note.is_abandoned():
                note.remove()
            elif (left := note.read()) is not None and _has_run(client, left.run_id):
                left.write(client)
                note.remove()


def _has_run(client: MlflowClient, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def _folder() -> Path:
    """Return the folder of the notes, which the XDG conventions for the state of a program name."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "glow" / "ends"
