"""The output of runs: its folder or bucket, the folder of each run in it, and the file ``run.json``.

A run's folder has a lock, which one command at a time holds. The file ``run.json`` in the folder is enough to continue
the run if its record in MLflow is lost, for example because MLflow's data were on the head of a cluster that is gone.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from filelock import Timeout as FileLockTimeout

from jobs.errors import JobError
from jobs.specs.training import TrainSpec
from jobs.system.environment import in_ray_job, storage
from jobs.tracking import without_password

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

    from jobs.text import JsonObject

__all__ = [
    "KeptRun",
    "claimed",
    "is_remote",
    "open_storage",
    "place_named",
    "recall",
    "refuse_password",
    "remember",
    "remove_unfinished_checkpoints",
    "results_folder",
    "usable_output",
]


log = logging.getLogger(__name__)

FILE = "run.json"
"""Name of the file with what is kept of a run."""

SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Name of the file in which Ray Train lists the checkpoints that it keeps."""


def is_remote(output: str) -> bool:
    """Return whether an output is a bucket and not a folder.

    Example:
        >>> is_remote("s3://bucket/glow"), is_remote("outputs")
        (True, False)
    """
    return "://" in output


def usable_output(output: str) -> str:
    """Return the absolute path of an output folder, which is made if it is new, or the URI of a bucket.

    A relative path is under $GLOW_STORAGE if that is set, else in the working folder.

    Args:
        output: value of --output.

    Raises:
        JobError: if the folder cannot be written, or the URI contains a password. Also if the path is relative and
            $GLOW_STORAGE is not set in a job on a cluster, which deletes the working folder of a job after the job.
    """
    if not is_remote(output) and not Path(output).expanduser().is_absolute():
        under = storage()
        if under is not None:
            output = f"{under.rstrip('/')}/{output}"
        elif in_ray_job():
            raise JobError(
                f"--output {output} is a relative path, which a job on a cluster cannot use without GLOW_STORAGE",
                remedy="give --output a bucket, or the absolute path of a folder that all machines share, or set "
                "GLOW_STORAGE where the head is started",
                code="output-relative",
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
            f"the output folder {path} cannot be written ({error.strerror})",
            remedy="choose another one with --output",
            code="output-not-writable",
        ) from None
    return str(path)


def refuse_password(address: str, where: str) -> None:
    """Check that an address contains no password, which everyone who reads the record would see.

    Args:
        address: the URI of a bucket.
        where: the flag or variable that the address is from, for the error.

    Raises:
        JobError: if it contains a password.
    """
    shown = without_password(address)
    if shown != address:
        raise JobError(
            f"{where} {shown} contains a password, which the record would show",
            remedy="leave it out, and set the environment variables of the bucket's client, such as "
            "AWS_SECRET_ACCESS_KEY",
            code="password-in-uri",
        )


@contextmanager
def results_folder(output: str, name: str) -> Iterator[Path]:
    """Yield the folder `name` in an output folder.

    If the output is a bucket, yield a temporary folder instead, because the results are also written to MLflow.
    """
    if is_remote(output):
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    folder = Path(output, name)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


