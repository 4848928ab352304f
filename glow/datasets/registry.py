"""The data sets there are, and what can be asked about one by its name. To add one, add to `REGISTRY`."""

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
"""(torchvision.datasets, root, whether the train files are wanted) -> a torchvision data set, downloaded"""

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
    """One data set: how it is read, what it looks like, and where its files come from."""

    read: Reader
    original_shape: Shape | None  # (C, H, W) in the files; None: made at whatever shape is asked for
    image_shape: Shape  # by default, after padding
    class_names: tuple[str, ...]
    members: MemberRule = hold_out
    # "train" and "test" -> their files, relative to the root, in one folder; empty: nothing to find
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    check: Callable[[tuple[Path, ...]], None] = check_not_empty  # of the files of a part: cheap, reads no pixels
    download: Downloader | None = None
    page: str = ""  # where a person finds the files


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
    """An entry for 28x28 grey images in two pairs of IDX files."""
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
        files={"train": _CIFAR10_FILES, "test": _CIFAR10_FILES},  # torchvision wants all of them for either
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


@dataclass(frozen=True)
class PlacedKind:
    """What can be asked about a data set whose name holds a path; each takes the name first."""

    open: Callable[[str, str, Shape | None, Colour], LazyDataset]
    describe: Callable[[str, Shape | None, Colour, bool], DatasetInfo]
    channels: Callable[[str, bool], int]
    status: Callable[[str], DatasetStatus]


PLACED_KINDS: Mapping[str, PlacedKind] = {
    "folder": PlacedKind(open_folder, describe_folder, folder_channels, folder_status),
    "arrays": PlacedKind(
        lambda name, split, shape, background: open_arrays(name, split, shape),
        lambda name, shape, background, skip_unreadable: describe_arrays(name, shape),
        lambda name, skip_unreadable: arrays_channels(name),
        arrays_status,
    ),
    "packed": PlacedKind(
        lambda name, split, shape, background: open_packed(name, split, shape),
        lambda name, shape, background, skip_unreadable: describe_packed(name, shape),
        lambda name, skip_unreadable: packed_channels(name),
        packed_status,
    ),
}


def dataset_names() -> tuple[str, ...]:
    """The names that `load_dataset` takes, for help texts; the last ones stand for any place."""
    return (*REGISTRY, *(f"{kind}:PATH" for kind in PLACED))


def data_root(root: str | Path | None = None) -> Path:
    """Where files are looked for: `root`, else $GLOW_DATA_ROOT, else glow/data in the user's cache folder."""
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
    """A split ("train", "validation" or "test") of a data set, in file order.

    Returns images, uint8 (N, C, H, W), zero-padded to the size that models take, and labels, int64 (N,).
    `image_shape` (C, H, W) asks for another shape: recoloured, shrunk if too large, padded if too small.
    `per_class` keeps the first so many images of each class. `download` fetches files that are missing.
    `background` (R, G, B) is what images of a folder are composited over where they are transparent.

    Raises ValueError for a name, split, shape or `per_class` that cannot be had, DatasetNotFound (a
    FileNotFoundError) for missing files or a failed download, DatasetCorrupt (an OSError) for a damaged file.
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
) -> LazyDataset:
    """What `load_dataset` returns, to be had piece by piece: for images that do not fit into memory.

    Takes and raises what `load_dataset` does. With an `image_shape` it opens no file of a folder, without one it
    reads their headers; what is wrong with a file's pixels is raised when they are asked for.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    _check_shape(image_shape)
    if per_class is not None and per_class < 1:
        raise ValueError(f"per_class must be at least 1, not {per_class}")
    kind = _placed(name)
    if kind is not None:
        dataset = kind.open(name, split, image_shape, background)
    else:
        dataset = _open(name, split, data_root(root), image_shape, download)
    if per_class is not None:
        dataset = dataset.subset(first_of_each_class(dataset.labels, per_class, dataset.class_names, split))
    if len(dataset) == 0:
        raise ValueError(f"split {split!r} of {name} has no images: it takes ten of a class to give each split some")
    return dataset


