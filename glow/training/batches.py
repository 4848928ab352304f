"""The batches of an epoch: which images they contain, in what order, and how they reach the device that trains.

The order of an epoch depends on one number, its stream (a random seed, see `glow.training.augmentation`). There are two
kinds of order:

- The images of a tensor are shuffled all together.
- The images of a `LazyDataset`, such as a packed data set, may be read from a disk. So first the blocks of `BLOCK`
  neighbouring images are shuffled, and then the images within each `WINDOW` consecutive blocks. So the disk reads runs
  of many images, and an epoch of 10 million images needs no list of 10 million numbers. A `LazyDataset` that holds all
  its images in memory is shuffled in the same way.

`source_of` makes the source of images that `glow.training.trainer.Trainer` uses.

Shapes: N images, B images in a batch or in one process's share of it, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from glow.datasets.lazy import BLOCK, LazyDataset

WINDOW = 64
"""Number of blocks whose images are shuffled together: 16,384 images, 201 MB at 64x64 pixels in colour."""

AHEAD = 32
"""Number of batches before its turn that a batch's images begin to be fetched from a bucket."""


class Batch(NamedTuple):
    """One process's share of a batch, on the device that trains.

    Examples:
        >>> batch = Batch(torch.arange(5), torch.zeros(5, 1, 8, 8, dtype=torch.uint8), labels_B=None)
        >>> [len(part.images_BCHW) for part in batch.parts(2)]
        [3, 2]
    """

    indices_B: Tensor
    """int64 (B,), positions in the data set."""
    images_BCHW: Tensor
    """uint8 (B, C, H, W)."""
    labels_B: Tensor | None
    """int64 (B,), or None if training uses no labels."""

    def parts(self, count: int) -> list[Batch]:
        """Cut the batch into at most `count` consecutive parts of ceil(B / count) images; the last may have fewer."""
        cut = zip(self.indices_B.chunk(count), self.images_BCHW.chunk(count), strict=True)
        labels = iter(() if self.labels_B is None else self.labels_B.chunk(count))
        return [Batch(indices, images, next(labels, None)) for indices, images in cut]


class Order(Protocol):
    """The positions of N images in the order of an epoch: a tensor, or an object that computes slices on request.

    Examples:
        >>> order: Order = BlockOrder(100, stream=1)
        >>> len(order[0:10])
        10
    """

    def __getitem__(self, chosen: slice) -> Tensor:
        """Return the positions at a slice of the order, int64."""


class ImageSource(Protocol):
    """The images that a model is trained on, as the training loop reads them.

    Examples:
        The batches of an epoch, here of 6 and 4 images:

        >>> source = source_of(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), None, torch.device("cpu"))
        >>> order = source.order(stream=1)
        >>> [len(batch.images_BCHW) for batch in source.batches([order[0:6], order[6:10]])]
        [6, 4]
    """

    @property
    def index_device(self) -> torch.device:
        """The device on which positions should be made, so that they need not be copied."""

    def __len__(self) -> int:
        """Return N."""

    def order(self, stream: int) -> Order:
        """Return the order of an epoch, which follows from `stream` alone."""

    def take(self, indices_B: Tensor) -> Batch:
        """Return the images at these positions, on the device that trains."""

    def batches(self, shares: Iterable[Tensor]) -> Iterator[Batch]:
        """Yield one batch per tensor of positions, in the order of the tensors."""


def source_of(images: Tensor | LazyDataset, labels: Tensor | None, device: torch.device) -> ImageSource:
    """Return an object from which training reads its images.

    Args:
        images: uint8 (N, C, H, W), or a data set. A tensor, and the images of a data set that holds them in memory, are
            copied to the device as a whole; those of other data sets are read batch by batch.
        labels: int64 (N,) if training uses labels, else None. If a data set is read batch by batch, its own labels are
            used in place of these.
        device: the device that trains.

    Returns:
        `HeldImages` if the images are copied to the device as a whole, else `MappedImages`.

    Examples:
        >>> images, labels = torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10)
        >>> source_of(images, labels, torch.device("cpu")).take(torch.tensor([7, 2])).labels_B
        tensor([7, 2])
    """
    if not isinstance(images, LazyDataset):
        return HeldImages(images, labels, device)
    if images.in_memory is not None:
        return HeldImages(images.in_memory, labels, device, in_blocks=True)
    return MappedImages(images, labels is not None, device)


