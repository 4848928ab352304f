"""A data set before it is opened, and an opened one, whose images are read in pieces.

`ImageSource` is what every kind of data set can do: "folder:PATH", "packed:PATH", "mnist" and so on. It opens a split
as a `LazyDataset`, which `glow.datasets.open_dataset` returns. `LazyDataset.held` makes one from tensors in memory.

Shapes: N images in the data set, n images asked for, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from glow.datasets.base import SPLITS, WHITE, Colour, DatasetCorrupt, DatasetInfo, DatasetNotFound, DatasetStatus, Shape

Result = TypeVar("Result")

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

    Examples:
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

        Examples:
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

        Examples:
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

        Examples:
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
        return _fingerprint_pieces(torch.Size((len(self), *self.image_shape)), torch.uint8, pieces)

    def of_classes(self, classes: Sequence[str], *, others: bool = False) -> LazyDataset:
        """Return a data set with only the images of some classes.

        Each image keeps its label, and `class_names` still contains all classes.

        Args:
            classes: names of classes, or labels as text, such as "3". A text that is both the name of a class and the
                label of a class is taken as the name.
            others: return the images of all other classes instead.

        Raises:
            ValueError: for an unknown class, or if no image is left.

        Examples:
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

        Examples:
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


PIECE = 8
"""Number of neighbouring images that a thread reads at once. Few, so that all threads read the same part of a file."""


def read_all_but(
    dataset: LazyDataset, start: int, stop: int, skipped: tuple[type[Exception], ...], threads: int = 1
) -> tuple[Tensor, list[tuple[int, Exception]]]:
    """Read images of a data set, and leave out those whose reading raises one of some errors.

    Pillow decodes outside Python's lock, so that several threads decode almost as fast as several processes.

    Args:
        dataset: the data set.
        start: position of the first image.
        stop: position after the last image.
        skipped: the types of errors for which an image is left out; every other error is raised.
        threads: number of threads that read.

    Returns:
        The images that could be read, uint8 (n, C, H, W), and the positions of the others with their errors.

    Examples:
        >>> def pick(positions):
        ...     if 1 in positions:
        ...         raise DatasetCorrupt("image 1 is damaged", remedy="replace it", code="image-damaged")
        ...     return torch.zeros(len(positions), 1, 8, 8, dtype=torch.uint8)
        >>> images, left_out = read_all_but(LazyDataset(torch.zeros(3), (), (1, 8, 8), pick), 0, 3, (DatasetCorrupt,))
        >>> len(images), [position for position, _ in left_out]
        (2, [1])
    """
    starts = range(start, stop, PIECE)
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda first: _readable(dataset, first, min(first + PIECE, stop), skipped), starts))
    read = [torch.empty((0, *dataset.image_shape), dtype=torch.uint8), *(images for got, _ in found for images in got)]
    return torch.cat(read), [problem for _, problems in found for problem in problems]


def _readable(
    dataset: LazyDataset, start: int, stop: int, skipped: tuple[type[Exception], ...]
) -> tuple[list[Tensor], list[tuple[int, Exception]]]:
    """Return the images that can be read, in pieces, and the positions of the others with their errors.

    A piece with a damaged image is halved until the image is found, so that a few of them cost little, and the others
    are still read many at a time, which a bucket needs.
    """
    try:
        return [dataset.images(start, stop)], []
    except skipped as problem:
        if stop - start == 1:
            return [], [(start, problem)]
    middle = (start + stop) // 2
    first, left_out = _readable(dataset, start, middle, skipped)
    second, more_left_out = _readable(dataset, middle, stop, skipped)
    return first + second, left_out + more_left_out


