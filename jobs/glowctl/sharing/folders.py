"""Copies of a model in a folder, a bucket, or on the Hugging Face Hub, each with its card and its settings."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pyarrow.fs import FileType, LocalFileSystem, copy_files

from glowctl.errors import JobError
from glowctl.evaluation.find_model import SPEC_FILE
from glowctl.outputs import is_remote, open_storage, refuse_password, unreadable
from glowctl.sharing.card import model_card
from glowctl.tracking.runs import MODEL, download_model

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

CARD_FILE = "README.md"

OF_THE_MACHINE = ("data_root", "tracking_uri", "on_end", "run_name", "experiment", "output", "price")
"""Settings of a training that say where it ran, and that nobody else needs."""


def push(uri: str, experiment: str, name: str, place: str) -> str:
    """Copy a model with its card and the settings of its training to a place from where others can take it.

    Args:
        uri: the store that has the model.
        experiment: the experiment that has its evaluations.
        name: the model, as `find_model` takes it; a training in the store must have made it.
        place: a folder, or the URI of a bucket or of a repository of the Hugging Face Hub, hf://USER/NAME, which must
            exist. Files of the same names are replaced.

    Returns:
        The absolute path of the folder, or the URI.

    Raises:
        JobError: if the place cannot be written, or the model has no run in the store.
        TrackingError: if there is no such model, or the store does not answer.
        CheckpointError: if the model is damaged.
    """
    files, path, place = _opened(place)
    model, card = model_card(uri, experiment, name)
    with tempfile.TemporaryDirectory() as scratch:
        folder, _ = download_model(uri, f"runs:/{model.run_id}/{MODEL}", scratch)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        if model.training is not None:
            own = {name: type(model.training).model_fields[name].default for name in OF_THE_MACHINE}
            (folder / "artifacts" / SPEC_FILE).write_text(model.training.model_copy(update=own).to_json())
        try:
            files.create_dir(path)
            copy_files(str(folder), path, source_filesystem=LocalFileSystem(), destination_filesystem=files)
        except (OSError, ValueError) as error:
            raise JobError(
                f"the model cannot be written to {place} ({str(error).splitlines()[0]})",
                remedy="check the address, your credentials and the network",
                code="output-not-writable",
            ) from None
    return place


def pull(source: str, folder: str) -> Path:
    """Copy a model that `push` wrote to a new or empty folder of this machine.

    Args:
        source: a folder, or the URI of a bucket or of a repository of the Hugging Face Hub, hf://USER/NAME.
        folder: the folder to write to.

    Returns:
        Its absolute path.

    Raises:
        JobError: if the folder contains files, cannot be written, or the source cannot be read or has no model.
    """
    files, path, source = _opened(source)
    to = Path(folder).expanduser().absolute()
    try:
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise JobError(f"{to} is not an empty folder", remedy="name a new one", code="folder-not-empty")
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(
            f"{to} cannot be written ({error.strerror})", remedy="name another folder", code="output-not-writable"
        ) from None
    try:
        found = files.get_file_info(f"{path}/MLmodel").type
        if found == FileType.File:
            copy_files(path, str(to), source_filesystem=files, destination_filesystem=LocalFileSystem())
    except (OSError, ValueError) as error:
        raise unreadable(source, error) from None
    if found != FileType.File:
        raise JobError(
            f"{source} has no model, since it has no file MLmodel",
            remedy="give the place that glowctl push wrote to",
            code="model-missing",
        )
    return to


def _opened(place: str) -> tuple[FileSystem, str, str]:
    """Return the file system of a place, the path in it, and the absolute path or URI of the place."""
    if is_remote(place):
        refuse_password(place, "the address")
    else:
        place = str(Path(place).expanduser().absolute())
    try:
        files, path = open_storage(place)
    except (OSError, ValueError, ImportError) as error:
        raise unreadable(place, error) from None
    return files, path.rstrip("/"), place
