"""Where the results of a run go: its folder in the output, the lock that one command at a time holds, and ``run.json``,
which holds enough of a run to go on from there where its MLflow record is gone, as with the head of a cluster."""

from __future__ import annotations

import json
import shutil
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


FILE = "run.json"

SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Where Ray Train says which checkpoints it keeps."""


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


def open_storage(place: str) -> tuple[FileSystem, str]:
    """The file system of a folder or bucket, and the path in it. Raises OSError or ValueError."""
    from pyarrow.fs import FileSystem, LocalFileSystem

    return FileSystem.from_uri(place) if is_remote(place) else (LocalFileSystem(), place)


@dataclass(frozen=True, kw_only=True)
class KeptRun:
    """What ``run.json`` keeps of a run. `job` is train or ablate; `spec` are its settings, `images` the fingerprints of
    its data by name. A training has a run and says whether it is finished, an ablation has the `resources` of each
    worker of a trial, in the words of `TrainSpec`."""

    job: str
    run_id: str | None = None
    run_name: str | None = None
    finished: bool | None = None
    spec: JsonObject
    images: Mapping[str, str]
    resources: Mapping[str, float] | None = None

    def to_dict(self) -> JsonObject:
        """What is known, as JSON has it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def remember(place: str, kept: KeptRun) -> None:
    """Writes what a run is into the folder of its checkpoints. Raises JobError if that cannot be written."""
    try:
        files, path = open_storage(place)
        files.create_dir(path, recursive=True)
        with files.open_output_stream(f"{path}/{FILE}") as stream:
            stream.write(json.dumps(kept.to_dict(), indent=2).encode())
    except (OSError, ValueError) as error:
        raise JobError(f"{place} cannot be written ({str(error).splitlines()[0]}): choose another --output") from error


def remove_unfinished_checkpoints(output: str, name: str) -> None:
    """Removes what Ray Train began to write in the folder of a training, and had to leave where it was: a full disk, or
    a kill."""
    folder = Path(output, name)
    if is_remote(output) or not folder.is_dir():
        return
    kept = _kept_checkpoints(folder)
    for checkpoint in folder.glob("checkpoint_*/"):
        unknown = kept is not None and checkpoint.name not in kept
        if unknown or any(file.stat().st_size == 0 for file in checkpoint.iterdir()):
            shutil.rmtree(checkpoint, ignore_errors=True)


def _kept_checkpoints(folder: Path) -> str | None:
    """The text in which Ray Train names the checkpoints that it keeps; None if there is none, or it is cut short."""
    try:
        text = Path(folder, SNAPSHOT).read_text()
        json.loads(text)
    except (OSError, ValueError):
        return None
    return text


def recall(place: str) -> KeptRun | None:
    """What `remember` wrote there; None if nothing is there, or it cannot be read."""
    try:
        files, path = open_storage(place)
        with files.open_input_stream(f"{path}/{FILE}") as stream:
            found = json.loads(stream.read())
        return KeptRun(**{field.name: found[field.name] for field in fields(KeptRun) if field.name in found})
    except (OSError, ValueError, TypeError):
        return None


def place_named(name: str) -> str:
    """Where the checkpoints of a run would be whose id, path or URI this is."""
    parent, slash, folder = name.rstrip("/").rpartition("/")
    return f"{usable_output(parent if slash else TrainSpec.model_fields['output'].default)}/{folder}"
