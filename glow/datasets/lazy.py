"""An opened data set, whose images are read in pieces.

`glow.datasets.open_dataset` returns a `LazyDataset`. `LazyDataset.held` makes one from tensors in memory.

Shapes: N images in the data set, n images asked for, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from glow.datasets.base import Shape
from glow.datasets.tensors import fingerprint_pieces

__all__ = ["BLOCK", "LazyDataset"]

BLOCK = 256
"""Number of neighbouring images that the order of training moves as one block, and that one request to a bucket has."""


@dataclass(frozen=True, eq=False)
class LazyDataset:
    """The labels of a split, and a function that reads its images at any positions.

    How much is in memory depends on the kind of data set. The images of a folder or of Parquet files are decoded when
    they are asked for. Packed data sets and .npy files on this machine are mapped into memory; a packed data set in a
    bucket is read in blocks. Known data sets, such as "mnist", and .npz files are read whole. Images are padded or
    shrunk when they are asked for.

    Attributes:
        labels: int64 (N,), indices into `class_names`.
        class_names: the name of each label.
        image_shape: (C, H, W) of every image.
        pick: a function from positions, int64 (n,), to the images at these positions, uint8 (n, C, H, W).
        notes: how the files of a known data set differ from the published ones, in sentences; empty if they do not.
        mapped: whether the images are those of a packed data set, which `pick` reads from its shards at each call.
        known_fingerprint: what `fingerprint` returns, if this is known without reading the images; otherwise None.
        prefetch: a function of positions, int64 (n,), that starts to fetch the images at these positions from a bucket,
            so that a later `pick` waits less. None unless the data set is packed and lies in a bucket.
        stamps: a function from positions, int64 (n,), to the sizes in bytes of the files of these images and the times
            of their last change in ns, int64 (n, 2). Files on this machine are looked up at each call; for those of a
            bucket, the stamps are as they were listed. 0 for a missing file. None unless the images are read from image
            files or Parquet files.
        in_memory: all images, uint8 (N, C, H, W), if `LazyDataset.held` made the data set; otherwise None. The method
            `images` returns views of this tensor.

    Example:
        >>> from glow.datasets import open_dataset
        >>> digits = open_dataset("digits", "test")
        >>> len(digits), digits.image_shape, digits.class_names[int(digits.labels[0])]
        (355, (1, 8, 8), '8')
        >>> digits.images(0, 16).shape
        torch.Size([16, 1, 8, 8])
        >>> digits.of_classes(["3", "8"]).labels.unique().tolist()
        [3, 8]
    """

    labels: Tensor
    class_names: tuple[str, ...]
    image_shape: Shape
    pick: Callable[[Tensor], Tensor] = field(repr=False)
    notes: tuple[str, ...] = ()
    mapped: bool = False
    known_fingerprint: str | None = None
    stamps: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    in_memory: Tensor | None = field(default=None, repr=False)
    prefetch: Callable[[Tensor], None] | None = field(default=None, repr=False)

    @classmethod
    def held(cls, images: Tensor, labels: Tensor, class_names: tuple[str, ...] = ()) -> LazyDataset:
        """Return a data set of images that are in memory already.

        Args:
            images: uint8 (N, C, H, W); they are not copied.
            labels: int64 (N,).
            class_names: the name of each label; may be empty if nothing asks for them.

        Example:
            >>> black = LazyDataset.held(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0]))
            >>> len(black), black.image_shape
            (3, (1, 8, 8))
        """
        channels, height, width = images.shape[1:]
        shape = (channels, height, width)
        return cls(labels, class_names, shape, lambda positions: images[positions], in_memory=images)

    def __len__(self) -> int:
        return len(self.labels)

    def known_as(self, fingerprint: str) -> LazyDataset:
        """Return a data set with the same images, whose fingerprint need not be computed any more.

        Args:
            fingerprint: 16 hex digits that were computed before; the method `fingerprint` of the result returns them.
        """
        return replace(self, known_fingerprint=fingerprint)

    @property
    def nbytes(self) -> int:
        """The size of all images together in bytes, N C H W."""
        channels, height, width = self.image_shape
        return len(self) * channels * height * width

    def images(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the images at positions `start` to `stop`.

        Args:
            start: position of the first image.
            stop: position after the last image; None for all. Both count as in a slice: negative positions count from
                the end, and positions after the end are ignored.

        Returns:
            uint8 (n, C, H, W).

        Raises:
            DatasetCorrupt: if an image cannot be decoded, or a shard does not match the index of its packed data set.
            DatasetNotFound: if the images are in a bucket that cannot be read.
            ValueError: if an image has more than 8 bits per channel, or several frames.

        Example:
            >>> labels = torch.tensor([0, 1, 1])
            >>> images = torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1)
            >>> LazyDataset.held(images, labels).images(-2).flatten().tolist()
            [1, 2]
        """
        if self.in_memory is not None:
            return self.in_memory[start:stop]
        start, stop, _ = slice(start, stop).indices(len(self))
        return self.pick(torch.arange(start, max(start, stop)))

    def fingerprint(self, chunk: int = 256) -> str:
        """Return 16 hex digits that identify the images.

        This is `known_fingerprint` if it is not None. Otherwise, all images are read in pieces, and the result is their
        `glow.datasets.fingerprint`.

        Args:
            chunk: number of images in memory at a time, at least 1; the result does not depend on it.

        Raises:
            ValueError: for a `chunk` below 1.
            DatasetCorrupt: if an image cannot be read, as in the method `images`.

        Example:
            >>> from glow.datasets import fingerprint
            >>> images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
            >>> LazyDataset.held(images, torch.zeros(3)).fingerprint(chunk=2) == fingerprint(images)
            True
        """
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, not {chunk}")
        if self.known_fingerprint is not None:
            return self.known_fingerprint
        pieces = (self.images(start, start + chunk) for start in range(0, len(self), chunk))
        return fingerprint_pieces(torch.Size((len(self), *self.image_shape)), torch.uint8, pieces)

    def of_classes(self, classes: Sequence[str], *, others: bool = False) -> LazyDataset:
        """Return a data set with only the images of some classes.

        Each image keeps its label, and `class_names` still contains all classes.

        Args:
            classes: names of classes, or labels as text, such as "3". A text that is both the name of a class and the
                label of a class is taken as the name.
            others: return the images of all other classes instead.

        Raises:
            ValueError: for an unknown class, or if no image is left.

        Example:
            >>> from glow.datasets import open_dataset
            >>> digits = open_dataset("digits", "test")
            >>> digits.of_classes(["8", "9"], others=True).labels.unique().tolist()
            [0, 1, 2, 3, 4, 5, 6, 7]
        """
        labels = [self._label(name) for name in classes]
        chosen = torch.isin(self.labels, torch.tensor(labels, dtype=torch.int64), invert=others)
        if not chosen.any():
            which = f"{'without' if others else 'of'} the classes {', '.join(classes)}"
            raise ValueError(f"no image is left {which}: name {'fewer' if others else 'other'} classes")
        return self.subset(chosen.nonzero().flatten())

    def _label(self, name: str) -> int:
        if name in self.class_names:
            return self.class_names.index(name)
        if name.isascii() and name.isdigit() and int(name) < len(self.class_names):
            return int(name)
        raise ValueError(f"there is no class {name!r}: use some of {', '.join(self.class_names)}")

    def subset(self, positions: Tensor) -> LazyDataset:
        """Return a data set with only the images at some positions.

        Args:
            positions: int64 (n,), positions in this data set; the new data set has the images in this order.

        Example:
            >>> from glow.datasets import open_dataset
            >>> digits = open_dataset("digits", "test")
            >>> first = digits.subset(torch.arange(10))
            >>> torch.equal(first.images(), digits.images(0, 10))
            True
        """
        known = self.known_fingerprint
        if known is not None:
            known = hashlib.sha256(known.encode() + positions.numpy().tobytes()).hexdigest()[:16]
        pick, prefetch, stamps = self.pick, self.prefetch, self.stamps
        return replace(
            self,
            labels=self.labels[positions],
            pick=lambda chosen: pick(positions[chosen]),
            prefetch=prefetch and (lambda chosen: prefetch(positions[chosen])),
            known_fingerprint=known,
            stamps=stamps and (lambda chosen: stamps(positions[chosen])),
            in_memory=None,
        )
