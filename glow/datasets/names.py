"""The functions that take the name of a data set: a known one such as "mnist", or one with a path, "folder:PATH".

`registry.py` and `known_folders.py` have the known data sets. `KINDS` has a class for each kind of name with a path.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from glow.datasets.arrays import ArraysDataset
from glow.datasets.base import (
    PLACED,
    SPLITS,
    WHITE,
    Colour,
    DatasetInfo,
    DatasetStatus,
    Shape,
    absolute_dataset,
    dataset_label,
    place_of,
)
from glow.datasets.folder import FolderDataset
from glow.datasets.known_folders import LAYOUTS, KnownFolder
from glow.datasets.lazy import ImageSource, LazyDataset
from glow.datasets.packed import PackedDataset
from glow.datasets.parquet import ParquetDataset
from glow.datasets.registry import REGISTRY, KnownDataset, data_root
from glow.datasets.splits import first_of_each_class

__all__ = [
    "absolute_dataset",
    "data_root",
    "dataset_label",
    "dataset_names",
    "describe",
    "image_source",
    "load_dataset",
    "open_dataset",
    "own_channels",
    "place_of",
    "status",
]

KINDS: Mapping[str, type[ImageSource]] = {
    "folder": FolderDataset,
    "arrays": ArraysDataset,
    "parquet": ParquetDataset,
    "packed": PackedDataset,
}
"""The class of each kind of name in `PLACED`."""


def dataset_names() -> tuple[str, ...]:
    """Return the names that `load_dataset` takes.

    "PATH" in names such as "packed:PATH" stands for a path or the URI of a bucket.

    Examples:
        >>> dataset_names()[:2], dataset_names()[-1]
        (('digits', 'mnist'), 'packed:PATH')
    """
    return (*REGISTRY, *LAYOUTS, *(f"{kind}:PATH" for kind in PLACED))


def load_dataset(
    name: str,
    split: str = "train",
    root: str | Path | None = None,
    *,
    image_shape: Shape | None = None,
    per_class: int | None = None,
    download: bool = False,
    background: Colour = WHITE,
) -> tuple[Tensor, Tensor]:
    """Read a split of a data set into memory.

    Args:
        name: one of `dataset_names`, such as "mnist" or "folder:/data/cats".
        split: "train", "validation" or "test".
        root: the data root; None for the folder that `data_root` returns.
        image_shape: (C, H, W) to convert the images to with `glow.datasets.decode.convert`. None stands for
            `Entry.image_shape` of a known data set, and for the images' own shape if the name contains a path.
        per_class: keep only the first `per_class` images of each class.
        download: fetch files that are missing.
        background: the colour (R, G, B) that transparent images of a folder or of Parquet files are composited over.

    Returns:
        Images, uint8 (N, C, H, W), and labels, int64 (N,), in the order of the files.

    Raises:
        ValueError: for an unknown name or split, an impossible `image_shape` or `per_class`, or a split without images.
        DatasetNotFound: (a FileNotFoundError) for missing files or a failed download.
        DatasetCorrupt: (an OSError) for a damaged file.

    Examples:
        >>> images, labels = load_dataset("digits", "test", image_shape=(3, 16, 16), per_class=2)
        >>> images.shape, images.dtype, labels.bincount().tolist()
        (torch.Size([20, 3, 16, 16]), torch.uint8, [2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    dataset = open_dataset(
        name,
        split,
        root,
        image_shape=image_shape,
        per_class=per_class,
        download=download,
        background=background,
    )
    return dataset.images(0, len(dataset)), dataset.labels


def open_dataset(
    name: str,
    split: str = "train",
    root: str | Path | None = None,
    *,
    image_shape: Shape | None = None,
    per_class: int | None = None,
    download: bool = False,
    background: Colour = WHITE,
    refuse_other_sizes: bool = False,
) -> LazyDataset:
    """Open a split of a data set, to read its images in pieces.

    Known data sets and .npz files are read whole. The images of other data sets may be larger than the memory. If the
    data set is a folder of images, this function reads only the headers of its files, or nothing at all of the files if
    an `image_shape` is given. A file with damaged pixels raises an error only when its image is read.

    Args:
        name: one of `dataset_names`, such as "mnist" or "folder:/data/cats".
        split: "train", "validation" or "test".
        root: the data root; None for the folder that `data_root` returns.
        image_shape: (C, H, W) to convert the images to with `glow.datasets.decode.convert`. None stands for
            `Entry.image_shape` of a known data set, and for the images' own shape if the name contains a path.
        per_class: keep only the first `per_class` images of each class.
        download: fetch files that are missing.
        background: the colour (R, G, B) that transparent images of a folder or of Parquet files are composited over.
        refuse_other_sizes: whether an image of Parquet files raises DatasetCorrupt when it is read, if its size is not
            that of `image_shape`. Give it if `image_shape` is the one that `describe` found, which reads the size of
            only the first image in Parquet files, but of all images in a folder.

    Returns:
        The data set, whose images are in the order of the files.

    Raises:
        ValueError, DatasetNotFound, DatasetCorrupt: as `load_dataset`.

    Examples:
        >>> dataset = open_dataset("noise", "test", image_shape=(3, 32, 32))
        >>> len(dataset), dataset.nbytes
        (1000, 3072000)
        >>> dataset.images(100, 116).shape
        torch.Size([16, 3, 32, 32])
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    _check_shape(image_shape)
    if per_class is not None and per_class < 1:
        raise ValueError(f"per_class must be at least 1, not {per_class}")
    dataset = image_source(name, root, download, background=background, refuse_other_sizes=refuse_other_sizes).open(
        split, image_shape
    )
    if per_class is not None:
        dataset = dataset.subset(first_of_each_class(dataset.labels, per_class, dataset.class_names, split))
    if len(dataset) == 0:
        raise ValueError(
            f"split {split!r} of {name} has no images: a class needs ten images to have some in each split"
        )
    return dataset


def describe(
    name: str,
    root: str | Path | None = None,
    *,
    image_shape: Shape | None = None,
    background: Colour = WHITE,
    skip_unreadable: bool = False,
) -> DatasetInfo:
    """Return the shapes, classes and available splits of a data set without decoding its images.

    If the data set is a folder of images, the headers of all its files are read. In Parquet files, headers are read
    up to that of the first coloured image, unless an `image_shape` is given.

    Args:
        name: one of `dataset_names`.
        root: the data root; None for the folder that `data_root` returns.
        image_shape: (C, H, W) in which the images will be read. None stands for `Entry.image_shape` of a known data
            set, and for the images' own shape if the name contains a path.
        background: the colour (R, G, B) that transparent images of a folder will be composited over. If there are such
            images, a sentence in `DatasetInfo.notes` says so.
        skip_unreadable: pass over files of a folder, or images in Parquet files, whose headers cannot be read, unless
            none can be read.

    Raises:
        ValueError: for an unknown name or an impossible `image_shape`, or if `image_shape` is None and the images of a
            folder differ in size.
        DatasetNotFound, DatasetCorrupt: if the name contains a path, and its files are missing or damaged. A known data
            set whose files are missing raises no error; its `splits` are empty.

    Examples:
        >>> info = describe("cifar10", root="/no/such/folder")
        >>> info.image_shape, info.class_names[:3], info.splits
        ((3, 32, 32), ('airplane', 'automobile', 'bird'), ())
    """
    _check_shape(image_shape)
    return image_source(name, root, background=background, skip_unreadable=skip_unreadable).describe(image_shape)


def own_channels(name: str, skip_unreadable: bool = False) -> int:
    """Return the number of channels of a data set's images: 1 if they are grey, else 3.

    For a folder, the headers of all its files are read; in Parquet files, headers up to that of the first coloured
    image.

    Args:
        name: one of `dataset_names`.
        skip_unreadable: pass over files of a folder whose headers cannot be read, unless no file can be read.

    Raises:
        ValueError: for an unknown name.
        DatasetNotFound, DatasetCorrupt: if the name contains a path, and its files are missing or damaged.

    Examples:
        >>> own_channels("mnist"), own_channels("svhn")
        (1, 3)
    """
    return image_source(name, skip_unreadable=skip_unreadable).channels()


def status(name: str, root: str | Path | None = None) -> DatasetStatus:
    """Return the state of a data set's files.

    The files of a known data set are judged by their names and sizes, and IDX files also by their headers and labels.
    If the name contains a path, the class for this kind of name judges the files (`ImageSource.check`).

    Args:
        name: one of `dataset_names`.
        root: the data root; None for the folder that `data_root` returns.

    Raises:
        ValueError: for an unknown name.

    Examples:
        >>> found = status("mnist", root="/no/such/folder")
        >>> found.state, found.advice.partition(",")[0]
        ('missing', 'Load with download=True')
    """
    return image_source(name, root).status()


def image_source(name: str, root: str | Path | None = None, download: bool = False, **how: Any) -> ImageSource:
    """Return what opens and describes the data set with a name.

    Args:
        name: one of `dataset_names`.
        root: the data root; None for the folder that `data_root` returns.
        download: whether a known data set fetches files that are missing.
        how: arguments of `ImageSource`; known data sets need none.

    Raises:
        ValueError: for an unknown name.

    Examples:
        >>> image_source("folder:/data/cats").path
        '/data/cats'
    """
    place = place_of(name)
    if place is not None:
        return KINDS[place.kind](name, **how)
    if name in REGISTRY:
        return KnownDataset(name, data_root(root), download)
    if name in LAYOUTS:
        return KnownFolder(name, data_root(root), **how)
    names = dataset_names()
    close = difflib.get_close_matches(name.lower(), names)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise ValueError(f"unknown data set {name!r}{hint}: use one of {', '.join(names)}")


def _check_shape(image_shape: Shape | None) -> None:
    if image_shape is not None and (len(image_shape) != 3 or min(image_shape) < 1):
        raise ValueError(f"image_shape must be three positive numbers (C, H, W), not {image_shape}")
