"""A shard of a packing: its images in the source, the facts about it when it is written, and where it is written."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from glow.datasets import LazyDataset
from glow.datasets.buckets import BucketFolder, is_uri
from glow.datasets.packed_index import shard_file
from jobs.errors import JobError
from jobs.text import megabytes


@dataclass(frozen=True)
class Shard:
    """The images of a split that are written to one file.

    Attributes:
        split: "train", "validation" or "test".
        number: number of the shard within its split, from 0.
        start: position of the first image in the split of the source.
        stop: position after the last image.
    """

    split: str
    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Done:
    """The facts about a shard that has been written.

    Attributes:
        images: number of images in the shard.
        fingerprint: hash of the images and labels (`glow.datasets.packed_index.shard_fingerprint`).
        left_out: for each image that could not be read, its position in the split of the source, and the error.
        source: identifies the sizes and times of the files of the packed images (`source_of`). None if they have none.
    """

    images: int
    fingerprint: str
    left_out: Sequence[tuple[int, str]]
    source: str | None

    @classmethod
    def read(cls, text: bytes | None) -> Done | None:
        """Read the facts from the content of their file (`done_file`); return None if it is missing or incomplete."""
        try:
            said = json.loads(text or b"")
            left_out = [(position, why) for position, why in said["left_out"]]
            return cls(said["images"], said["fingerprint"], left_out, said["source"])
        except (ValueError, KeyError):
            return None


def done_file(shard: Shard) -> str:
    """Return the name of the file with the facts about a shard (`Done`), which is written after the shard itself.

    Example:
        >>> done_file(Shard("train", 3, 300, 400))
        'train-00003.npy.json'
    """
    return f"{shard_file(shard.split, shard.number)}.json"


def stamps_of(dataset: LazyDataset, start: int = 0, stop: int | None = None) -> np.ndarray | None:
    """Look up the sizes and times of change of the files of some images, int64 (n, 2); return None without files.

    Args:
        dataset: a split of the source.
        start: position of the first image.
        stop: position after the last image; None for all. Both count as in a slice.

    Example:
        >>> import torch
        >>> stamps_of(LazyDataset.held(torch.zeros(2, 1, 8, 8), torch.zeros(2))) is None
        True
    """
    if dataset.stamps is None:
        return None
    start, stop, _ = slice(start, stop).indices(len(dataset))
    return dataset.stamps(torch.arange(start, max(start, stop))).numpy()


def files_gone(stamps: np.ndarray | None) -> list[int]:
    """Return the positions within a shard of images whose files are not there, or have no known size and time.

    Args:
        stamps: what `stamps_of` returned for the shard.

    Example:
        >>> files_gone(np.array([[100, 7], [0, 0], [200, 8]])), files_gone(None)
        ([1], [])
    """
    return [] if stamps is None else np.flatnonzero((stamps == 0).all(axis=1)).tolist()


def source_of(stamps: np.ndarray | None, shard: Shard, left_out: Sequence[tuple[int, str]]) -> str | None:
    """Return 16 hex digits that identify the sizes and times of change of the files of a shard, or None without files.

    Args:
        stamps: what `stamps_of` returned for the shard.
        shard: the shard.
        left_out: the images that are not in the shard (`Done.left_out`). Their files do not count.

    Example:
        >>> stamps, shard = np.array([[100, 7], [200, 8]]), Shard("test", 3, 40, 42)
        >>> source_of(stamps, shard, [(41, "41.png is damaged")]) == source_of(stamps[:1], shard, [])
        True
    """
    if stamps is None:
        return None
    gone = [position - shard.start for position, _ in left_out]
    return hashlib.sha256(np.delete(stamps, gone, axis=0).tobytes()).hexdigest()[:16]


def listing_of(dataset: LazyDataset, shard: Shard, stamps: np.ndarray | None) -> str:
    """Return 16 hex digits that identify which images a process has found for a shard, without reading the images.

    The processes of a packing look at the source at different times. If their digits differ, files were removed or
    exchanged, or added to a source that each process lists for itself, and the position of an image may not be the same
    in all processes.

    Args:
        dataset: the split of the source, as the process has opened it.
        shard: the shard.
        stamps: what `stamps_of` returned for the shard.

    Example:
        >>> one, other = (LazyDataset.held(torch.zeros(n, 1, 8, 8), torch.zeros(n)) for n in (8, 9))
        >>> shard = Shard("test", 0, 0, 4)
        >>> digits = listing_of(one, shard, None)
        >>> listing_of(one, shard, None) == digits, listing_of(other, shard, None) == digits
        (True, False)
    """
    labels = dataset.labels[shard.start : shard.stop].tolist()
    said = [len(dataset), dataset.class_names, labels, source_of(stamps, shard, [])]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def npy(array: np.ndarray) -> bytes:
    """Return the contents of a .npy file with an array.

    Example:
        >>> np.load(io.BytesIO(npy(np.arange(3))))
        array([0, 1, 2])
    """
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


class Bucket(BucketFolder):
    """A destination in a bucket, where a file appears whole when it has been sent."""

    def sizes(self) -> Mapping[str, int]:
        """Return the names of all files and their sizes in bytes; empty if there are none."""
        return {str(file.relative): file.size for file in self.files()}

    def check_room(self, size: int) -> None:
        """Accept any size, because a bucket does not tell how much room it has."""


class Folder:
    """A folder, in which a file has another name until it is complete."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes | None:
        """Return the contents of a file, or None if there is no such file."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / f"{name}.{os.getpid()}.part"
        try:
            unfinished.write_bytes(content)
            unfinished.replace(self._folder / name)
        finally:
            unfinished.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file, if it exists. Raises OSError."""
        (self._folder / name).unlink(missing_ok=True)

    def sizes(self) -> Mapping[str, int]:
        """Return the names of all files and their sizes in bytes; empty if the folder does not exist."""
        if not self._folder.is_dir():
            return {}
        return {path.name: path.stat().st_size for path in self._folder.iterdir()}

    def check_room(self, size: int) -> None:
        """Raise JobError if the disk has less than `size` free bytes."""
        parent = next(folder for folder in (self._folder, *self._folder.parents) if folder.is_dir())
        free = shutil.disk_usage(parent).free
        if size > free:
            raise JobError(
                f"the images that remain to be packed take {megabytes(size)}, but the disk with {parent} has only "
                f"{megabytes(free)} free",
                remedy="free some space, or give another DEST or a smaller --image-size",
                code="disk-full",
            )


Destination = Bucket | Folder
"""Where `glowctl pack` writes: a bucket, or a folder that all machines share."""


def destination_of(dest: str) -> Destination:
    """Return the destination that the argument DEST names; `dest` is an absolute path or a URI."""
    return Bucket(dest) if is_uri(dest) else Folder(Path(dest))
