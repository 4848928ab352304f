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
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glow.datasets.arrays import NOT_AN_ARRAY
from glow.datasets.base import SPLITS, DatasetInfo, DatasetNotFound, Shape, reason
from glow.datasets.buckets import BucketFile, BucketFolder
from glow.datasets.decode import check_channels, convert
from glow.datasets.lazy import ImageSource, LazyDataset
from glow.datasets.packed_bucket import BucketShards, read_array
from glow.datasets.packed_index import SplitShards, damaged, labels_file, read_index, shard_file

__all__ = ["PackedDataset"]


class PackedDataset(ImageSource):
    """The images of "packed:PATH", which are copied from the shards when they are asked for.

    Args:
        name: "packed:PATH"; PATH can be the URI of a folder in a bucket.

    Example:
        >>> import tempfile
        >>> from glow.datasets.packed_index import INDEX, PackedIndex, PackedShard, PackedSplit, shard_fingerprint
        >>> images, labels = np.full((2, 1, 8, 8), 7, np.uint8), np.array([1, 0])
        >>> shards = [PackedShard(2, shard_fingerprint(images, labels))]
        >>> index = PackedIndex((1, 8, 8), (1, 8, 8), ("cat", "dog"), {"test": PackedSplit(shards)}, "folder:/photos")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/{shard_file('test', 0)}", images)
        ...     np.save(f"{folder}/{labels_file('test')}", labels)
        ...     _ = Path(folder, INDEX).write_text(index.to_json())
        ...     dataset = PackedDataset(f"packed:{folder}").open("test", image_shape=None)
        ...     dataset.images().unique().tolist(), dataset.labels.tolist()
        ([7], [1, 0])
    """

    ADD_SPLIT = "pack a data set that has {split}"

    def open(self, split: str, image_shape: Shape | None) -> LazyDataset:
        """Open a split: read its labels, but no shard.

        Only in the shape in which the images were packed, their fingerprint is computed from the index.
        """
        folder, index = read_index(self.name)
        if split not in index.splits:
            raise DatasetNotFound(
                f"{self.name} has no images for split {split!r} (only {', '.join(index.splits)})",
                remedy=self.ADD_SPLIT.format(split=split),
                code="split-not-found",
            )
        of = index.splits[split]
        shape = image_shape or index.image_shape
        check_channels(index.image_shape[0], shape[0])
        shards: LocalShards | BucketShards
        if isinstance(folder, BucketFolder):
            fingerprints = " ".join(shard.fingerprint for shard in of.shards)
            labels = _checked(
                folder.file(labels_file(split)),
                read_array(folder, labels_file(split), fingerprints),
                (of.images,),
                np.dtype(np.int64),
            )
            shards = BucketShards(split, of, index.image_shape, folder)
        else:
            labels = _mapped(folder / labels_file(split), (of.images,), np.dtype(np.int64), writable=True)
            shards = LocalShards(split, of, index.image_shape, folder)

        def pick(positions: Tensor) -> Tensor:
            return convert(shards.pick(positions), shape)

        return LazyDataset(
            torch.from_numpy(labels),
            tuple(index.class_names),
            shape,
            pick,
            mapped=True,
            known_fingerprint=of.fingerprint(index.image_shape) if shape == index.image_shape else None,
            prefetch=shards.prefetch if isinstance(shards, BucketShards) else None,
        )

    def describe(self, image_shape: Shape | None) -> DatasetInfo:
        """Describe the images by the index."""
        _, index = read_index(self.name)
        splits = tuple(split for split in SPLITS if split in index.splits)
        packed_on = index.made_with.get("background", "white")
        notes = (
            f"{self.name} was packed with the background {packed_on}, which shows where its images were transparent; "
            "another background has no effect on them",
        )
        return DatasetInfo(
            self.name,
            index.original_shape,
            image_shape or index.image_shape,
            tuple(index.class_names),
            splits,
            () if packed_on in ("white", "255,255,255") else notes,
        )

    def channels(self) -> int:
        """Return the number of channels in the index."""
        return read_index(self.name)[1].image_shape[0]

    def check(self) -> tuple[str, ...]:
        """Check that all files exist and are at least as large as the index requires."""
        folder, index = read_index(self.name)
        pixels = int(np.prod(index.image_shape))
        if isinstance(folder, BucketFolder):
            sizes = {str(file.relative): file.size for file in folder.files()}
        else:
            sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
        for split, of in index.splits.items():
            wanted = {shard_file(split, number): shard.images * pixels for number, shard in enumerate(of.shards)}
            for file, least in {**wanted, labels_file(split): of.images * 8}.items():
                if sizes.get(file, -1) < least:
                    path = folder.file(file) if isinstance(folder, BucketFolder) else folder / file
                    raise damaged(path, "is missing or cut short")
        return tuple(index.splits)


@dataclass(frozen=True)
class LocalShards(SplitShards):
    """The images of a split, read from shards on this machine, which are mapped into memory.

    Attributes:
        folder: the folder of the packed data set.
    """

    folder: Path

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
            file = self.folder / shard_file(self.split, int(shard))
            images[chosen] = _mapped(file, self.shape(shard), np.dtype(np.uint8))[positions[chosen] - first]
        return torch.from_numpy(images)


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
        raise damaged(file, problem) from error
    return _checked(file, array, shape, dtype)


def _checked(file: Path | BucketFile, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Return an array that was read from a file, if it has the shape and type that the index requires."""
    if array.shape != shape or array.dtype != dtype:
        raise damaged(file, f"has {array.dtype} of shape {array.shape} where the index requires {dtype} of {shape}")
    return array
