"""The functions that take the name of a data set: a known one such as "mnist", or one with a path, "folder:PATH".

`registry.py` has the known data sets. `PLACED_KINDS` has the functions for each kind of name with a path.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from glow.datasets.arrays import arrays_channels, arrays_status, describe_arrays, open_arrays
from glow.datasets.base import SPLITS, DatasetCorrupt, DatasetInfo, DatasetNotFound, DatasetStatus, Shape
from glow.datasets.decode import WHITE, Colour
from glow.datasets.folder import describe_folder, folder_channels, folder_status, open_folder
from glow.datasets.lazy import LazyDataset
from glow.datasets.names import PLACED, place_of
from glow.datasets.packed import describe_packed, open_packed, packed_channels, packed_status
from glow.datasets.parquet import describe_parquet, open_parquet, parquet_channels, parquet_status
from glow.datasets.published import differences
from glow.datasets.readers import Request
from glow.datasets.registry import REGISTRY, Entry
from glow.datasets.tensors import check_channels, convert, first_of_each_class
from glow.errors import DOWNLOAD_ADVICE

__all__ = [
    "data_root",
    "dataset_names",
    "describe",
    "load_dataset",
    "open_dataset",
    "own_channels",
    "status",
]


@dataclass(frozen=True)
class PlacedKind:
    """The functions of one kind of data set whose name contains a path, such as "folder:PATH".

    Attributes:
        open: name, split, image_shape, background, refuse_other_sizes -> the data set.
        describe: name, image_shape, background, skip_unreadable -> the description of the data set.
        channels: name, skip_unreadable -> the number of channels of the images, 1 or 3.
        status: name -> the state of the files of the data set.
    """

    open: Callable[[str, str, Shape | None, Colour, bool], LazyDataset]
    describe: Callable[[str, Shape | None, Colour, bool], DatasetInfo]
    channels: Callable[[str, bool], int]
    status: Callable[[str], DatasetStatus]


PLACED_KINDS: Mapping[str, PlacedKind] = {
    "folder": PlacedKind(
        lambda name, split, shape, background, refuse_other_sizes: open_folder(name, split, shape, background),
        describe_folder,
        folder_channels,
        folder_status,
    ),
    "arrays": PlacedKind(
        lambda name, split, shape, background, refuse_other_sizes: open_arrays(name, split, shape),
        lambda name, shape, background, skip_unreadable: describe_arrays(name, shape),
        lambda name, skip_unreadable: arrays_channels(name),
        arrays_status,
    ),
    "parquet": PlacedKind(
        open_parquet,
        lambda name, shape, background, skip_unreadable: describe_parquet(name, shape, skip_unreadable),
        lambda name, skip_unreadable: parquet_channels(name),
        parquet_status,
    ),
    "packed": PlacedKind(
        lambda name, split, shape, background, refuse_other_sizes: open_packed(name, split, shape),
        lambda name, shape, background, skip_unreadable: describe_packed(name, shape),
        lambda name, skip_unreadable: packed_channels(name),
        packed_status,
    ),
}
"""The functions of each kind in `names.PLACED`."""


def dataset_names() -> tuple[str, ...]:
    """Return the names that `load_dataset` takes.

    "PATH" in names such as "packed:PATH" stands for a path or the URI of a bucket.

    Example:
        >>> dataset_names()[:2], dataset_names()[-1]
        (('digits', 'mnist'), 'packed:PATH')
    """
    return (*REGISTRY, *(f"{kind}:PATH" for kind in PLACED))


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder that contains the files of known data sets.

    Args:
        root: this folder, if given. Else it is $GLOW_DATA_ROOT, else glow/data in $XDG_CACHE_HOME, else
            ~/.cache/glow/data.

    Returns:
        An absolute path; the folder may not exist yet.

    Example:
        >>> data_root("/data")
        PosixPath('/data')
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root or os.environ.get("GLOW_DATA_ROOT") or f"{cache}/glow/data").expanduser().absolute()


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
        image_shape: (C, H, W) to convert the images to with `glow.datasets.tensors.convert`. None stands for
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

    Example:
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
        image_shape: (C, H, W) to convert the images to with `glow.datasets.tensors.convert`. None stands for
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

    Example:
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
    kind = _placed(name)
    if kind is not None:
        dataset = kind.open(name, split, image_shape, background, refuse_other_sizes)
    else:
        dataset = _open(name, split, data_root(root), image_shape, download)
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

    Example:
        >>> info = describe("cifar10", root="/no/such/folder")
        >>> info.image_shape, info.class_names[:3], info.splits
        ((3, 32, 32), ('airplane', 'automobile', 'bird'), ())
    """
    _check_shape(image_shape)
    kind = _placed(name)
    if kind is not None:
        return kind.describe(name, image_shape, background, skip_unreadable)
    entry, root = _entry(name), data_root(root)
    shape = image_shape or entry.image_shape
    splits = tuple(split for split in SPLITS if not entry.missing(_part(split), root))
    return DatasetInfo(name, entry.original_shape or shape, shape, entry.class_names, splits)


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

    Example:
        >>> own_channels("mnist"), own_channels("svhn")
        (1, 3)
    """
    kind = _placed(name)
    return kind.channels(name, skip_unreadable) if kind is not None else _entry(name).image_shape[0]


def status(name: str, root: str | Path | None = None) -> DatasetStatus:
    """Return the state of a data set's files.

    The files of a known data set are judged by their names and sizes, and IDX files also by their headers and labels.
    If the name contains a path, a function for this kind of data set judges the files, such as `folder_status`.

    Args:
        name: one of `dataset_names`.
        root: the data root; None for the folder that `data_root` returns.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> found = status("mnist", root="/no/such/folder")
        >>> found.state, found.advice.partition(",")[0]
        ('missing', 'Load with download=True')
    """
    kind = _placed(name)
    if kind is not None:
        return kind.status(name)
    entry, root = _entry(name), data_root(root)
    missing = {part: entry.missing(part, root) for part in entry.files}
    there = [part for part in entry.files if not missing[part]]
    try:
        for part in there:
            entry.check(entry.paths(part, root))
    except DatasetCorrupt as error:
        return DatasetStatus(name, f"corrupt: {error.problem}", f"{error.remedy[:1].upper()}{error.remedy[1:]}.")
    if len(there) == len(entry.files):
        return DatasetStatus(name, "found", "Nothing to do.")
    absent = tuple(dict.fromkeys(file for files in missing.values() for file in files))
    state = (f"partial: {there[0]} only" if there else "missing") + _in_their_place(root, absent)
    return DatasetStatus(name, state, f"L{DOWNLOAD_ADVICE[1:]}, {entry.remedy(root, absent)}.")


def _open(name: str, split: str, root: Path, image_shape: Shape | None, download: bool) -> LazyDataset:
    entry, part = _entry(name), _part(split)
    missing = entry.missing(part, root)
    if missing and not (download and entry.download):
        instead = _in_their_place(root, missing)
        by_hand = entry.remedy(root, missing)
        raise DatasetNotFound(
            f"{name} has no {part} files{instead}",
            remedy=f"{DOWNLOAD_ADVICE}, {by_hand}" if entry.download else by_hand,
            code="dataset-files-missing",
        )
    if missing:
        entry.fetch(name, root, part)
    shape = image_shape or entry.image_shape
    files = entry.paths(part, root)
    request = Request(split, part, root, files, len(entry.class_names), shape)
    images, labels = entry.read(request)
    check_channels(images.shape[1], shape[0])  # before any image is asked for
    notes = differences(name, root, entry.files.get(part, ()), len(images))
    dataset = LazyDataset(labels, entry.class_names, shape, lambda indices: convert(images[indices], shape), notes)
    return dataset.subset(entry.members(labels, split))


def _in_their_place(root: Path, missing: tuple[str, ...]) -> str:
    """Describe what is in the place of a missing file: a folder, or the compressed file next to it; else ""."""
    for file in missing:
        path = root / file
        if path.is_dir():
            return f" ({path} is a folder: move it away)"
        if path.with_name(f"{path.name}.gz").is_file():
            return f" ({path}.gz is still compressed: unpack it with gunzip)"
    return ""


def _placed(name: str) -> PlacedKind | None:
    """Return the functions for a name that contains a path, else None."""
    place = place_of(name)
    return None if place is None else PLACED_KINDS[place.kind]


def _entry(name: str) -> Entry:
    if name in REGISTRY:
        return REGISTRY[name]
    names = dataset_names()
    close = difflib.get_close_matches(name.lower(), names)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise ValueError(f"unknown data set {name!r}{hint}: use one of {', '.join(names)}")


def _check_shape(image_shape: Shape | None) -> None:
    if image_shape is not None and (len(image_shape) != 3 or min(image_shape) < 1):
        raise ValueError(f"image_shape must be three positive numbers (C, H, W), not {image_shape}")


def _part(split: str) -> str:
    """Return the official part that contains a split."""
    return "test" if split == "test" else "train"