def describe(
    name: str,
    root: str | Path | None = None,
    *,
    image_shape: Shape | None = None,
    background: Colour = WHITE,
    skip_unreadable: bool = False,
) -> DatasetInfo:
    """Shapes, classes and available splits of a data set, without reading images (of a folder: their headers).

    With `skip_unreadable` files of a folder whose headers cannot be read are passed over, unless it has no others.
    Raises ValueError for an unknown name or impossible shape; for a folder also what `load_dataset` raises.
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
    """1 for a grey data set, 3 for a coloured one; ValueError if unknown; else what `load_dataset` raises. What cannot
    be read is passed over as by `describe`."""
    kind = _placed(name)
    return kind.channels(name, skip_unreadable) if kind is not None else _entry(name).image_shape[0]


def status(name: str, root: str | Path | None = None) -> DatasetStatus:
    """Whether a data set's files are there, judged by names, sizes, and the headers and labels of IDX files.

    Raises ValueError for an unknown name.
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
        problem = str(error).removesuffix(f"; {error.ADVICE}")
        return DatasetStatus(name, f"corrupt: {problem}", f"R{error.ADVICE[1:]}.")
    if len(there) == len(entry.files):
        return DatasetStatus(name, "found", "Nothing to do.")
    absent = tuple(dict.fromkeys(file for files in missing.values() for file in files))
    state = (f"partial: {there[0]} only" if there else "missing") + _in_their_place(root, absent)
    return DatasetStatus(name, state, f"L{DOWNLOAD_ADVICE[1:]}, {_remedy(entry, root, absent)}.")


def _open(name: str, split: str, root: Path, image_shape: Shape | None, download: bool) -> LazyDataset:
    entry, part = _entry(name), _part(split)
    missing = _missing(entry, part, root)
    if missing and not download:
        instead = _in_their_place(root, missing)
        raise DatasetNotFound(
            f"{name} has no {part} files{instead}; {DOWNLOAD_ADVICE}, {_remedy(entry, root, missing)}"
        )
    if missing:
        _fetch(name, entry, root, part, missing)
    shape = image_shape or entry.image_shape
    files = _paths(entry, part, root)
    request = Request(split, part, root, files, len(entry.class_names), shape)
    images, labels = entry.read(request)
    check_channels(images.shape[1], shape[0])  # now, not when the first images are asked for
    notes = differences(name, root, entry.files.get(part, ()), len(images))
    dataset = LazyDataset(labels, entry.class_names, shape, lambda indices: convert(images[indices], shape), notes)
    return dataset.subset(entry.members(labels, split))


def _fetch(name: str, entry: Entry, root: Path, part: str, missing: tuple[str, ...]) -> None:
    """Downloads with torchvision into a scratch folder and moves in what was missing: no half-written files."""
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
        raise DatasetNotFound(f"the download of {name} failed ({cause}); {_remedy(entry, root, missing)}") from error


def _in_their_place(root: Path, missing: tuple[str, ...]) -> str:
    """What lies where files are missing, and what to do with it: their packed form, or a folder of that name."""
    for file in missing:
        path = root / file
        if path.is_dir():
            return f" ({path} is a folder: move it away)"
        if path.with_name(f"{path.name}.gz").is_file():
            return f" ({path}.gz is there, packed: unpack it with gunzip)"
    return ""


def _remedy(entry: Entry, root: Path, missing: tuple[str, ...]) -> str:
    folder = root / Path(missing[0]).parent
    *others, last = (Path(file).name for file in missing)
    files = f"{', '.join(others)} and {last}" if others else last
    return f"put {files} into {folder} (from {entry.page}), or set GLOW_DATA_ROOT to a root that has them"


def _placed(name: str) -> PlacedKind | None:
    place = place_of(name)
    return None if place is None else PLACED_KINDS[place.kind]


def _entry(name: str) -> Entry:
    if name in REGISTRY:
        return REGISTRY[name]
    names = dataset_names()
    close = difflib.get_close_matches(name.lower(), names)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise ValueError(f"unknown data set {name!r}{hint}; there are {', '.join(names)}")


def _check_shape(image_shape: Shape | None) -> None:
    if image_shape is not None and (len(image_shape) != 3 or min(image_shape) < 1):
        raise ValueError(f"image_shape must be three positive numbers (C, H, W), not {image_shape}")


def _part(split: str) -> str:
    """Which of the official files holds a split."""
    return "test" if split == "test" else "train"


def _paths(entry: Entry, part: str, root: Path) -> tuple[Path, ...]:
    return tuple(root / file for file in entry.files.get(part, ()))


def _missing(entry: Entry, part: str, root: Path) -> tuple[str, ...]:
    return tuple(file for file in entry.files.get(part, ()) if not (root / file).is_file())
