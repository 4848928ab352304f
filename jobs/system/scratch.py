"""A folder for the temporary files of a command and of all that it starts, which goes with the command.

A command that is killed cannot remove its folder: the next one does.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jobs.errors import JobError
from jobs.system.process_identity import has_ended, is_of_this_machine, this_process

__all__ = ["free_megabytes", "make_scratch_folder", "remove_abandoned", "scratch_folder"]

PREFIX = "glow-"
OWNER = ".owner"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Makes the folder, and has this process and those that it starts put their temporary files there meanwhile.

    Raises JobError if no folder for temporary files can be written.
    """
    try:
        place = tempfile.gettempdir()
        remove_abandoned(place)
        folder = make_scratch_folder(place)
    except OSError as error:
        raise JobError(
            f"no temporary file can be written ({error.strerror}): free some space, or name another folder by TMPDIR"
        ) from error
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before[1]
        if before[0] is None:
            os.environ.pop("TMPDIR", None)
        else:
            os.environ["TMPDIR"] = before[0]
        shutil.rmtree(folder, ignore_errors=True)


def make_scratch_folder(place: str) -> Path:
    """A new folder that says whose it is. Raises OSError."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    (folder / OWNER).write_text(this_process())
    return folder


def free_megabytes(place: str) -> float:
    """How much room the disk of a folder has."""
    return shutil.disk_usage(place).free / 1e6


def remove_abandoned(place: str) -> None:
    """Removes the folders of commands of this machine that have ended."""
    for owner in Path(place).glob(f"{PREFIX}*/{OWNER}"):
        with suppress(OSError, ValueError):  # it goes just now, or is another user's
            identity = owner.read_text()
            if is_of_this_machine(identity) and has_ended(identity):
                shutil.rmtree(owner.parent, ignore_errors=True)
