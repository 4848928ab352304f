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
    "files_of_checkpoints",
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

    A relative path is inside $GLOW_STORAGE if this variable is set, else inside the working folder.

    Args:
        output: value of --output.

    Raises:
        JobError: if the folder cannot be written, or the URI contains a password. In a job on a cluster, also if the
            path is relative and $GLOW_STORAGE is not set, because the working folder of the job is deleted at its end.
    """
    if not is_remote(output) and not Path(output).expanduser().is_absolute():
        under = storage()
        if under is not None:
            output = f"{under.rstrip('/')}/{output}"
        elif in_ray_job():
            raise JobError(
                f"--output {output} is a relative path, which a job on a cluster cannot use without GLOW_STORAGE",
                remedy="give --output a bucket, or the absolute path of a folder that all machines share, or set "
                "GLOW_STORAGE on the head of the cluster before Ray starts",
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
    """Check that an address contains no password, because everyone who can read the run in MLflow would see it.

    Args:
        address: the URI of a bucket.
        where: the flag that the address was given to, for the error message.

    Raises:
        JobError: if it contains a password.
    """
    shown = without_password(address)
    if shown != address:
        raise JobError(
            f"{where} {shown} contains a password, which the run in MLflow would show",
            remedy="leave out the password, and set the environment variables of the bucket's client, such as "
            "AWS_SECRET_ACCESS_KEY",
            code="password-in-uri",
        )


@contextmanager
def results_folder(output: str, name: str) -> Iterator[Path]:
    """Yield the folder `name` in an output folder, which is made if it is new.

    If the output is a bucket, yield a temporary folder instead. Its files are not lost, because they are also written
    to MLflow.
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

    The lock is released when the `with` block or its process ends. If the output is a bucket, there is no lock.

    Args:
        output: folder or bucket.
        run_id: name of the run's folder, which is usually the id of the run.
        command: name of the glowctl command, for the error message.

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
            remedy="wait until that command ends, or stop it",
            code="run-locked",
        ) from None


def open_storage(place: str) -> tuple[FileSystem, str]:
    """Return the pyarrow file system that contains a folder or bucket, and the path in this file system.

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
        run_id: id of the run in MLflow; None for an ablation.
        run_name: name of the run; None for an ablation.
        finished: whether the training has finished; None for an ablation.
        spec: settings of the job.
        images: fingerprint of each split, by data set and split, such as "mnist train".
        resources: ``cpus_per_worker`` and ``gpus_per_worker`` of the trials of an ablation; None for a training.
    """

    job: str
    run_id: str | None = None
    run_name: str | None = None
    finished: bool | None = None
    spec: JsonObject
    images: Mapping[str, str]
    resources: Mapping[str, float] | None = None

    def to_dict(self) -> JsonObject:
        """Return the fields that are not None, as a JSON object."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def remember(place: str, kept: KeptRun) -> None:
    """Write the ``run.json`` of a run into the folder of its checkpoints.

    Args:
        place: path of this folder, or its URI in a bucket.
        kept: the content.

    Raises:
        JobError: if the file cannot be written.
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


def files_of_checkpoints(place: str, *names: str) -> Iterator[tuple[str, bytes]]:
    """Yield the path and the content of each file of these names in the checkpoints of a training.

    Args:
        place: path of the folder of the checkpoints, or its URI in a bucket; it need not exist.
        names: names of the files.

    Raises:
        JobError: if the folder or a file cannot be read.
    """
    from pyarrow.fs import FileSelector

    try:
        files, folder = open_storage(place)
        for info in files.get_file_info(FileSelector(folder, allow_not_found=True, recursive=True)):
            if info.base_name in names and info.path.removeprefix(f"{folder}/").startswith("checkpoint_"):
                with files.open_input_stream(info.path) as stream:
                    yield info.path, stream.read()
    except (OSError, ValueError) as error:
        raise _unreadable(place, error) from error


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
    """Read the ``run.json`` in a folder; return None if there is no such file, or `remember` did not write it.

    Raises:
        JobError: if the folder or bucket cannot be read.
    """
    try:
        files, path = open_storage(place)
        with files.open_input_stream(f"{path}/{FILE}") as stream:
            content = stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(place, error) from error
    try:
        found = json.loads(content)
        return KeptRun(**{field.name: found[field.name] for field in fields(KeptRun) if field.name in found})
    except (ValueError, TypeError):
        return None


def _unreadable(place: str, error: Exception) -> JobError:
    return JobError(
        f"{place} cannot be read ({str(error).splitlines()[0]})",
        remedy="check the address, your credentials and the network",
        code="output-not-readable",
    )


def place_named(name: str) -> str:
    """Return the absolute path or the URI of a run's folder, whether or not the folder exists.

    Args:
        name: id of a run whose folder is in the default output, or the path or URI of the folder.

    Raises:
        JobError: if the output that contains the folder cannot be used, for the reasons that `usable_output` lists.
    """
    parent, slash, folder = name.rstrip("/").rpartition("/")
    return f"{usable_output(parent if slash else TrainSpec.model_fields['output'].default)}/{folder}"
