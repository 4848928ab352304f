"""``packed:PATH``: a data set as `glowctl pack` leaves it, which is mapped into memory and never read whole.

PATH holds, for each split, shards of images and one file of labels, and an index that is written last::

    packed.json        shape, classes, where it came from, and for each split its shards with their fingerprints
    train-00000.npy    uint8 (n, C, H, W), n as the index says
    train-labels.npy   int64 (N,)

The file system keeps in memory what is used of a shard, and gives it up when others need the room.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from glow.datasets.base import SPLITS, DatasetCorrupt, DatasetInfo, DatasetNotFound, DatasetStatus, Shape
from glow.datasets.lazy import LazyDataset
from glow.datasets.names import place_of
from glow.datasets.tensors import check_channels, convert, fingerprint

__all__ = [
    "INDEX",
    "PackedIndex",
    "PackedShard",
    "PackedSplit",
    "describe_packed",
    "labels_file",
    "open_packed",
    "packed_channels",
    "packed_status",
    "read_index",
    "shard_file",
    "shard_fingerprint",
]

INDEX = "packed.json"
VERSION = 1


class PackedShard(NamedTuple):
    """How many images a shard has, and `shard_fingerprint` of it."""

    images: int
    fingerprint: str


@dataclass(frozen=True)
class PackedSplit:
    """The shards of a split, in order."""

    shards: Sequence[PackedShard]

    @property
    def images(self) -> int:
        return sum(shard.images for shard in self.shards)

    def fingerprint(self, shape: Shape) -> str:
        """16 hex digits of the SHA-256 of the shape and the shards' fingerprints."""
        said = f"{(self.images, *shape)} {' '.join(shard.fingerprint for shard in self.shards)}"
        return hashlib.sha256(said.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class PackedIndex:
    """What ``packed.json`` says.

    Args:
        image_shape: (C, H, W) of every image.
        original_shape: of the images before they were padded or shrunk; `image_shape` if they differed.
        source: the name of the data set that was packed, with an absolute path.
        made_with: the settings that it was packed with.
        left_out: files that could not be decoded and were skipped.
    """

    image_shape: Shape
    original_shape: Shape
    class_names: Sequence[str]
    splits: Mapping[str, PackedSplit]
    source: str
    made_with: Mapping[str, Any] = field(default_factory=dict)
    left_out: int = 0
    version: int = VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> PackedIndex:
        """Raises ValueError for a text that `to_json` did not write."""
        try:
            said = json.loads(text)
            if said["version"] > VERSION:
                raise ValueError(f"it is of version {said['version']}, and this glowctl reads up to {VERSION}")
            said["splits"] = {
                name: PackedSplit([PackedShard(*shard) for shard in split["shards"]])
                for name, split in said["splits"].items()
            }
            for shape in ("image_shape", "original_shape"):
                said[shape] = tuple(said[shape])
            return cls(**said)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is no index of a packed data set ({error})") from error

    @property
    def fingerprint(self) -> str:
        """16 hex digits of all splits' fingerprints."""
        said = " ".join(f"{name} {split.fingerprint(self.image_shape)}" for name, split in self.splits.items())
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def shard_file(split: str, number: int) -> str:
    return f"{split}-{number:05}.npy"


def labels_file(split: str) -> str:
    return f"{split}-labels.npy"


def shard_fingerprint(images_NCHW: np.ndarray, labels_N: np.ndarray) -> str:
    """16 hex digits of a shard's images and labels."""
    both = fingerprint(torch.from_numpy(images_NCHW)) + fingerprint(torch.from_numpy(labels_N))
    return hashlib.sha256(both.encode()).hexdigest()[:16]


def read_index(name: str) -> tuple[Path, PackedIndex]:
    """The folder of a packed data set, and its index. It costs the same for few and many images.

    DatasetNotFound without an index, DatasetCorrupt for one that cannot be read or a shard that is not there.
    """
    place = place_of(name)
    assert place is not None
    folder = Path(place.path).expanduser().absolute()
    file = folder / INDEX
    if not folder.is_dir():
        raise DatasetNotFound(f"{name} is not a folder on this machine; glowctl pack makes one of images")
    if not file.is_file():
        raise DatasetNotFound(
            f"{folder} has no {INDEX}: it is no packed data set, or glowctl pack has not come to its end; run that "
            "again, and it goes on where it stood"
        )
    try:
        return folder, PackedIndex.from_json(file.read_text())
    except (OSError, ValueError) as error:
        raise DatasetCorrupt(f"{file} cannot be read ({error}); pack the data set again") from error


def open_packed(name: str, split: str, image_shape: Shape | None) -> LazyDataset:
    """Maps the labels, and each shard when an image of it is first asked for.

    DatasetNotFound without such a data set or split, DatasetCorrupt for a file that is not as the index says.
    """
    folder, index = read_index(name)
    if split not in index.splits:
        there = ", ".join(index.splits)
        raise DatasetNotFound(f"{name} has no images for split {split!r} (only {there}); pack a source that has them")
    of = index.splits[split]
    shape = image_shape or index.image_shape
    check_channels(index.image_shape[0], shape[0])
    labels = torch.from_numpy(_mapped(folder / labels_file(split), (of.images,), np.dtype(np.int64), writable=True))
    shards = Shards(folder, split, of, index.image_shape)

    def pick(positions: Tensor) -> Tensor:
        return convert(shards.pick(positions), shape)

    known = of.fingerprint(index.image_shape) if shape == index.image_shape else None
    return LazyDataset(labels, tuple(index.class_names), shape, pick, mapped=True, known_fingerprint=known)


@dataclass(frozen=True)
class Shards:
    """The images of a split, wherever they lie. It can be sent to another process, which maps them anew."""

    folder: Path
    split: str
    of: PackedSplit
    image_shape: Shape

    @cached_property
    def ends(self) -> np.ndarray:
        """The position after the last image of each shard."""
        return np.cumsum([shard.images for shard in self.of.shards])

    def pick(self, positions_B: Tensor) -> Tensor:
        """uint8 (B, C, H, W): a copy of the images at these positions."""
        positions = positions_B.numpy()
        images = np.empty((len(positions), *self.image_shape), np.uint8)
        shards = np.searchsorted(self.ends, positions, side="right")
        for shard in np.unique(shards):
            chosen = shards == shard
            first = self.ends[shard] - self.of.shards[shard].images
            images[chosen] = self._shard(int(shard))[positions[chosen] - first]
        return torch.from_numpy(images)

    def _shard(self, number: int) -> np.ndarray:
        file = self.folder / shard_file(self.split, number)
        return _mapped(file, (self.of.shards[number].images, *self.image_shape), np.dtype(np.uint8))


@lru_cache(maxsize=8192)  # each costs a mapping, of which a process may have 65,530
def _mapped(file: Path, shape: tuple[int, ...], dtype: np.dtype[Any], writable: bool = False) -> np.ndarray:
    """A file's array. A writable one, which torch wants, is this process's own where it is written, which nobody does,
    but all of it counts as memory that the process may use."""
    try:
        array = np.load(file, mmap_mode="c" if writable else "r", allow_pickle=False)
    except (OSError, ValueError) as error:
        problem = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise DatasetCorrupt(f"{file} {problem}; pack the data set again, or copy it whole") from error
    if array.shape != shape or array.dtype != dtype:
        raise DatasetCorrupt(
            f"{file} has {array.dtype} of shape {array.shape} where the index says {dtype} of {shape}; pack the data "
            "set again, or copy it whole"
        )
    return array


def describe_packed(name: str, image_shape: Shape | None) -> DatasetInfo:
    """Raises what `open_packed` raises."""
    _, index = read_index(name)
    splits = tuple(split for split in SPLITS if split in index.splits)
    shape = image_shape or index.image_shape
    return DatasetInfo(name, index.original_shape, shape, tuple(index.class_names), splits)


def packed_channels(name: str) -> int:
    """1 or 3; raises what `open_packed` raises."""
    return read_index(name)[1].image_shape[0]


def packed_status(name: str) -> DatasetStatus:
    """Whether every file is there, at the size that the index says."""
    try:
        folder, index = read_index(name)
    except DatasetNotFound as error:
        return DatasetStatus(name, "missing", f"{error}.")
    except DatasetCorrupt as error:
        return DatasetStatus(name, f"corrupt: {error}", "Pack the data set again.")
    pixels = int(np.prod(index.image_shape))
    for split in index.splits:
        shards = index.splits[split].shards
        wanted = [(shard_file(split, number), shard.images * pixels) for number, shard in enumerate(shards)]
        wanted.append((labels_file(split), index.splits[split].images * 8))
        for file, least in wanted:
            path = folder / file
            if not path.is_file() or path.stat().st_size < least:
                return DatasetStatus(name, f"corrupt: {path} is missing or cut short", "Copy it whole, or pack again.")
    if tuple(index.splits) != SPLITS:
        return DatasetStatus(name, f"partial: {', '.join(index.splits)} only", "Pack a source that has the others.")
    return DatasetStatus(name, "found", "Nothing to do.")
