"""The known data sets, which have a name of their own such as "mnist", and the functions that take a data set's name.

To add a data set, add an `Entry` to `REGISTRY`, and a reader to `readers.py` if its files have a new format. Names that
contain a path, such as "folder:PATH", have their functions in `PLACED_KINDS`.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import difflib
import http.client
import os
import string
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType

from torch import Tensor

from glow.datasets.arrays import arrays_channels, arrays_status, describe_arrays, open_arrays
from glow.datasets.base import SPLITS, DatasetCorrupt, DatasetInfo, DatasetNotFound, DatasetStatus, MemberRule, Shape
from glow.datasets.decode import WHITE, Colour
from glow.datasets.folder import describe_folder, folder_channels, folder_status, open_folder
from glow.datasets.lazy import LazyDataset
from glow.datasets.names import PLACED, place_of
from glow.datasets.packed import describe_packed, open_packed, packed_channels, packed_status
from glow.datasets.parquet import describe_parquet, open_parquet, parquet_channels, parquet_status
from glow.datasets.published import differences
from glow.datasets.readers import (
    PHOTOS,
    Reader,
    Request,
    check_idx,
    check_not_empty,
    read_cifar10,
    read_constant,
    read_digits,
    read_idx,
    read_noise,
    read_photos,
    read_svhn,
)
from glow.datasets.tensors import check_channels, convert, deal, everything, first_of_each_class, hold_out
from glow.errors import DOWNLOAD_ADVICE

Downloader = Callable[[ModuleType, str, bool], object]
"""A function that downloads: torchvision.datasets, a folder, and whether to fetch the train files -> not used."""

__all__ = [
    "REGISTRY",
    "Entry",
    "data_root",
    "dataset_names",
    "describe",
    "load_dataset",
    "open_dataset",
    "own_channels",
    "status",
]


@dataclass(frozen=True)
class Entry:
    """A known data set: its reader, its shape and classes, and the origin of its files.

    Attributes:
        read: the reader.
        original_shape: (C, H, W) in the files; None if the data set is generated in the shape that is asked for.
        image_shape: (C, H, W) by default, after padding.
        class_names: the name of each label.
        members: the rule that selects the images of a split.
        files: the files of the parts "train" and "test", relative to the data root and in one folder; empty for a data
            set that is generated or part of scikit-learn.
        check: a function that checks the files of a part without reading pixels, and raises DatasetCorrupt.
        download: a function that downloads the files with torchvision; None if `files` is empty.
        page: the web page that has the files; "" if `files` is empty.

    Example:
        >>> entry = REGISTRY["mnist"]
        >>> entry.original_shape, entry.image_shape
        ((1, 28, 28), (1, 32, 32))
        >>> entry.files["test"]
        ('MNIST/raw/t10k-images-idx3-ubyte', 'MNIST/raw/t10k-labels-idx1-ubyte')
    """

    read: Reader
    original_shape: Shape | None
    image_shape: Shape
    class_names: tuple[str, ...]
    members: MemberRule = hold_out
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    check: Callable[[tuple[Path, ...]], None] = check_not_empty
    download: Downloader | None = None
    page: str = ""


def _like_mnist(
    folder: str,
    class_names: tuple[str, ...],
    download: Downloader,
    page: str,
    *,
    transposed: bool = False,
    first_label: int = 0,
    stems: tuple[str, str] = ("train", "t10k"),
) -> Entry:
    """Return the entry of a data set of 28x28 grey images in two pairs of IDX files."""
    files = {
        part: (f"{folder}/{stem}-images-idx3-ubyte", f"{folder}/{stem}-labels-idx1-ubyte")
        for part, stem in zip(("train", "test"), stems, strict=True)
    }
    read = partial(read_idx, transposed=transposed, first_label=first_label)
    check = partial(check_idx, first_label=first_label, num_classes=len(class_names))
    return Entry(read, (1, 28, 28), (1, 32, 32), class_names, hold_out, files, check, download, page)


_DIGITS = tuple(string.digits)
_FASHION = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"
)  # fmt: skip
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR10_FILES = tuple(
    f"cifar-10-batches-py/{file}" for file in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
)

REGISTRY: Mapping[str, Entry] = {
    "digits": Entry(read_digits, (1, 8, 8), (1, 8, 8), _DIGITS, deal),
    "mnist": _like_mnist(
        "MNIST/raw",
        _DIGITS,
        lambda sets, root, train: sets.MNIST(root, train, download=True),
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    "fashion-mnist": _like_mnist(
        "FashionMNIST/raw",
        _FASHION,
        lambda sets, root, train: sets.FashionMNIST(root, train, download=True),
        "https://github.com/zalandoresearch/fashion-mnist",
    ),
    "kmnist": _like_mnist(
        "KMNIST/raw",
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        lambda sets, root, train: sets.KMNIST(root, train, download=True),
        "https://github.com/rois-codh/kmnist",
    ),
    "emnist-letters": _like_mnist(
        "EMNIST/raw",
        tuple(string.ascii_uppercase),
        lambda sets, root, train: sets.EMNIST(root, "letters", train=train, download=True),
        "https://www.nist.gov/itl/products-and-services/emnist-dataset",
        transposed=True,
        first_label=1,
        stems=("emnist-letters-train", "emnist-letters-test"),
    ),
    "cifar10": Entry(
        read_cifar10,
        original_shape=(3, 32, 32),
        image_shape=(3, 32, 32),
        class_names=_CIFAR10,
        files={
            "train": _CIFAR10_FILES,
            "test": _CIFAR10_FILES,
        },  # torchvision reads either part only if all files are there
        download=lambda sets, root, train: sets.CIFAR10(root, train, download=True),
        page="https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "svhn": Entry(
        read_svhn,
        original_shape=(3, 32, 32),
        image_shape=(3, 32, 32),
        class_names=_DIGITS,
        files={"train": ("train_32x32.mat",), "test": ("test_32x32.mat",)},
        download=lambda sets, root, train: sets.SVHN(root, "train" if train else "test", download=True),
        page="http://ufldl.stanford.edu/housenumbers/",
    ),
    "noise": Entry(read_noise, None, (1, 32, 32), ("noise",), everything),
    "constant": Entry(read_constant, None, (1, 32, 32), ("constant",), everything),
    "photos": Entry(read_photos, None, (3, 32, 32), PHOTOS, everything),
}
"""The known data sets by name."""


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
    splits = tuple(split for split in SPLITS if not _missing(entry, _part(split), root))
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
    missing = {part: _missing(entry, part, root) for part in entry.files}
    there = [part for part in entry.files if not missing[part]]
    try:
        for part in there:
            entry.check(_paths(entry, part, root))
    except DatasetCorrupt as error:
        return DatasetStatus(name, f"corrupt: {error.problem}", f"{error.remedy[:1].upper()}{error.remedy[1:]}.")
    if len(there) == len(entry.files):
        return DatasetStatus(name, "found", "Nothing to do.")
    absent = tuple(dict.fromkeys(file for files in missing.values() for file in files))
    state = (f"partial: {there[0]} only" if there else "missing") + _in_their_place(root, absent)
    return DatasetStatus(name, state, f"L{DOWNLOAD_ADVICE[1:]}, {_remedy(entry, root, absent)}.")


def _open(name: str, split: str, root: Path, image_shape: Shape | None, download: bool) -> LazyDataset:
    entry, part = _entry(name), _part(split)
    missing = _missing(entry, part, root)
    if missing and not (download and entry.download):
        instead = _in_their_place(root, missing)
        by_hand = _remedy(entry, root, missing)
        raise DatasetNotFound(
            f"{name} has no {part} files{instead}",
            remedy=f"{DOWNLOAD_ADVICE}, {by_hand}" if entry.download else by_hand,
            code="dataset-files-missing",
        )
    if missing:
        _fetch(name, entry, root, part, missing)
    shape = image_shape or entry.image_shape
    files = _paths(entry, part, root)
    request = Request(split, part, root, files, len(entry.class_names), shape)
    images, labels = entry.read(request)
    check_channels(images.shape[1], shape[0])  # before any image is asked for
    notes = differences(name, root, entry.files.get(part, ()), len(images))
    dataset = LazyDataset(labels, entry.class_names, shape, lambda indices: convert(images[indices], shape), notes)
    return dataset.subset(entry.members(labels, split))


def _fetch(name: str, entry: Entry, root: Path, part: str, missing: tuple[str, ...]) -> None:
    """Download the files with torchvision into a temporary folder, and move those that were missing to the data root.

    An interrupted download thus leaves no incomplete files.
    """
    assert entry.download is not None
    try:
        from torchvision import datasets

        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as scratch:
            entry.download(datasets, scratch, part == "train")
            for file in dict.fromkeys(file for files in entry.files.values() for file in files):
                if file in missing or (Path(scratch, file).is_file() and not (root / file).exists()):
                    (root / file).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(Path(scratch, file), root / file)
    except (OSError, RuntimeError, EOFError, zlib.error, http.client.HTTPException) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise DatasetNotFound(
            f"the download of {name} failed ({cause})", remedy=_remedy(entry, root, missing), code="download-failed"
        ) from error


def _in_their_place(root: Path, missing: tuple[str, ...]) -> str:
    """Describe what is in the place of a missing file: a folder, or the compressed file next to it; else ""."""
    for file in missing:
        path = root / file
        if path.is_dir():
            return f" ({path} is a folder: move it away)"
        if path.with_name(f"{path.name}.gz").is_file():
            return f" ({path}.gz is still compressed: unpack it with gunzip)"
    return ""


def _remedy(entry: Entry, root: Path, missing: tuple[str, ...]) -> str:
    """Return the advice how to get files by hand."""
    folder = root / Path(missing[0]).parent
    *others, last = (Path(file).name for file in missing)
    files = f"{', '.join(others)} and {last}" if others else last
    return f"put {files} into {folder} (from {entry.page}), or set GLOW_DATA_ROOT to a folder that has them"


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


def _paths(entry: Entry, part: str, root: Path) -> tuple[Path, ...]:
    return tuple(root / file for file in entry.files.get(part, ()))


def _missing(entry: Entry, part: str, root: Path) -> tuple[str, ...]:
    return tuple(file for file in entry.files.get(part, ()) if not (root / file).is_file())
