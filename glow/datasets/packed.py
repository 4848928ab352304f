"""``packed:PATH``: a data set that `glowctl pack` wrote. Its images are mapped into memory and never read whole.

PATH is a folder. It contains an index and, for each split, one file of labels and one or more shards of images::

    packed.json        index: shape, classes, source, and the size and fingerprint of each shard; written last
    train-00000.npy    shard: uint8 (n, C, H, W), where the index contains n
    train-labels.npy   labels: int64 (N,)

The operating system caches the parts of a shard that are used, and frees them when memory is needed elsewhere.

PATH can also be the URI of a folder in a bucket. The images are then not mapped but read in blocks, and through a cache
on the local disk. A block is `BLOCK` neighbouring images of a split. The training order uses all images of up to
`glow.training.batches.WINDOW` blocks before it goes on to other blocks. So a machine reads each block about once per
epoch, even if the cache is smaller than the data set. Threads read several blocks at once.

All processes of a machine share the cache. It lies in ``$GLOW_BUCKET_CACHE``, or else in ``glow/buckets`` in the
user's cache folder, and holds up to ``$GLOW_BUCKET_CACHE_GB`` gigabytes (20 if not set). What was used least recently
is removed first.

Shapes: N images in a split, n in a shard, B in a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glow.datasets.arrays import NOT_AN_ARRAY
from glow.datasets.base import SPLITS, DatasetInfo, DatasetNotFound, Shape, reason
from glow.datasets.buckets import BucketFile, BucketFolder, threads
from glow.datasets.decode import check_channels, convert
from glow.datasets.lazy import BLOCK, ImageSource, LazyDataset
from glow.datasets.packed_index import SplitShards, damaged, labels_file, read_index, shard_file
from glow.errors import UserError

GIGABYTE = 10**9

SCANS_PER_LIMIT = 16
"""A process looks at the size of the cache each time that it has added this fraction of the limit."""

KEPT_AFTER_A_SCAN = 0.9
"""Fraction of the limit that a scan leaves, so that the next file does not need another scan."""

ABANDONED_S = 3600.0
"""Age at which an unfinished file is taken for that of a process that was killed."""

HEADER = 1024
"""Bytes at the start of a shard that contain numpy's header, which takes 128."""

_reading: dict[str, Future[np.ndarray]] = {}
"""The blocks that this process is reading now, by key, so that no block is read twice at the same time."""

_lock = threading.Lock()


