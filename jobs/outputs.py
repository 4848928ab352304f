"""Where results go on this machine, and paths that mean the same from any working folder."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from filelock import Timeout as FileLockTimeout

from jobs.errors import JobError
from jobs.system.environment import in_ray_job, storage
from jobs.tracking import without_password

__all__ = [
    "absolute_dataset",
    "claimed",
    "dataset_label",
    "is_remote",
    "refuse_password",
    "results_folder",
    "usable_output",
]


def is_remote(output: str) -> bool:
    """Whether an output is a bucket and not a folder."""
    return "://" in output


def usable_output(output: str) -> str:
    """The absolute path of a folder that can be written, or a bucket's URI. A relative one is under $GLOW_STORAGE, if
    that is set, else in the working folder.

    Raises JobError; also in a job of a cluster without such storage, whose working folder goes with it.
    """
    if not is_remote(output) and not Path(output).expanduser().is_absolute():
        under = storage()
        if under is not None:
            output = f"{under.rstrip('/')}/{output}"
        elif in_ray_job():
            raise JobError(
                f"the output {output} has no place: give --output a bucket or the absolute path of a folder that all "
                "machines share, or set GLOW_STORAGE where the head is started"
            )
    if is_remote(output):
        refuse_password(output, "--output")
        return output
    path = Path(output).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise JobError(
            f"the output folder {path} cannot be written ({error.strerror}): choose another with --output"
        ) from None
    return str(path)


def refuse_password(address: str, where: str) -> None:
    """Raises JobError if an address holds a password, which the record would tell to all."""
    shown = without_password(address)
    if shown != address:
        raise JobError(
            f"{where} {shown} holds a password: leave it out, and set the variables of the bucket's own client"
        )


@contextmanager
def results_folder(output: str, name: str) -> Iterator[Path]:
    """The folder of this name in an output folder, or for a bucket one that goes again (MLflow has its content)."""
    if is_remote(output):
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    folder = Path(output, name)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


@contextmanager
def claimed(output: str, run_id: str, command: str) -> Iterator[None]:
    """One glowctl at a time works at a run. Raises JobError. The lock goes with the process that holds it."""
    if is_remote(output):
        yield
        return
    folder = Path(output, run_id)
    folder.mkdir(exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except FileLockTimeout:
        raise JobError(f"another glowctl {command} is at work on run {run_id}: wait for it, or stop it") from None


def absolute_dataset(dataset: str) -> str:
    """A folder's path means the same wherever a spec is used again."""
    if not dataset.startswith("folder:"):
        return dataset
    return f"folder:{Path(dataset.removeprefix('folder:')).expanduser().absolute()}"


def dataset_label(dataset: str) -> str:
    """A data set's name as metrics and files can bear it: that of a folder is its last part."""
    if not dataset.startswith("folder:"):
        return dataset
    return "folder-" + re.sub(r"[^\w.-]", "_", Path(dataset.removeprefix("folder:")).name)