@contextmanager
def claimed(output: str, run_id: str, command: str) -> Iterator[None]:
    """Hold the lock of a run in an output folder, so that only one glowctl at a time works on it.

    The lock ends with the process that holds it. Buckets have no locks.

    Args:
        output: folder or bucket.
        run_id: id of the run.
        command: name of the command, for the error.

    Raises:
        JobError: if another process holds the lock.
    """
    if is_remote(output):
        yield
        return
    folder = Path(output, run_id)
    folder.mkdir(exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except FileLockTimeout:
        raise JobError(
            f"another glowctl {command} is at work on run {run_id}",
            remedy="wait for its end, or stop it",
            code="run-locked",
        ) from None


def open_storage(place: str) -> tuple[FileSystem, str]:
    """Return the file system of a folder or bucket, and the path in it.

    Raises:
        OSError: if the bucket cannot be reached.
        ValueError: for a URI of an unknown kind.
    """
    from pyarrow.fs import FileSystem, LocalFileSystem

    return FileSystem.from_uri(place) if is_remote(place) else (LocalFileSystem(), place)


@dataclass(frozen=True, kw_only=True)
class KeptRun:
    """The content of a ``run.json``.

    Attributes:
        job: "train" or "ablate".
        run_id: id of a training's run in MLflow.
        run_name: name of a training's run.
        finished: whether a training has finished.
        spec: settings of the job.
        images: fingerprint of each split of the data, by the name that MLflow shows.
        resources: numbers of cores and GPUs of each worker of a trial of an ablation, by their names in `TrainSpec`.
    """

    job: str
    run_id: str | None = None
    run_name: str | None = None
    finished: bool | None = None
    spec: JsonObject
    images: Mapping[str, str]
    resources: Mapping[str, float] | None = None

    def to_dict(self) -> JsonObject:
        """Return the fields that have a value, as a JSON object."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def remember(place: str, kept: KeptRun) -> None:
    """Write the ``run.json`` of a run into the folder of its checkpoints.

    Args:
        place: folder, or URI of a folder in a bucket.
        kept: the content.

    Raises:
        JobError: if it cannot be written.
    """
    try:
        files, path = open_storage(place)
        files.create_dir(path, recursive=True)
        with files.open_output_stream(f"{path}/{FILE}") as stream:
            stream.write(json.dumps(kept.to_dict(), indent=2).encode())
    except (OSError, ValueError) as error:
        raise JobError(
            f"{place} cannot be written ({str(error).splitlines()[0]})",
            remedy="choose another --output",
            code="output-not-writable",
        ) from error


def remove_unfinished_checkpoints(output: str, name: str) -> None:
    """Remove checkpoints that Ray Train did not finish, because it was killed or the disk was full.

    If the storage does not answer, nothing is removed.

    Args:
        output: folder or bucket.
        name: name of the training's folder in the output.
    """
    from pyarrow.fs import FileSelector, FileType

    try:
        files, folder = open_storage(f"{output}/{name}")
        found = files.get_file_info(FileSelector(folder, allow_not_found=True, recursive=True))
        kept = _kept_checkpoints(files, folder)
        whole: dict[str, bool] = {}  # by the name of each checkpoint; a bucket may list its files without its folder
        for info in found:
            checkpoint, slash, _ = info.path.removeprefix(f"{folder}/").partition("/")
            if checkpoint.startswith("checkpoint_") and (slash or info.type is FileType.Directory):
                empty = info.type is FileType.File and info.size == 0
                whole[checkpoint] = whole.get(checkpoint, True) and not empty
        for checkpoint, is_whole in whole.items():
            if not is_whole or (kept is not None and checkpoint not in kept):
                files.delete_dir(f"{folder}/{checkpoint}")
    except (OSError, ValueError) as error:
        log.debug("unfinished checkpoints in %s/%s were not looked for (%s)", output, name, error)


def _kept_checkpoints(files: FileSystem, folder: str) -> str | None:
    """Return Ray Train's list of kept checkpoints as text; None if there is none, or it is not whole."""
    try:
        with files.open_input_stream(f"{folder}/{SNAPSHOT}") as stream:
            text = stream.read().decode()
        json.loads(text)
    except (OSError, ValueError):
        return None
    return text


def recall(place: str) -> KeptRun | None:
    """Return what `remember` wrote into a folder; None if there is no ``run.json`` or it cannot be read."""
    try:
        files, path = open_storage(place)
        with files.open_input_stream(f"{path}/{FILE}") as stream:
            found = json.loads(stream.read())
        return KeptRun(**{field.name: found[field.name] for field in fields(KeptRun) if field.name in found})
    except (OSError, ValueError, TypeError):
        return None


def place_named(name: str) -> str:
    """Return the folder that contains a run's checkpoints, if there are any.

    Args:
        name: id of a run whose folder is in the default output, or the path or URI of the folder.

    Raises:
        JobError: as `usable_output` raises it.
    """
    parent, slash, folder = name.rstrip("/").rpartition("/")
    return f"{usable_output(parent if slash else TrainSpec.model_fields['output'].default)}/{folder}"
