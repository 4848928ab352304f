"""``packed:PATH``: a data set that `glowctl pack` wrote. Its images are mapped into memory and never read whole.

PATH is a folder. It contains an index and, for each split, one file of labels and one or more shards of images::

    packed.json        index: shape, classes, source, and the size and fingerprint of each shard; written last
    train-00000.npy    shard: uint8 (n, C, H, W), where the index contains n
    train-labels.npy   labels: int64 (N,)

The operating system caches the parts of a shard that are used, and frees them when memory is needed elsewhere.

PATH can also be the URI of a folder in a bucket. The images are then not mapped but read in blocks
(`glow.datasets.packed_bucket`).

Shapes: N images in a split, n in a shard, B in a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glow.datasets.base import SPLITS, DatasetCorrupt, DatasetInfo, DatasetNotFound, DatasetStatus, Shape
from glow.datasets.buckets import BucketFolder
from glow.datasets.lazy import LazyDataset
from glow.datasets.numpy_files import NOT_AN_ARRAY, reason
from glow.datasets.packed_bucket import BucketShards, read_array
from glow.datasets.packed_index import PackedSplit, labels_file, read_index, shard_file
from glow.datasets.tensors import check_channels, convert

__all__ = ["describe_packed", "open_packed", "packed_channels", "packed_status"]


def open_packed(name: str, split: str, image_shape: Shape | None) -> LazyDataset:
    """Open a split of a packed data set.

    This function maps the file of labels into memory. A shard is mapped later, when one of its images is asked for.

    If the data set is in a bucket, this function reads the labels. The images are read later in blocks, when they are
    asked for, through a cache on the local disk (`glow.datasets.packed_bucket`).

    Args:
        name: "packed:PATH"; PATH can be the URI of a folder in a bucket.
        split: "train", "validation" or "test".
        image_shape: (C, H, W) to convert the images to; None for the shape in which they were packed. Only in that
            shape, the fingerprint of the images is computed from the index, without reading them.

    Returns:
        A data set whose images are copied from the shards when they are asked for.

    Raises:
        DatasetNotFound: if there is no such data set or split.
        DatasetCorrupt: if the index cannot be read, or the file of labels is missing or does not have the shape and
            type that the index requires. A damaged shard raises this error when its images are asked for.
        ValueError: if the images cannot be converted to the `image_shape`.

    Example:
        >>> import tempfile
        >>> from glow.datasets.packed_index import INDEX, PackedIndex, PackedShard, shard_fingerprint
        >>> images, labels = np.full((2, 1, 8, 8), 7, np.uint8), np.array([1, 0])
        >>> shards = [PackedShard(2, shard_fingerprint(images, labels))]
        >>> index = PackedIndex((1, 8, 8), (1, 8, 8), ("cat", "dog"), {"test": PackedSplit(shards)}, "folder:/photos")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/{shard_file('test', 0)}", images)
        ...     np.save(f"{folder}/{labels_file('test')}", labels)
        ...     _ = Path(folder, INDEX).write_text(index.to_json())
        ...     dataset = open_packed(f"packed:{folder}", "test", image_shape=None)
        ...     dataset.images().unique().tolist(), dataset.labels.tolist()
        ([7], [1, 0])
    """
    folder, index = read_index(name)
    if split not in index.splits:
        there = ", ".join(index.splits)
        raise DatasetNotFound(
            f"{name} has no images for split {split!r} (only {there})",
            remedy="pack a data set that has this split",
            code="split-not-found",
        )
    of = index.splits[split]
    shape = image_shape or index.image_shape
    check_channels(index.image_shape[0], shape[0])
    shards: Shards | BucketShards
    if isinstance(folder, BucketFolder):
        labels = _labels_in_bucket(folder, split, of)
        shards = _shards_in_bucket(folder, split, of, index.image_shape)
    else:
        labels = torch.from_numpy(_mapped(folder / labels_file(split), (of.images,), np.dtype(np.int64), writable=True))
        shards = Shards(folder, split, of, index.image_shape)

    def pick(positions: Tensor) -> Tensor:
        return convert(shards.pick(positions), shape)

    return LazyDataset(
        labels,
        tuple(index.class_names),
        shape,
        pick,
        mapped=True,
        known_fingerprint=of.fingerprint(index.image_shape) if shape == index.image_shape else None,
        prefetch=shards.prefetch if isinstance(shards, BucketShards) else None,
    )


def _labels_in_bucket(folder: BucketFolder, split: str, of: PackedSplit) -> Tensor:
    """Read the labels of a split.

    Raises:
        DatasetCorrupt: if they are missing, or are not as many as the index has images.
    """
    labels = read_array(folder, labels_file(split), " ".join(shard.fingerprint for shard in of.shards))
    if labels.shape != (of.images,) or labels.dtype != np.int64:
        raise DatasetCorrupt(
            f"{folder.file(labels_file(split))} has {labels.dtype} of shape {labels.shape} where the index requires "
            f"int64 of {(of.images,)}",
            remedy="pack the data set again or, if it was copied, copy all of its files",
            code="dataset-damaged",
        )
    return torch.from_numpy(labels)


def _shards_in_bucket(folder: BucketFolder, split: str, of: PackedSplit, image_shape: Shape) -> BucketShards:
    files = [shard_file(split, number) for number in range(len(of.shards))]
    sizes, fingerprints = [shard.images for shard in of.shards], [shard.fingerprint for shard in of.shards]
    return BucketShards(folder, files, sizes, fingerprints, image_shape)


@dataclass(frozen=True)
class Shards:
    """The images of a split, read from shards on this machine, which are mapped into memory.

    An instance can be pickled; a process that receives it maps the files into its own memory.

    Attributes:
        folder: the folder of the packed data set.
        split: "train", "validation" or "test".
        of: the entry of the split in the index.
        image_shape: (C, H, W) of every image.
    """

    folder: Path
    split: str
    of: PackedSplit
    image_shape: Shape

    @cached_property
    def ends(self) -> np.ndarray:
        """For each shard, the position in the split after its last image, int64 (number of shards,)."""
        return np.cumsum([shard.images for shard in self.of.shards])

    def pick(self, positions_B: Tensor) -> Tensor:
        """Return a copy of the images at some positions.

        Args:
            positions_B: int64 (B,), in any order.

        Returns:
            uint8 (B, C, H, W).

        Raises:
            DatasetCorrupt: for a shard that is missing, or does not have the shape and type that the index requires.
        """
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


@lru_cache(maxsize=8192)  # Linux allows a process 65,530 mappings by default
def _mapped(file: Path, shape: tuple[int, ...], dtype: np.dtype[Any], writable: bool = False) -> np.ndarray:
    """Map an array in a file into memory.

    A `writable` array is a private copy-on-write mapping, for tensors, about which torch would warn if they were
    read-only. Nothing writes to it, but the system counts all of it as memory that this process might use.
    """
    try:
        array = np.load(file, mmap_mode="c" if writable else "r", allow_pickle=False)
    except NOT_AN_ARRAY as error:
        problem = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({reason(error)})"
        raise DatasetCorrupt(
            f"{file} {problem}",
            remedy="pack the data set again or, if it was copied, copy all of its files",
            code="dataset-damaged",
        ) from error
    if array.shape != shape or array.dtype != dtype:
        raise DatasetCorrupt(
            f"{file} has {array.dtype} of shape {array.shape} where the index requires {dtype} of {shape}",
            remedy="pack the data set again or, if it was copied, copy all of its files",
            code="dataset-damaged",
        )
    return array


def describe_packed(name: str, image_shape: Shape | None) -> DatasetInfo:
    """Describe a packed data set from its index.

    Args:
        name: "packed:PATH".
        image_shape: (C, H, W) in which the images will be read; None for the shape in which they were packed.

    Raises:
        DatasetNotFound, DatasetCorrupt: as `read_index`.

    Example:
        >>> import tempfile
        >>> from glow.datasets.packed_index import INDEX, PackedIndex
        >>> index = PackedIndex((3, 64, 64), (3, 375, 500), ("cat", "dog"), {}, source="folder:/photos")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, INDEX).write_text(index.to_json())
        ...     info = describe_packed(f"packed:{folder}", image_shape=None)
        >>> info.original_shape, info.image_shape, info.class_names
        ((3, 375, 500), (3, 64, 64), ('cat', 'dog'))
    """
    _, index = read_index(name)
    splits = tuple(split for split in SPLITS if split in index.splits)
    shape = image_shape or index.image_shape
    background = index.made_with.get("background", "white")
    notes = (
        f"{name} was packed with the background {background}, which shows where its images were transparent; another "
        "background has no effect on them",
    )
    return DatasetInfo(
        name,
        index.original_shape,
        shape,
        tuple(index.class_names),
        splits,
        () if background in ("white", "255,255,255") else notes,
    )


def packed_channels(name: str) -> int:
    """Return the number of channels of a packed data set, 1 or 3.

    Args:
        name: "packed:PATH".

    Raises:
        DatasetNotFound, DatasetCorrupt: as `read_index`.

    Example:
        >>> import tempfile
        >>> from glow.datasets.packed_index import INDEX, PackedIndex
        >>> index = PackedIndex((3, 64, 64), (3, 375, 500), ("cat", "dog"), {}, source="folder:/photos")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, INDEX).write_text(index.to_json())
        ...     packed_channels(f"packed:{folder}")
        3
    """
    return read_index(name)[1].image_shape[0]


def packed_status(name: str) -> DatasetStatus:
    """Return the state of a packed data set: whether all files exist and are at least as large as the index requires.

    Args:
        name: "packed:PATH".

    Example:
        >>> import tempfile
        >>> from glow.datasets.packed_index import INDEX, PackedIndex, PackedShard
        >>> splits = {"test": PackedSplit([PackedShard(100, "0123456789abcdef")])}
        >>> index = PackedIndex((1, 8, 8), (1, 8, 8), ("cat", "dog"), splits, source="folder:/photos")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, INDEX).write_text(index.to_json())
        ...     packed_status(f"packed:{folder}").state.replace(folder, "")
        'corrupt: /test-00000.npy is missing or cut short'
    """
    try:
        folder, index = read_index(name)
    except DatasetNotFound as error:
        return DatasetStatus(name, "missing", f"{error}.")
    except DatasetCorrupt as error:
        return DatasetStatus(name, f"corrupt: {error.problem}", "Pack the data set again.")
    pixels = int(np.prod(index.image_shape))
    found = {str(file.relative): file.size for file in folder.files()} if isinstance(folder, BucketFolder) else None
    for split in index.splits:
        shards = index.splits[split].shards
        wanted = [(shard_file(split, number), shard.images * pixels) for number, shard in enumerate(shards)]
        wanted.append((labels_file(split), index.splits[split].images * 8))
        for file, least in wanted:
            if found is not None:
                path, size = f"{folder}/{file}", found.get(file, -1)
            else:
                path = str(local := Path(str(folder), file))
                size = local.stat().st_size if local.is_file() else -1
            if size < least:
                return DatasetStatus(
                    name, f"corrupt: {path} is missing or cut short", "Copy it completely, or pack the data set again."
                )
    if tuple(index.splits) != SPLITS:
        return DatasetStatus(
            name, f"partial: {', '.join(index.splits)} only", "Pack a source that has the other splits."
        )
    return DatasetStatus(name, "found", "Nothing to do.")
