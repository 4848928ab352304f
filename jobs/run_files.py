"""A folder or bucket that all machines of a cluster share, and what a run leaves there of itself: enough to go on from
where its MLflow record is gone, as with the head of a cluster."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs.errors import JobError
from jobs.outputs import is_remote, usable_output
from jobs.specs.training import TrainSpec

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = ["FOLDER_TAG", "open_storage", "place_named", "recall", "remember"]

FILE = "run.json"

FOLDER_TAG = "glow.folder"
"""On a run in MLflow: the folder of its checkpoints, where that has another name than the run's id."""


def open_storage(place: str) -> tuple[FileSystem, str]:
    """The file system of a folder or bucket, and the path in it. Raises OSError or ValueError."""
    from pyarrow.fs import FileSystem, LocalFileSystem

    return FileSystem.from_uri(place) if is_remote(place) else (LocalFileSystem(), place)


def remember(place: str, facts: Mapping[str, Any]) -> None:
    """Writes what a run is into the folder of its checkpoints. Raises JobError if that cannot be written."""
    try:
        files, path = open_storage(place)
        files.create_dir(path, recursive=True)
        with files.open_output_stream(f"{path}/{FILE}") as stream:
            stream.write(json.dumps(facts, indent=2).encode())
    except (OSError, ValueError) as error:
        raise JobError(f"{place} cannot be written ({str(error).splitlines()[0]}): choose another --output") from error


def recall(place: str) -> dict[str, Any] | None:
    """What `remember` wrote there; None if nothing is there, or it cannot be read."""
    try:
        files, path = open_storage(place)
        with files.open_input_stream(f"{path}/{FILE}") as stream:
            found: dict[str, Any] = json.loads(stream.read())
    except (OSError, ValueError):
        return None
    return found


def place_named(name: str) -> str:
    """Where the checkpoints of a run would be whose id, path or URI this is."""
    parent, slash, folder = name.rstrip("/").rpartition("/")
    return f"{usable_output(parent if slash else TrainSpec.model_fields['output'].default)}/{folder}"
