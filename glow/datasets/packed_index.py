"""The index of a packed data set (`glow.datasets.packed`): the file ``packed.json``, and the names of the other files.

Shapes: N images in a split, n in a shard, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from glow.datasets.base import DatasetCorrupt, DatasetNotFound, Shape, place_of
from glow.datasets.buckets import BucketFile, BucketFolder, is_uri
from glow.datasets.lazy import fingerprint

INDEX = "packed.json"
"""The file name of the index."""

VERSION = 1
"""The version of the format. An index with a higher version is refused."""


class PackedShard(NamedTuple):
    """The entry of one shard in the index ``packed.json``.

    Attributes:
        images: number of images in the shard.
        fingerprint: 16 hex digits that identify the images and labels of the shard, from `shard_fingerprint`.

    Examples:
        >>> PackedShard(2, shard_fingerprint(np.zeros((2, 1, 8, 8), np.uint8), np.array([0, 1]))).images
        2
    """

    images: int
    fingerprint: str


@dataclass(frozen=True)
class PackedSplit:
    """The entry of one split in the index ``packed.json``.

    Attributes:
        shards: the shards in the order of their images.

    Examples:
        >>> split = PackedSplit([PackedShard(4096, "0123456789abcdef"), PackedShard(904, "fedcba9876543210")])
        >>> split.images
        5000
    """

    shards: Sequence[PackedShard]

    @property
    def images(self) -> int:
        """The number of images in all shards."""
        return sum(shard.images for shard in self.shards)

    def fingerprint(self, shape: Shape) -> str:
        """Return 16 hex digits of the SHA-256 of the shape (N, C, H, W) and the shards' fingerprints.

        Args:
            shape: (C, H, W) of one image.
        """
        said = f"{(self.images, *shape)} {' '.join(shard.fingerprint for shard in self.shards)}"
        return hashlib.sha256(said.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class PackedIndex:
    """The content of ``packed.json``.

    Attributes:
        image_shape: (C, H, W) of every image.
        original_shape: (C, H, W) of the images before they were padded or shrunk; equal to `image_shape` if the
            original images differ in size, or come from Parquet files.
        class_names: the name of each label.
        splits: the shards of each split.
        source: the name of the data set that was packed; a path in this name is absolute.
        made_with: the settings of `glowctl pack` that affect the images.
        left_out: number of images that could not be decoded and were skipped.
        version: the version of the format, at most `VERSION`.

    Examples:
        >>> splits = {"train": PackedSplit([PackedShard(100, "0123456789abcdef")])}
        >>> index = PackedIndex((3, 64, 64), (3, 375, 500), ("cat", "dog"), splits, source="folder:/photos")
        >>> PackedIndex.from_json(index.to_json()).splits["train"].images
        100
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
        """Return the text of ``packed.json``."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> PackedIndex:
        """Return the index in the text of ``packed.json``.

        Raises:
            ValueError: if the text is not such an index, or its version is higher than `VERSION`.
        """
        try:
            said = json.loads(text)
            if said["version"] > VERSION:
                raise ValueError(f"its version is {said['version']}, and this glowctl reads versions up to {VERSION}")
            said["splits"] = {
                name: PackedSplit([PackedShard(*shard) for shard in split["shards"]])
                for name, split in said["splits"].items()
            }
            for shape in ("image_shape", "original_shape"):
                said[shape] = tuple(said[shape])
            return cls(**said)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is not the index of a packed data set ({error})") from error

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the data set: 16 hex digits of the SHA-256 of the splits' names and fingerprints."""
        said = " ".join(f"{name} {split.fingerprint(self.image_shape)}" for name, split in self.splits.items())
        return hashlib.sha256(said.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class SplitShards:
    """The shards of a split. An instance can be pickled; the process that receives it opens the files itself.

    Attributes:
        split: "train", "validation" or "test".
        of: the entry of the split in the index.
        image_shape: (C, H, W) of every image.

    Examples:
        >>> shards = SplitShards("train", PackedSplit([PackedShard(100, ""), PackedShard(20, "")]), (3, 64, 64))
        >>> shards.ends.tolist()
        [100, 120]
    """

    split: str
    of: PackedSplit
    image_shape: Shape

    @cached_property
    def ends(self) -> np.ndarray:
        """For each shard, the position in the split after its last image, int64 (number of shards,)."""
        return np.cumsum([shard.images for shard in self.of.shards])

    def shape(self, shard: int) -> tuple[int, ...]:
        """Return the shape (n, C, H, W) of a shard, by its number."""
        return (self.of.shards[shard].images, *self.image_shape)


def shard_file(split: str, number: int) -> str:
    """Return the file name of a shard.

    Args:
        split: "train", "validation" or "test".
        number: the number of the shard in its split, from 0.

    Examples:
        >>> shard_file("train", 12)
        'train-00012.npy'
    """
    return f"{split}-{number:05}.npy"


def labels_file(split: str) -> str:
    """Return the name of the file with the labels of a split.

    Args:
        split: "train", "validation" or "test".

    Examples:
        >>> labels_file("train")
        'train-labels.npy'
    """
    return f"{split}-labels.npy"


def shard_fingerprint(images_NCHW: np.ndarray, labels_N: np.ndarray) -> str:
    """Return 16 hex digits that identify the images and labels of a shard.

    Args:
        images_NCHW: uint8 (N, C, H, W).
        labels_N: int64 (N,).

    Examples:
        >>> images = np.zeros((2, 1, 8, 8), np.uint8)
        >>> shard_fingerprint(images, np.array([0, 1])) == shard_fingerprint(images, np.array([1, 0]))
        False
    """
    both = fingerprint(torch.from_numpy(images_NCHW)) + fingerprint(torch.from_numpy(labels_N))
    return hashlib.sha256(both.encode()).hexdigest()[:16]


def read_index(name: str) -> tuple[Path | BucketFolder, PackedIndex]:
    """Read the index of a packed data set, which has one entry per shard.

    Args:
        name: "packed:PATH".

    Returns:
        The folder of the data set, which is an absolute path or a folder in a bucket, and the index.

    Raises:
        DatasetNotFound: if there is no folder or no index.
        DatasetCorrupt: if the index cannot be read.

    Examples:
        >>> import tempfile
        >>> index = PackedIndex((3, 64, 64), (3, 375, 500), ("cat", "dog"), {}, source="folder:/photos")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, INDEX).write_text(index.to_json())
        ...     _, found = read_index(f"packed:{folder}")
        >>> found.image_shape, found.source
        ((3, 64, 64), 'folder:/photos')
    """
    place = place_of(name)
    assert place is not None
    folder: Path | BucketFolder
    if is_uri(place.path):
        folder = BucketFolder(place.path)
        content = folder.read(INDEX)
    else:
        folder = Path(place.path).expanduser().absolute()
        if not folder.is_dir():
            raise DatasetNotFound.here(name, "not a folder", "make it with glowctl pack")
        file = folder / INDEX
        content = file.read_bytes() if file.is_file() else None
    if content is None:
        raise DatasetNotFound(
            f"{folder} has no {INDEX}, because it is not a packed data set or glowctl pack has not finished it",
            remedy="run the glowctl pack command again: it continues where it stopped",
            code="packing-unfinished",
        )
    try:
        return folder, PackedIndex.from_json(content.decode())
    except ValueError as error:
        raise DatasetCorrupt(
            f"{folder}/{INDEX} cannot be read ({error})", remedy="pack the data set again", code="dataset-damaged"
        ) from error


def damaged(file: Path | BucketFile, problem: str) -> DatasetCorrupt:
    """Return the error about a file that is not as the index requires.

    Args:
        file: the file.
        problem: what is wrong with it, a predicate such as "is missing".

    Examples:
        >>> damaged(Path("train-00000.npy"), "is missing").problem
        'train-00000.npy is missing'
    """
    return DatasetCorrupt(
        f"{file} {problem}",
        remedy="pack the data set again or, if it was copied, copy all of its files",
        code="dataset-damaged",
    )
