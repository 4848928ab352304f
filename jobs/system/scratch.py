"""The folder for the temporary files of a command and of all processes that it starts.

A command removes its folder at its end. If a command with an embedded Ray is killed, the helper process of that Ray
removes the folder (`jobs.ray_runtime.embedded`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.errors import JobError

__all__ = ["PREFIX", "SCRATCH_NAME_LENGTH", "free_megabytes", "remove_scratch_of_parent", "scratch_folder"]

PREFIX = "glow-"
"""How the name of such a folder begins."""

SCRATCH_NAME_LENGTH = len(f"/{PREFIX}12345678")
"""Number of characters that the name of such a folder adds to a path; tempfile appends eight to the prefix."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder for the temporary files of this process and of those that it starts; remove it after the block.

    Raises:
        JobError: if no temporary folder can be written.
    """
    try:
        folder = tempfile.mkdtemp(prefix=PREFIX)
    except OSError as error:
        raise JobError(
            f"no temporary file can be written ({error.strerror})",
            remedy="free some space, or set the variable TMPDIR to another folder",
            code="no-temporary-folder",
        ) from error
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    try:
        yield Path(folder)
    finally:
        tempfile.tempdir = before[1]
        if before[0] is None:
            os.environ.pop("TMPDIR", None)
        else:
            os.environ["TMPDIR"] = before[0]
        shutil.rmtree(folder, ignore_errors=True)


def remove_scratch_of_parent(parent: int) -> None:
    """Remove the scratch folder that this process inherited, if the process that made it was killed.

    Args:
        parent: id of the process that started this one. It has ended if this process has another parent now.
    """
    folder = Path(os.environ.get("TMPDIR", ""))
    if os.getppid() != parent and folder.name.startswith(PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def free_megabytes(place: str) -> float:
    """Return the free megabytes (10^6 bytes) of the disk that a folder is on."""
    return shutil.disk_usage(place).free / 1e6
