"""An opened data set, whose images are asked for piece by piece."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from glow.datasets.base import Shape
from glow.datasets.tensors import fingerprint_pieces

__all__ = ["LazyDataset"]


@dataclass(frozen=True, eq=False)
class LazyDataset:
    """A split of N images: what is known without them, and the images of any positions.

    Of a folder no more images are in memory than are asked for, and no file is decoded before that. A packed data set
    is mapped into memory. Other data sets are in memory as their files have them, and only what is asked for is padded
    or shrunk.
    """

    labels: Tensor  # int64 (N,)
    class_names: tuple[str, ...]
    image_shape: Shape  # (C, H, W)
    pick: Callable[[Tensor], Tensor] = field(repr=False)  # positions (n,) -> uint8 images (n, C, H, W)
    notes: tuple[str, ...] = ()
    """Of a known data set: how its files differ from those that were published; sentences."""
    mapped: bool = False
    """Whether images are read from where they lie each time that they are asked for, at the cost of a copy."""
    known_fingerprint: str | None = None
    """Where it was computed when the images were packed."""
    in_memory: Tensor | None = field(default=None, repr=False)
    """All images, if they are held in memory: then those from one position to another are no copy."""

    @classmethod
    def held(cls, images: Tensor, labels: Tensor, class_names: tuple[str, ...] = ()) -> LazyDataset:
        """Images (N, C, H, W) that are in memory already."""
        channels, height, width = images.shape[1:]
        shape = (channels, height, width)
        return cls(labels, class_names, shape, lambda positions: images[positions], in_memory=images)

    def __len__(self) -> int:
        return len(self.labels)

    def known_as(self, fingerprint: str) -> LazyDataset:
        """The same images, whose fingerprint need not be computed."""
        return replace(self, known_fingerprint=fingerprint)

    @property
    def nbytes(self) -> int:
        """Of all images together."""
        channels, height, width = self.image_shape
        return len(self) * channels * height * width

    def images(self, start: int = 0, stop: int | None = None) -> Tensor:
        """uint8 (n, C, H, W), the images at positions `start` to `stop`, which are taken as a slice takes them.

        Of a folder: DatasetCorrupt for a file that cannot be decoded, ValueError for one of more than 8 bits a channel.
        """
        if self.in_memory is not None:
            return self.in_memory[start:stop]
        start, stop, _ = slice(start, stop).indices(len(self))
        return self.pick(torch.arange(start, max(start, stop)))

    def fingerprint(self, chunk: int = 256) -> str:
        """16 hex digits that differ for other images.

        Of a packed data set it is known; of another it is `glow.datasets.fingerprint` of all images, which are read
        with `chunk` of them in memory at a time. Raises what `images` raises.
        """
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, not {chunk}")
        if self.known_fingerprint is not None:
            return self.known_fingerprint
        pieces = (self.images(start, start + chunk) for start in range(0, len(self), chunk))
        return fingerprint_pieces(torch.Size((len(self), *self.image_shape)), torch.uint8, pieces)

    def of_classes(self, classes: Sequence[str], *, others: bool = False) -> LazyDataset:
        """The images of some classes, or of all `others`, with their labels as they are.

        Args:
            classes: names of classes, or their numbers.

        Raises:
            ValueError: for a class that there is not, or no image that is left.
        """
        labels = [self._label(name) for name in classes]
        chosen = torch.isin(self.labels, torch.tensor(labels, dtype=torch.int64), invert=others)
        if not chosen.any():
            raise ValueError(f"without the classes {', '.join(classes)} there is no image left")
        return self.subset(chosen.nonzero().flatten())

    def _label(self, name: str) -> int:
        if name in self.class_names:
            return self.class_names.index(name)
        if name.isascii() and name.isdigit() and int(name) < len(self.class_names):
            return int(name)
        raise ValueError(f"there is no class {name!r}: use some of {', '.join(self.class_names)}")

    def subset(self, positions: Tensor) -> LazyDataset:
        """The data set of the images at `positions`, int64 (n,), in that order."""
        known = self.known_fingerprint
        if known is not None:
            known = hashlib.sha256(known.encode() + positions.numpy().tobytes()).hexdigest()[:16]
        return replace(
            self,
            labels=self.labels[positions],
            pick=lambda chosen: self.pick(positions[chosen]),
            known_fingerprint=known,
            in_memory=None,
        )