class ImageSource(ABC):
    """The images that a name stands for, such as "folder:PATH" or "mnist". Each kind of data set is a subclass.

    The methods look at the files at every call, except within a block of `one_look`.

    Args:
        name: the name of the data set, which errors contain.
        background: the colour (R, G, B) that transparent images of a folder or of Parquet files are composited over.
        refuse_other_sizes: whether an image of Parquet files that has another size than the `image_shape` of `open`
            raises DatasetCorrupt when it is asked for, instead of being padded or shrunk.
        skip_unreadable: whether `describe` and `channels` pass over images of a folder or of Parquet files whose
            headers cannot be read, unless none can be read.

    Attributes:
        ADD_SPLIT: how a user adds a split that is missing; "{split}" stands for its name.

    Examples:
        >>> from glow.datasets.names import image_source
        >>> digits = image_source("digits")
        >>> digits.channels(), digits.describe(image_shape=None).image_shape
        (1, (1, 8, 8))
        >>> len(digits.open("test", image_shape=None))
        355
    """

    ADD_SPLIT: ClassVar[str]

    def __init__(
        self,
        name: str,
        background: Colour = WHITE,
        refuse_other_sizes: bool = False,
        skip_unreadable: bool = False,
    ) -> None:
        self.name, self.path = name, name.partition(":")[2]
        self.background = background
        self.refuse_other_sizes, self.skip_unreadable = refuse_other_sizes, skip_unreadable

    @abstractmethod
    def open(self, split: str, image_shape: Shape | None) -> LazyDataset:
        """Open a split.

        Args:
            split: "train", "validation" or "test".
            image_shape: (C, H, W) to convert the images to; None for their own shape, or the default of a known data
                set.

        Raises:
            DatasetNotFound: if the files, or the images of the split, do not exist.
            DatasetCorrupt: if a file is damaged, or files contradict each other.
            ValueError: if the images cannot be converted to the `image_shape`, or if it is None and the images of a
                folder differ in size.
        """

    @abstractmethod
    def describe(self, image_shape: Shape | None) -> DatasetInfo:
        """Describe the data set without decoding its images.

        Args:
            image_shape: (C, H, W) in which the images will be read; None as in `open`.

        Raises:
            DatasetNotFound, DatasetCorrupt, ValueError: as `open`.
        """

    @abstractmethod
    def channels(self) -> int:
        """Return the number of channels of the images: 1 if all are grey, else 3.

        Raises:
            DatasetNotFound, DatasetCorrupt, ValueError: as `open`.
        """

    @abstractmethod
    def check(self) -> tuple[str, ...]:
        """Check the files by their names, headers and sizes, and return the splits that are there.

        Raises:
            DatasetNotFound, DatasetCorrupt, ValueError: as `open`.
        """

    def status(self) -> DatasetStatus:
        """Return the state of the files, as `check` finds it."""
        try:
            splits = self.check()
        except DatasetNotFound as error:
            return DatasetStatus(self.name, "missing", f"{error}.")
        except DatasetCorrupt as error:
            return DatasetStatus(self.name, f"corrupt: {error.problem}", _sentence(error.remedy))
        except ValueError as error:
            problem, _, remedy = str(error).partition("; ")
            return DatasetStatus(self.name, f"corrupt: {problem}", _sentence(remedy))
        if splits == SPLITS:
            return DatasetStatus(self.name, "found", "Nothing to do.")
        absent = " or ".join(split for split in SPLITS if split not in splits)
        advice = _sentence(f"{self.ADD_SPLIT.format(split=absent)}, if you need it")
        return DatasetStatus(self.name, f"partial: {', '.join(splits)} only" if splits else "missing", advice)


def _sentence(remedy: str) -> str:
    return f"{remedy[:1].upper()}{remedy[1:]}."


_known: ContextVar[dict[object, Any] | None] = ContextVar("known", default=None)
"""The listings and surveys of the present block of `one_look`; None outside such a block."""


@contextmanager
def one_look(known: dict[object, Any] | None = None) -> Iterator[None]:
    """List the files of each data set, and read the headers of a folder's files, only once within the `with` block.

    The functions of `glow.datasets` otherwise do both at every call, because files may change between two calls.

    Args:
        known: the results of an earlier block, which this block takes over and adds to; None for no results.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> from glow.datasets import own_channels
        >>> with tempfile.TemporaryDirectory() as path, one_look():
        ...     Image.new("L", (6, 4)).save(f"{path}/grey.png")
        ...     grey = own_channels(f"folder:{path}")
        ...     Image.new("RGB", (6, 4)).save(f"{path}/red.png")
        ...     grey, own_channels(f"folder:{path}")
        (1, 1)
    """
    token = _known.set({} if known is None else known)
    try:
        yield
    finally:
        _known.reset(token)


def once(key: object, look: Callable[[], Result]) -> Result:
    """Return `look()`, or within a block of `one_look` what it returned before for this key.

    Examples:
        >>> with one_look():
        ...     once("digit", lambda: 7), once("digit", lambda: 8)
        (7, 7)
    """
    known = _known.get()
    if known is None:
        return look()
    if key not in known:
        known[key] = look()
    result: Result = known[key]
    return result


def fingerprint(images: Tensor) -> str:
    """Return 16 hex digits that identify a tensor: the first 16 of the SHA-256 of its shape, dtype and bytes.

    Args:
        images: a tensor of at least one dimension, of any dtype, on any device.

    Examples:
        >>> fingerprint(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
        '90b12f5c6996f936'
    """
    return _fingerprint_pieces(images.shape, images.dtype, [images])


def _fingerprint_pieces(shape: torch.Size, dtype: torch.dtype, pieces: Iterable[Tensor]) -> str:
    """Return the `fingerprint` of a tensor that is cut along its first dimension into consecutive pieces."""
    digest = hashlib.sha256(f"{tuple(shape)} {dtype}".encode())
    for piece in pieces:
        digest.update(piece.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