class HeldImages:
    """An image source whose images are all on the device. See `ImageSource` for its methods.

    Args:
        images: uint8 (N, C, H, W), copied to the device unless they are on it already.
        labels: int64 (N,), or None if training uses no labels.
        device: the device that trains.
        in_blocks: whether the order is a `BlockOrder`, as for `MappedImages`, instead of a shuffle of all images.

    Examples:
        >>> source = HeldImages(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), None, torch.device("cpu"))
        >>> source.order(stream=1)[0:10].sort().values.tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    def __init__(self, images: Tensor, labels: Tensor | None, device: torch.device, in_blocks: bool = False) -> None:
        self._in_blocks = in_blocks
        self._images = images.to(device)
        self._labels = None if labels is None else labels.to(device)

    @property
    def index_device(self) -> torch.device:
        """The device of the images."""
        return self._images.device

    def __len__(self) -> int:
        return len(self._images)

    def order(self, stream: int) -> Order:
        """Return a shuffle of all N positions, or a `BlockOrder` if the images are ordered in blocks."""
        if self._in_blocks:
            return BlockOrder(len(self), stream)
        generator = torch.Generator().manual_seed(stream)
        return torch.randperm(len(self), generator=generator).to(self._images.device)

    def take(self, indices_B: Tensor) -> Batch:
        """Return the images at these positions; positions on another device are copied to the device of the images."""
        indices_B = indices_B.to(self._images.device)
        return Batch(indices_B, self._images[indices_B], None if self._labels is None else self._labels[indices_B])

    def batches(self, shares: Iterable[Tensor]) -> Iterator[Batch]:
        """Yield one batch per tensor of positions, in the order of the tensors."""
        return map(self.take, shares)


class MappedImages:
    """An image source that reads each batch from files or a memory map, in a thread, while the previous one is used.

    See `ImageSource` for its methods.

    Args:
        images: the data set.
        labelled: whether batches contain labels.
        device: the device that trains, to which each batch is copied.

    Examples:
        >>> pixels = torch.arange(600, dtype=torch.int16).remainder(256).to(torch.uint8).view(600, 1, 1, 1)
        >>> dataset = LazyDataset.held(pixels, torch.zeros(600, dtype=torch.int64))
        >>> source = MappedImages(dataset, labelled=False, device=torch.device("cpu"))
        >>> source.take(torch.tensor([5, 500])).images_BCHW.flatten()
        tensor([  5, 244], dtype=torch.uint8)
    """

    def __init__(self, images: LazyDataset, labelled: bool, device: torch.device) -> None:
        self._images, self._labelled, self._device = images, labelled, device

    @property
    def index_device(self) -> torch.device:
        """The CPU, where the images are read."""
        return torch.device("cpu")

    def __len__(self) -> int:
        return len(self._images)

    def order(self, stream: int) -> BlockOrder:
        """Return the order of an epoch, in blocks."""
        return BlockOrder(len(self), stream)

    def take(self, indices_B: Tensor) -> Batch:
        """Read the images at these positions (int64 on the CPU) and copy them to the device.

        Raises:
            DatasetCorrupt: if a file cannot be decoded.
        """
        images_BCHW = self._images.pick(indices_B)
        labels_B = self._images.labels[indices_B] if self._labelled else None
        if self._device.type == "cuda":  # a copy from pinned memory does not wait for the GPU
            images_BCHW = images_BCHW.pin_memory()
        return Batch(
            indices_B.to(self._device),
            images_BCHW.to(self._device, non_blocking=True),
            None if labels_B is None else labels_B.to(self._device),
        )

    def batches(self, shares: Iterable[Tensor]) -> Iterator[Batch]:
        """Yield one batch per tensor of positions, in the order of the tensors, while a thread reads the next batch.

        If the data set is packed and lies in a bucket, a batch's images begin to be fetched `AHEAD` batches before its
        turn. An error of `take` is raised when the batch that it concerns would be yielded.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="images") as reader:
            following: Future[Batch] | None = None
            for share in self._fetched_ahead(shares):
                coming, following = following, reader.submit(self.take, share)
                if coming is not None:
                    yield coming.result()
            if following is not None:
                yield following.result()

    def _fetched_ahead(self, shares: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the positions of each batch after those of the next `AHEAD` batches have begun to be fetched."""
        prefetch = self._images.prefetch
        if prefetch is None:
            yield from shares
            return
        waiting: deque[Tensor] = deque()
        for share in shares:
            prefetch(share)
            waiting.append(share)
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        yield from waiting


class BlockOrder:
    """A shuffle of N images that is computed window by window.

    The blocks of `BLOCK` neighbouring images are put into random order, and the images of each `WINDOW` consecutive
    blocks, a window, are shuffled together. If there are at most BLOCK * WINDOW images, all are in one window, so the
    result is a uniform shuffle of all images.

    Args:
        n: the number of images, N.
        stream: the seed of the shuffle, not negative.

    Examples:
        >>> order = BlockOrder(100_000, stream=1)
        >>> len(order[0:128]), torch.equal(order[0:100_000].sort().values, torch.arange(100_000))
        (128, True)
    """

    def __init__(self, n: int, stream: int) -> None:
        self._n, self._stream = n, stream
        self._blocks = torch.randperm(-(-n // BLOCK), generator=torch.Generator().manual_seed(stream))
        sizes = (n - self._blocks * BLOCK).clamp(max=BLOCK)
        windows = sizes.split(WINDOW)
        ends = torch.tensor([int(window.sum()) for window in windows]).cumsum(0)
        self._ends: list[int] = ends.tolist()
        self._window = lru_cache(maxsize=2)(self._shuffled)

    def __getitem__(self, chosen: slice) -> Tensor:
        """Return the positions (int64) at a slice of the order; the step of the slice is ignored."""
        start, stop, _ = chosen.indices(self._n)
        parts = [torch.empty(0, dtype=torch.int64)]
        begins = 0
        for number, ends in enumerate(self._ends):
            if begins < stop and start < ends:
                parts.append(self._window(number)[max(0, start - begins) : stop - begins])
            begins = ends
        return torch.cat(parts)

    def _shuffled(self, number: int) -> Tensor:
        blocks = self._blocks[number * WINDOW : (number + 1) * WINDOW]
        images = (blocks[:, None] * BLOCK + torch.arange(BLOCK)).flatten()
        images = images[images < self._n]
        generator = torch.Generator().manual_seed((self._stream * 1_000_003 + 1 + number) % 2**63)
        return images[torch.randperm(len(images), generator=generator)]
