"""Which images make up the batches of an epoch, and how they come to the device that trains.

Images given as a tensor are shuffled as one. Of a packed data set (`glow.datasets.packed`), which may be read from a
disk, blocks of neighbours are shuffled, and then the images of `WINDOW` blocks together, so that a disk reads pieces of
many images, and so that 10 million images need no list of 10 million numbers. It is so also where its images are held
in memory: the order does not depend on how much of that there is. Either order follows from one number.

Shapes: N images, B in a batch or a process's share of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from glow.datasets.lazy import LazyDataset

__all__ = ["BLOCK", "WINDOW", "Batch", "BlockOrder", "HeldImages", "ImageSource", "MappedImages", "source_of"]

BLOCK = 256
"""Images that stay neighbours until the blocks of a window are shuffled together."""

WINDOW = 64
"""Blocks that are shuffled together: 16,384 images, 201 MB of 64x64 pixels in colour."""


class Batch(NamedTuple):
    """A process's share of a batch, on the device that trains."""

    indices_B: Tensor
    """int64, positions in the data set."""
    images_BCHW: Tensor
    """uint8."""
    labels_B: Tensor | None

    def parts(self, count: int) -> list[Batch]:
        """The batch cut into at most so many parts, one after the other."""
        cut = zip(self.indices_B.chunk(count), self.images_BCHW.chunk(count), strict=True)
        labels = iter(() if self.labels_B is None else self.labels_B.chunk(count))
        return [Batch(indices, images, next(labels, None)) for indices, images in cut]


class Order(Protocol):
    """The positions of N images in the order of an epoch."""

    def __getitem__(self, chosen: slice) -> Tensor: ...


class ImageSource(Protocol):
    """The images that are trained on. `index_device` is where their positions are best made."""

    @property
    def index_device(self) -> torch.device: ...

    def __len__(self) -> int: ...

    def order(self, stream: int) -> Order:
        """The order of an epoch, which follows from `stream` alone."""

    def take(self, indices_B: Tensor) -> Batch:
        """The images at these positions."""

    def batches(self, shares: Iterable[Tensor]) -> Iterator[Batch]:
        """The batches with these indices, one after the other."""


def source_of(images: Tensor | LazyDataset, labels: Tensor | None, device: torch.device) -> ImageSource:
    """Images as `glow.training.Trainer` takes them: on the device if they are held in memory, else where they lie."""
    if not isinstance(images, LazyDataset):
        return HeldImages(images, labels, device)
    if images.in_memory is not None:
        return HeldImages(images.in_memory, labels, device, in_blocks=True)
    return MappedImages(images, labels is not None, device)


class HeldImages:
    """Images that are on the device, all of them."""

    def __init__(self, images: Tensor, labels: Tensor | None, device: torch.device, in_blocks: bool = False) -> None:
        self._in_blocks = in_blocks
        self._images = images.to(device)
        self._labels = None if labels is None else labels.to(device)

    @property
    def index_device(self) -> torch.device:
        return self._images.device

    def __len__(self) -> int:
        return len(self._images)

    def order(self, stream: int) -> Order:
        if self._in_blocks:
            return BlockOrder(len(self), stream)
        generator = torch.Generator().manual_seed(stream)
        return torch.randperm(len(self), generator=generator).to(self._images.device)

    def take(self, indices_B: Tensor) -> Batch:
        indices_B = indices_B.to(self._images.device)
        return Batch(indices_B, self._images[indices_B], None if self._labels is None else self._labels[indices_B])

    def batches(self, shares: Iterable[Tensor]) -> Iterator[Batch]:
        return map(self.take, shares)


class MappedImages:
    """Images that are read from where they lie, the next batch while the last one is computed."""

    def __init__(self, images: LazyDataset, labelled: bool, device: torch.device) -> None:
        self._images, self._labelled, self._device = images, labelled, device

    @property
    def index_device(self) -> torch.device:
        return torch.device("cpu")

    def __len__(self) -> int:
        return len(self._images)

    def order(self, stream: int) -> BlockOrder:
        return BlockOrder(len(self), stream)

    def take(self, indices_B: Tensor) -> Batch:
        images_BCHW = self._images.pick(indices_B)
        labels_B = self._images.labels[indices_B] if self._labelled else None
        if self._device.type == "cuda":  # from pinned memory a copy does not wait for what the GPU is at
            images_BCHW = images_BCHW.pin_memory()
        return Batch(
            indices_B.to(self._device),
            images_BCHW.to(self._device, non_blocking=True),
            None if labels_B is None else labels_B.to(self._device),
        )

    def batches(self, shares: Iterable[Tensor]) -> Iterator[Batch]:
        with ThreadPoolExecutor(1, thread_name_prefix="images") as reader:
            following: Future[Batch] | None = None
            for share in shares:
                coming, following = following, reader.submit(self.take, share)
                if coming is not None:
                    yield coming.result()
            if following is not None:
                yield following.result()


class BlockOrder:
    """A shuffle of N images that is computed window by window.

    The blocks of `BLOCK` neighbours come in random order; the images of each `WINDOW` blocks in a row are shuffled
    together. Where all images are in one window it is a shuffle of all.

    Args:
        n: N.
        stream: what the order follows from.
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
        """int64: the positions of the images that come at these places of the order."""
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
