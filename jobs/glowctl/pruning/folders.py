"""The files of runs in their output folders or buckets: where they are, their sizes, and their deletion."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pyarrow.fs import FileSelector

from glowctl.errors import JobError
from glowctl.outputs import claimed, folder_of_trial, is_remote, open_storage, recall, unreadable
from glowctl.tracking import tag_names
from glowctl.training.progress import remove_checkpoints, whole_checkpoints

if TYPE_CHECKING:
    from glowctl.tracking.runs import Run


def place_of(run: Run, known: Mapping[str, Run]) -> str | None:
    """Return the folder of a run, or its URI in a bucket; for a trial, the folder of its ablation.

    Args:
        run: a training, a trial or an evaluation.
        known: all runs by their ids.

    Returns:
        The place, whether or not it exists; None if its ``run.json`` is that of another run, or if the run has no
        settings that name it.

    Raises:
        JobError: if the folder or bucket cannot be read.
    """
    tags = run.data.tags
    output = json.loads(tags.get(tag_names.SPEC, "{}")).get("output")
    owner = tags.get(tag_names.PARENT, "") if tag_names.TRIAL in tags else run.info.run_id
    name = known[owner].data.tags.get(tag_names.FOLDER, owner) if owner in known else owner
    if not output or not name:
        return None
    place = f"{output}/{name}"
    kept = recall(place)
    return place if kept is None or kept.run_id == owner else None


def bytes_in(place: str, trials: Collection[str]) -> dict[str, int]:
    """Return the size of the files of each trial in the folder of an ablation; with the label "", of all files.

    Raises:
        JobError: if the folder or bucket cannot be read.
    """
    try:
        files, root = open_storage(place)
        infos = files.get_file_info(FileSelector(root, allow_not_found=True, recursive=True))
    except (OSError, ValueError) as error:
        raise unreadable(place, error) from error
    stood = whole_checkpoints(place) if any(trials) else {}
    sizes = {}
    for label in trials:
        folders = [folder_of_trial(root, label) if label else root, *([stood[label].path] if label in stood else [])]
        within = tuple(f"{folder}/" for folder in folders)
        sizes[label] = sum(info.size or 0 for info in infos if info.path.startswith(within))
    return sizes


@contextmanager
def locked(place: str, run_id: str) -> Iterator[None]:
    """Hold the lock of a run's folder, if this machine has the folder.

    Raises:
        JobError: if another process holds the lock.
    """
    is_here = not is_remote(place) and Path(place).is_dir()
    with claimed(place, run_id, "prune") if is_here else nullcontext():
        yield


def remove_folder(place: str) -> None:
    """Delete a folder, if it exists.

    Raises:
        JobError: if a file cannot be deleted.
    """
    with _deleting(place), suppress(FileNotFoundError):
        files, path = open_storage(place)
        files.delete_dir(path)


def remove_trials(place: str, labels: Collection[str]) -> None:
    """Delete the folders and checkpoints of trials in the folder of their ablation.

    Raises:
        JobError: if a file cannot be read or deleted.
    """
    with _deleting(place):
        remove_checkpoints(place, labels)
    for label in labels:
        remove_folder(folder_of_trial(place, label))


@contextmanager
def _deleting(place: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise JobError(
            f"files in {place} cannot be deleted ({str(error).splitlines()[0]})",
            remedy="check your permissions, and repeat the command, which completes what it has begun",
            code="output-not-writable",
        ) from error
