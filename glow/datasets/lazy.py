"""An opened data set, whose images are asked for piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from glow.datasets.base import Shape
from glow.datasets.tensors import fingerprint_pieces

__all__ = ["LazyDataset"]


@dataclass(frozen=True, eq=False)
class LazyDataset:
    """A split of N images: what is known without them, and the images of any positions.

    Of a folder no more images are in memory than are asked for, and no file is decoded before that; other data sets
    are in memory as their files have them, and only what is asked for is padded or shrunk.
    """

    labels: Tensor  # int64 (N,)
    class_names: tuple[str, ...]
    image_shape: Shape  # (C, H, W)
    pick: Callable[[Tensor], Tensor] = field(repr=False)  # positions (n,) -> uint8 images (n, C, H, W)
    notes: tuple[str, ...] = ()  # of a known data set: how its files differ from those that were published; sentences

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, start: int, stop: int) -> Tensor:
        """uint8 (n, C, H, W), the images at positions `start` to `stop`, which are taken as a slice takes them.

        Of a folder: DatasetCorrupt for a file that cannot be decoded, ValueError for one of more than 8 bits a channel.
        """
        start, stop, _ = slice(start, stop).indices(len(self))
        return self.pick(torch.arange(start, max(start, stop)))

    def fingerprint(self, chunk: int = 256) -> str:
        """The `fingerprint` of all images, with `chunk` of them in memory at a time; raises what `images` raises."""
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, not {chunk}")
        pieces = (self.images(start, start + chunk) for start in range(0, len(self), chunk))
        return fingerprint_pieces(torch.Size((len(self), *self.image_shape)), torch.uint8, pieces)

    def subset(self, positions: Tensor) -> LazyDataset:
        """The data set of the images at `positions`, int64 (n,), in that order."""
        return replace(self, labels=self.labels[positions], pick=lambda chosen: self.pick(positions[chosen]))
