"""The folder for the temporary files of a command and of all processes that it starts.

A command removes its folder at its end. If a command is killed, the helper process of its embedded Ray removes the
folder (`glowctl.ray_runtime.embedded`), or else the next command does.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from glowctl.errors import JobError
from glowctl.system.process_identity import has_ended, is_of_this_machine, this_process

PREFIX = "glow-"
"""How the name of such a folder begins."""

SCRATCH_NAME_LENGTH = len(f"/{PREFIX}12345678")
"""Number of characters that the name of such a folder adds to a path; tempfile appends eight to the prefix."""

OWNER = ".owner"
"""Name of the file in it with the identity of the process that it belongs to."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder for the temporary files of this process and of those that it starts; remove it after the block.

    Raises:
        JobError: if no temporary folder can be written.
    """
    try:
        place = tempfile.gettempdir()
        remove_abandoned(place)
        folder = make_scratch_folder(place)
    except OSError as error:
        raise JobError(
            f"no temporary file can be written ({error.strerror})",
            remedy="free some space, or set the variable TMPDIR to another folder",
            code="no-temporary-folder",
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
    """Make a folder in `place`, with a file in it that identifies this process as its owner.

    Raises:
        OSError: if the folder or the file cannot be made.
    """
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    (folder / OWNER).write_text(this_process())
    return folder


def free_megabytes(place: str) -> float:
    """Return the free megabytes (10^6 bytes) of the disk that a folder is on."""
    return shutil.disk_usage(place).free / 1e6


def remove_abandoned(place: str) -> None:
    """Remove the scratch folders in `place` whose owners were processes of this machine and have ended."""
    for owner in Path(place).glob(f"{PREFIX}*/{OWNER}"):
        with suppress(OSError, ValueError):  # it is being removed by another process, or belongs to another user
            identity = owner.read_text()
            if is_of_this_machine(identity) and has_ended(identity):
                shutil.rmtree(owner.parent, ignore_errors=True)
