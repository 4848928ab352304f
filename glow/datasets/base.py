"""What the files of this package share: names that contain a path, shapes, splits, descriptions, and errors.

Nothing here reads a file. Import from `glow.datasets` instead, unless you add a kind of data set.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from glow.errors import DOWNLOAD_ADVICE, UserError

Shape = tuple[int, int, int]
"""The shape (C, H, W) of one image: channels, rows, columns."""

MemberRule = Callable[[Tensor, str], Tensor]
"""A rule that assigns images to splits: labels (N,) and a split -> the indices (n,) of the images in that split."""

Colour = tuple[int, int, int]
"""A colour (R, G, B), each 0 to 255."""

WHITE: Colour = (255, 255, 255)
"""The default background of transparent images."""

SPLITS = ("train", "validation", "test")
"""The splits of every data set, in this order."""


def padding(image_shape: Shape, original_shape: Shape) -> float:
    """Return the ratio of pixels after padding to pixels before it.

    The ratio is H W / (H0 W0), where (H0, W0) is the original size, or 1 for images that were shrunk.

    Args:
        image_shape: (C, H, W) of the images that a model reads.
        original_shape: (C, H0, W0) of the images in their files.

    Returns:
        The ratio, at least 1.

    Examples:
        >>> round(padding((1, 32, 32), (1, 28, 28)), 3)  # MNIST
        1.306
        >>> padding((1, 14, 14), (1, 28, 28))
        1.0
    """
    _, height, width = image_shape
    _, old_height, old_width = original_shape
    if height < old_height or width < old_width:
        return 1.0
    return (height * width) / (old_height * old_width)


class DatasetNotFound(UserError, FileNotFoundError):
    """An error about files that are missing or could not be downloaded.

    The message contains the names of the files, the folder that was searched, and how to get them.

    Examples:
        >>> from glow.datasets import load_dataset
        >>> try:
        ...     load_dataset("folder:/no/such/folder")
        ... except FileNotFoundError as error:
        ...     print(type(error).__name__, error.code)
        DatasetNotFound dataset-not-found
    """

    @classmethod
    def here(cls, name: str, what: str, remedy: str) -> DatasetNotFound:
        """Return the error about a path that does not exist on this machine.

        Args:
            name: the name of the data set.
            what: what the path is not, such as "not a folder".
            remedy: what to do.
        """
        return cls(f"{name} is {what} on this machine", remedy=remedy, code="dataset-not-found")


class DatasetCorrupt(UserError, OSError):
    """An error about a file that exists but does not have the expected content.

    The message contains the path of the file and what to do about it.

    Attributes:
        ADVICE: what to do about a damaged file of a known data set, which can be downloaded again.

    Examples:
        >>> error = DatasetCorrupt.file(Path("train-images"), "holds no images")
        >>> error.problem, error.code
        ('train-images holds no images', 'dataset-damaged')
    """

    ADVICE = f"replace it with a good copy, or delete it and {DOWNLOAD_ADVICE}"

    @classmethod
    def file(cls, path: Path, problem: str) -> DatasetCorrupt:
        """Return the error about a damaged file of a known data set.

        Args:
            path: the damaged file.
            problem: what is wrong with it, a predicate such as "holds no images".
        """
        return cls(f"{path} {problem}", remedy=cls.ADVICE, code="dataset-damaged")


class ImageUnreadable(DatasetCorrupt):
    """An error about an image whose content is damaged, while others of the data set may be readable.

    An image that the system cannot read, because of permissions or a failing disk, is another DatasetCorrupt: the next
    images would likely fail as well.

    Examples:
        >>> error = ImageUnreadable("a.png cannot be decoded", remedy="replace it", code="image-damaged")
        >>> isinstance(error, DatasetCorrupt)
        True
    """


class ImageRefused(ValueError):
    """An error about an image that could be decoded, but is not one image with 8 bits per channel.

    Examples:
        >>> str(ImageRefused("a.png has 2 frames: extract each to a separate file"))
        'a.png has 2 frames: extract each to a separate file'
    """


@dataclass(frozen=True)
class DatasetInfo:
    """A description of a data set, which `describe` returns without reading the images.

    Attributes:
        name: the name that was asked for.
        original_shape: (C, H, W) before padding or shrinking. It equals `image_shape` for a folder whose images differ
            in size, for Parquet files, and for a data set that is generated.
        image_shape: (C, H, W) of the images that `load_dataset` returns.
        class_names: the name of each label.
        splits: the splits whose images are available, in the order of `SPLITS`.
        notes: what a user should know about how the images of a folder are read, or with which background those of a
            packed data set were packed; one sentence each.

    Examples:
        >>> from glow.datasets import describe
        >>> info = describe("digits")
        >>> info.image_shape, info.num_classes, info.padding
        ((1, 8, 8), 10, 1.0)
    """

    name: str
    original_shape: Shape
    image_shape: Shape
    class_names: tuple[str, ...]
    splits: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def shrunk(self) -> bool:
        """Whether images are made smaller. It is not known of a folder whose images differ in size."""
        return any(before > after for before, after in zip(self.original_shape[1:], self.image_shape[1:], strict=True))

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def padding(self) -> float:
        """The ratio of pixels after padding to pixels before it, at least 1; see the function `padding`."""
        return padding(self.image_shape, self.original_shape)


@dataclass(frozen=True)
class DatasetStatus:
    """The state of a data set's files, judged by their names, headers and sizes.

    Attributes:
        name: the name of the data set.
        state: "found", "partial: test only" (with the splits that are there), "missing", or "corrupt: " and the
            problem. What was found in place of a missing file is added in parentheses.
        advice: what to do, one sentence.

    Examples:
        >>> from glow.datasets import status
        >>> status("digits").state
        'found'
    """

    name: str
    state: str
    advice: str


PLACED = ("folder", "arrays", "parquet", "packed")
"""The kinds of data sets whose names contain a path."""


class Place(NamedTuple):
    """The two parts of a name that contains a path.

    Attributes:
        kind: "folder", "arrays", "parquet" or "packed".
        path: a path, relative or absolute, or the URI of a bucket.

    Examples:
        >>> Place("packed", "s3://bucket/cats").is_remote
        True
    """

    kind: str
    path: str

    @property
    def is_remote(self) -> bool:
        """Whether the path is a URI, such as that of a bucket."""
        return "://" in self.path


def place_of(name: str) -> Place | None:
    """Split a name into its kind and its path.

    Args:
        name: the name of a data set.

    Returns:
        The kind and the path, or None for a name without a path, such as "mnist".

    Examples:
        >>> place_of("folder:/data/cats")
        Place(kind='folder', path='/data/cats')
        >>> place_of("mnist")
    """
    kind, colon, path = name.partition(":")
    return Place(kind, path) if colon and path and kind in PLACED else None


def absolute_dataset(name: str) -> str:
    """Return the name of a data set with its path made absolute.

    The result means the same data set in every working folder.

    Args:
        name: the name of a data set. Names without a path, and URIs, are returned as they are.

    Examples:
        >>> absolute_dataset("folder:/data/cats")
        'folder:/data/cats'
        >>> absolute_dataset("folder:cats") == f"folder:{Path.cwd() / 'cats'}"
        True
    """
    place = place_of(name)
    if place is None or place.is_remote:
        return name
    return f"{place.kind}:{Path(place.path).expanduser().absolute()}"


def dataset_label(name: str) -> str:
    """Return a short form of a data set's name, for metric names and file names.

    Only the last part of a path is kept. In this part, characters other than letters, digits, "_", "." and "-" become
    "_". A name without a path does not change.

    Args:
        name: the name of a data set.

    Examples:
        >>> dataset_label("packed:/data/cats and dogs")
        'packed-cats_and_dogs'
    """
    place = place_of(name)
    if place is None:
        return name
    return f"{place.kind}-" + re.sub(r"[^\w.-]", "_", Path(place.path).name)


def reason(error: Exception) -> str:
    r"""Return the first line of an error's text, or the name of its type if it has none.

    Args:
        error: an error of another library.

    Examples:
        >>> reason(ValueError("no magic string\nat the start")), reason(EOFError())
        ('no magic string', 'EOFError')
    """
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