class PackedDataset(ImageSource):
    """The images of "packed:PATH", which are copied from the shards when they are asked for.

    Args:
        name: "packed:PATH"; PATH can be the URI of a folder in a bucket.

    Examples:
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
        shards: _LocalShards | BucketShards
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
            shards = _LocalShards(split, of, index.image_shape, folder)

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
class _LocalShards(SplitShards):
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


def read_array(folder: BucketFolder, name: str, fingerprint: str) -> np.ndarray:
    """Read a whole .npy file through the cache.

    Args:
        folder: the packed data set.
        name: the name of the file in the folder.
        fingerprint: identifies the contents of the file in the cache; other contents need another fingerprint.

    Raises:
        DatasetCorrupt: if the file is missing or is not an array.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as path:
        ...     np.save(f"{path}/labels.npy", np.arange(3))
        ...     read_array(BucketFolder(f"file://{path}"), "labels.npy", fingerprint=path)
        array([0, 1, 2])
    """
    key = f"{folder}/{name} {fingerprint}"
    content = cache_of_this_machine().get(key, lambda: _content_of(folder, name), _is_array)
    try:
        return _array(content)
    except NOT_AN_ARRAY as error:
        raise damaged(folder.file(name), f"cannot be read ({reason(error)})") from error


def _array(content: bytes) -> np.ndarray:
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))


def _is_array(content: bytes) -> bool:
    try:
        _array(content)
    except NOT_AN_ARRAY:
        return False
    return True


@dataclass(frozen=True)
class _Piece:
    """The images of one block that are in one shard.

    Attributes:
        shard: number of the shard.
        start: position in the shard of the first image.
        stop: position in the shard after the last image.
        first: position in the split of the first image.
    """

    shard: int
    start: int
    stop: int
    first: int


@dataclass(frozen=True)
class BucketShards(SplitShards):
    """The images of a split, read from shards in a bucket. An instance can be pickled.

    Attributes:
        folder: the packed data set.

    Examples:
        >>> import tempfile
        >>> from glow.datasets.packed_index import PackedShard, PackedSplit
        >>> path = tempfile.TemporaryDirectory()
        >>> np.save(f"{path.name}/train-00000.npy", np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1))
        >>> of = PackedSplit([PackedShard(3, fingerprint=path.name)])
        >>> shards = BucketShards("train", of, (1, 1, 1), BucketFolder(f"file://{path.name}"))
        >>> shards.pick(torch.tensor([2, 0])).flatten()
        tensor([2, 0], dtype=torch.uint8)
    """

    folder: BucketFolder

    def pick(self, positions_B: Tensor) -> Tensor:
        """Return the images at these positions, uint8 (B, C, H, W).

        Raises:
            DatasetCorrupt: if a shard is missing or cut short, or does not have the shape and type that the index
                requires.
            DatasetNotFound: if the bucket cannot be read.
        """
        positions = positions_B.numpy()
        images = np.empty((len(positions), *self.image_shape), np.uint8)
        pieces = self._pieces(positions)
        for piece, future in [(piece, self._read(piece)) for piece in pieces]:
            chosen = (positions >= piece.first) & (positions < piece.first + piece.stop - piece.start)
            images[chosen] = future.result()[positions[chosen] - piece.first]
        return torch.from_numpy(images)

    def prefetch(self, positions_B: Tensor) -> None:
        """Start to read the blocks that contain these positions and are not in the cache yet.

        A block that cannot be read raises no error here. `pick` raises the error if it cannot read the block either.
        """
        cache = cache_of_this_machine()
        for piece in self._pieces(positions_B.numpy()):
            if not cache.has(self._key(piece)):
                self._read(piece)

    def _pieces(self, positions: np.ndarray) -> list[_Piece]:
        """Return the pieces that contain the positions, in order."""
        shards = np.searchsorted(self.ends, positions, side="right")
        return [
            self._piece(int(block), int(shard)) for block, shard in np.unique([positions // BLOCK, shards], axis=1).T
        ]

    def _piece(self, block: int, shard: int) -> _Piece:
        shard_start = int(self.ends[shard]) - self.of.shards[shard].images
        first = max(block * BLOCK, shard_start)
        stop = min((block + 1) * BLOCK, int(self.ends[shard]))
        return _Piece(shard, first - shard_start, stop - shard_start, first)

    def _key(self, piece: _Piece) -> str:
        fingerprint = self.of.shards[piece.shard].fingerprint
        return f"{self.folder}/{shard_file(self.split, piece.shard)} {fingerprint} {piece.start} {piece.stop}"

    def _read(self, piece: _Piece) -> Future[np.ndarray]:
        """Read a piece in a thread, unless one reads it already."""
        key = self._key(piece)
        with _lock:
            if key in _reading:
                return _reading[key]
            future = _reading[key] = threads().submit(self._images, piece, key)
        future.add_done_callback(lambda _: _reading.pop(key, None))
        return future

    def _images(self, piece: _Piece, key: str) -> np.ndarray:
        pixels = int(np.prod(self.image_shape))
        size = (piece.stop - piece.start) * pixels

        def fetch() -> bytes:
            name = shard_file(self.split, piece.shard)
            offset = _offset(self.folder, name, self.shape(piece.shard))
            content = _content_of(self.folder, name, offset + piece.start * pixels, size)
            if len(content) != size:
                raise damaged(self.folder.file(name), "is cut short")
            return content

        content = cache_of_this_machine().get(key, fetch, lambda block: len(block) == size)
        return np.frombuffer(content, np.uint8).reshape(-1, *self.image_shape)


@lru_cache(maxsize=8192)
def _offset(folder: BucketFolder, name: str, shape: tuple[int, ...]) -> int:
    """Return where the images start in a shard, whose header must have this shape.

    Raises:
        DatasetCorrupt: if it has not, or the shard is missing.
    """
    header = io.BytesIO(_content_of(folder, name, 0, HEADER))
    try:
        np.lib.format.read_magic(header)
        found, by_columns, dtype = np.lib.format.read_array_header_1_0(header)
    except NOT_AN_ARRAY as error:
        raise damaged(folder.file(name), f"is not an array ({reason(error)})") from error
    if found != shape or dtype != np.uint8 or by_columns:
        raise damaged(folder.file(name), f"has {dtype} of shape {found} where the index requires uint8 of {shape}")
    return header.tell()


def _content_of(folder: BucketFolder, name: str, offset: int = 0, size: int | None = None) -> bytes:
    """Return a file of a packed data set, or a part of it.

    Raises:
        DatasetCorrupt: if the file is missing.
        DatasetNotFound: if the bucket cannot be read.
    """
    content = folder.read(name, offset, size)
    if content is None:
        raise damaged(folder.file(name), "is missing")
    return content


class BlockCache:
    """A cache of blocks of bytes on disk, each of which has a key.

    Args:
        folder: the folder that contains the blocks; it is made if needed.
        limit: bytes that the cache may hold. A process looks at the size of the cache only after it has added a
            sixteenth of the limit, so the cache can be larger by that much per process.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> cache = BlockCache(Path(folder.name), limit=10**6)
        >>> cache.get("key", lambda: b"from the bucket")
        b'from the bucket'
        >>> cache.get("key", lambda: b"not fetched again")
        b'from the bucket'
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._added = limit  # so that the first addition looks at what earlier processes left

    def has(self, key: str) -> bool:
        """Return whether the block is on disk."""
        return self._file(key).exists()

    def get(self, key: str, fetch: Callable[[], bytes], is_whole: Callable[[bytes], bool] = bool) -> bytes:
        """Return a block from the disk, or fetch it and write it to the disk.

        A disk that cannot be written costs only speed: the block is fetched each time. So does a machine that lost its
        power, which can leave files that are empty or cut short: they are replaced.

        Args:
            key: the name of the block. Blocks with different content need different keys.
            fetch: a function that gets the block from the bucket. Its exceptions are passed on.
            is_whole: a function that returns whether a block from the disk is whole. By default, every block is that is
                not empty.
        """
        file = self._file(key)
        with contextlib.suppress(OSError):
            content = file.read_bytes()
            if is_whole(content):
                os.utime(file)
                return content
        content = fetch()
        with contextlib.suppress(OSError):
            self._keep(file, content)
        return content

    def _file(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()[:40]
        return self._folder / name[:2] / name

    def _keep(self, file: Path, content: bytes) -> None:
        """Write a block, whole or not at all."""
        self._added += len(content)
        if self._added > self._limit / SCANS_PER_LIMIT:
            self._make_room(len(content))
            self._added = len(content)
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"{file.name}.{os.getpid()}.{time.monotonic_ns()}.part")
        try:
            unfinished.write_bytes(content)
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Remove what was used least recently, until there is room."""
        found: list[tuple[float, int, Path]] = []
        for file in self._folder.glob("??/*"):
            with contextlib.suppress(OSError):  # another process removed it
                status = file.stat()
                if file.suffix == ".part" and time.time() - status.st_mtime > ABANDONED_S:
                    file.unlink()
                else:
                    found.append((status.st_mtime, status.st_size, file))
        used = sum(size for _, size, _ in found)
        if used + size <= self._limit:
            return
        for _, freed, file in sorted(found):
            if used + size <= self._limit * KEPT_AFTER_A_SCAN:
                break
            file.unlink(missing_ok=True)
            used -= freed


@lru_cache(maxsize=4)
def _cache(folder: str, limit: int) -> BlockCache:
    return BlockCache(Path(folder), limit)


def cache_of_this_machine() -> BlockCache:
    """Return the cache that the environment variables ``$GLOW_BUCKET_CACHE`` and ``$GLOW_BUCKET_CACHE_GB`` describe.

    Raises:
        UserError: if ``$GLOW_BUCKET_CACHE_GB`` is not a positive number.

    Examples:
        >>> isinstance(cache_of_this_machine(), BlockCache)
        True
    """
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(os.environ.get("GLOW_BUCKET_CACHE") or f"{home}/glow/buckets").expanduser().absolute()
    text = os.environ.get("GLOW_BUCKET_CACHE_GB") or "20"
    try:
        limit = float(text) * GIGABYTE
    except ValueError:
        limit = -1
    if not 0 < limit < float("inf"):
        raise UserError(
            f"$GLOW_BUCKET_CACHE_GB is {text!r}, which is not a positive number of gigabytes",
            remedy="set it to a number such as 20, or unset it",
            code="cache-size",
        )
    return _cache(str(folder), int(limit))
