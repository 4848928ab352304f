"""The known data sets, which have a name of their own such as "mnist": their shapes, classes, files and checksums.

To add a data set, add an `Entry` to `REGISTRY`, and a reader to `readers.py` if its files have a new format.
torchvision downloads the files.

Shapes: C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import string
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from glow.datasets.base import SPLITS, DatasetInfo, DatasetNotFound, DatasetStatus, MemberRule, Shape
from glow.datasets.decode import check_channels, convert
from glow.datasets.lazy import ImageSource, LazyDataset
from glow.datasets.readers import (
    PHOTOS,
    Opener,
    Reader,
    Request,
    map_idx,
    part_with,
    read_constant,
    read_digits,
    read_idx,
    read_noise,
    read_photos,
    read_with_torchvision,
)
from glow.datasets.splits import deal, everything, hold_out
from glow.errors import DOWNLOAD_ADVICE

PUBLISHED: Mapping[str, str | int] = {
    # torchvision has the MD5s of the packed files. For MNIST, the labels of Fashion-MNIST and the test files of KMNIST,
    # these were computed from the official files. For the images of Fashion-MNIST they come from public lists of the
    # unpacked files, which agree with one another, and whose MD5s of the labels agree with the computed ones.
    "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    "FashionMNIST/raw/train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "FashionMNIST/raw/train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "FashionMNIST/raw/t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "FashionMNIST/raw/t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    "KMNIST/raw/t10k-images-idx3-ubyte": "bf305b8cd328700fbc17f5acbc2856d2",
    "KMNIST/raw/t10k-labels-idx1-ubyte": "9f55f451c0988b028eccdf7d5cc265ab",
    "KMNIST/raw/train-images-idx3-ubyte": 60_000,
    "EMNIST/raw/emnist-letters-train-images-idx3-ubyte": 124_800,
    "EMNIST/raw/emnist-letters-test-images-idx3-ubyte": 20_800,
}
"""The MD5 of each published file, or the number of its images if no MD5 is known. torchvision checks other files."""


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

    Examples:
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
    check: Callable[[tuple[Path, ...]], object] = lambda files: None
    download: Opener | None = None
    page: str = ""

    def paths(self, part: str, root: Path) -> tuple[Path, ...]:
        """Return the paths of the files of a part."""
        return tuple(root / file for file in self.files.get(part, ()))

    def missing(self, part: str, root: Path) -> tuple[str, ...]:
        """Return the files of a part that are not there."""
        return tuple(file for file in self.files.get(part, ()) if not (root / file).is_file())

    def remedy(self, root: Path, missing: tuple[str, ...]) -> str:
        """Return the advice how to get missing files by hand."""
        folder = root / Path(missing[0]).parent
        *others, last = (Path(file).name for file in missing)
        files = f"{', '.join(others)} and {last}" if others else last
        return f"put {files} into {folder} (from {self.page}), or set GLOW_DATA_ROOT to a folder that has them"


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder that contains the files of known data sets.

    Args:
        root: this folder, if given. Else it is $GLOW_DATA_ROOT, else glow/data in $XDG_CACHE_HOME, else
            ~/.cache/glow/data.

    Returns:
        An absolute path; the folder may not exist yet.

    Examples:
        >>> data_root("/data")
        PosixPath('/data')
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root or os.environ.get("GLOW_DATA_ROOT") or f"{cache}/glow/data").expanduser().absolute()


class KnownDataset(ImageSource):
    """A known data set, whose files are in the data root.

    Args:
        name: a name in `REGISTRY`.
        root: the data root.
        download: whether `open` fetches files that are missing.

    Examples:
        >>> KnownDataset("mnist", Path("/no/such/folder")).status().state
        'missing'
    """

    ADD_SPLIT = "download the files of {split}"

    def __init__(self, name: str, root: Path, download: bool = False) -> None:
        super().__init__(name)
        self.root, self.entry = root, REGISTRY[name]
        self.download = download

    def open(self, split: str, image_shape: Shape | None) -> LazyDataset:
        """Read the part that contains the split; images are converted when they are asked for."""
        entry, part = self.entry, part_with(split)
        missing = entry.missing(part, self.root)
        if missing and not (self.download and entry.download):
            by_hand = entry.remedy(self.root, missing)
            raise DatasetNotFound(
                f"{self.name} has no {part} files{self._in_their_place(missing)}",
                remedy=f"{DOWNLOAD_ADVICE}, {by_hand}" if entry.download else by_hand,
                code="dataset-files-missing",
            )
        if missing:
            self._fetch(part, missing)
        shape = image_shape or entry.image_shape
        images, labels = entry.read(Request(split, self.root, entry.paths(part, self.root), shape))
        check_channels(images.shape[1], shape[0])  # before any image is asked for
        notes = self._differences(part, len(images))
        dataset = LazyDataset(labels, entry.class_names, shape, lambda indices: convert(images[indices], shape), notes)
        return dataset.subset(entry.members(labels, split))

    def describe(self, image_shape: Shape | None) -> DatasetInfo:
        """Describe the data set; if its files are missing, it has no splits."""
        shape = image_shape or self.entry.image_shape
        splits = tuple(split for split in SPLITS if not self.entry.missing(part_with(split), self.root))
        return DatasetInfo(self.name, self.entry.original_shape or shape, shape, self.entry.class_names, splits)

    def channels(self) -> int:
        """Return the number of channels in the files."""
        return self.entry.image_shape[0]

    def check(self) -> tuple[str, ...]:
        """Check the headers and labels of IDX files, and that other files exist."""
        there = [part for part in self.entry.files if not self.entry.missing(part, self.root)]
        for part in there:
            self.entry.check(self.entry.paths(part, self.root))
        return SPLITS if len(there) == len(self.entry.files) else tuple(there)

    def status(self) -> DatasetStatus:
        """Return the state of the files; the advice says where missing ones belong."""
        found = super().status()
        missing = dict.fromkeys(file for part in self.entry.files for file in self.entry.missing(part, self.root))
        if not missing or found.state.startswith("corrupt"):
            return found
        absent = tuple(missing)
        advice = f"L{DOWNLOAD_ADVICE[1:]}, {self.entry.remedy(self.root, absent)}."
        return replace(found, state=found.state + self._in_their_place(absent), advice=advice)

    def _in_their_place(self, missing: tuple[str, ...]) -> str:
        """Describe what is in the place of a missing file: a folder, or the compressed file next to it; else ""."""
        for file in missing:
            path = self.root / file
            if path.is_dir():
                return f" ({path} is a folder: move it away)"
            if path.with_name(f"{path.name}.gz").is_file():
                return f" ({path}.gz is still compressed: unpack it with gunzip)"
        return ""

    def _fetch(self, part: str, missing: tuple[str, ...]) -> None:
        """Download into a temporary folder, and move the files into the root that are not there.

        An interrupted download thus leaves no incomplete files.

        Raises:
            DatasetNotFound: if the download fails.
        """
        assert self.entry.download is not None
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.root, prefix=".download-") as scratch:
                self.entry.download(scratch, part == "train", True)
                for file in dict.fromkeys(file for files in self.entry.files.values() for file in files):
                    target = self.root / file
                    if file in missing or (Path(scratch, file).is_file() and not target.exists()):
                        target.parent.mkdir(parents=True, exist_ok=True)
                        os.replace(Path(scratch, file), target)
        except (OSError, RuntimeError, EOFError, zlib.error, http.client.HTTPException) as error:
            cause = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise DatasetNotFound(
                f"the download of {self.name} failed ({cause})",
                remedy=self.entry.remedy(self.root, missing),
                code="download-failed",
            ) from error

    def _differences(self, part: str, images: int) -> tuple[str, ...]:
        """Return one sentence about the files of a part that differ from the published ones, or an empty tuple."""
        found = []
        for path, file in zip(self.entry.paths(part, self.root), self.entry.files.get(part, ()), strict=True):
            match PUBLISHED.get(file):
                case str(md5) if (digest := hashlib.md5(path.read_bytes()).hexdigest()) != md5:
                    found.append(f"{path.name} has MD5 {digest}, not {md5}")
                case int(count) if images != count:
                    found.append(f"{path.name} has {images} images, not {count}")
        return (f"{self.name} is not as published: {', '.join(found)}",) if found else ()


def _torchvision(name: str, **options: str) -> Opener:
    def opener(root: Path | str, train: bool, download: bool) -> Any:
        from torchvision import datasets

        part = {"split": "train" if train else "test"} if name == "SVHN" else {"train": train}
        return getattr(datasets, name)(root, download=download, **options, **part)

    return opener


def _like_mnist(
    name: str,
    class_names: tuple[str, ...],
    page: str,
    *,
    stems: tuple[str, str] = ("train", "t10k"),
    options: Mapping[str, str] | None = None,
    **how: Any,
) -> Entry:
    """Return the entry of a data set of 28x28 grey images in two pairs of IDX files."""
    files = {
        part: (f"{name}/raw/{stem}-images-idx3-ubyte", f"{name}/raw/{stem}-labels-idx1-ubyte")
        for part, stem in zip(("train", "test"), stems, strict=True)
    }
    return Entry(
        partial(read_idx, classes=len(class_names), **how),
        original_shape=(1, 28, 28),
        image_shape=(1, 32, 32),
        class_names=class_names,
        files=files,
        check=partial(map_idx, classes=len(class_names), **how),
        download=_torchvision(name, **options or {}),
        page=page,
    )


def _with_torchvision(
    name: str, class_names: tuple[str, ...], files: Mapping[str, tuple[str, ...]], page: str
) -> Entry:
    """Return the entry of a data set of 32x32 colour images that torchvision reads."""
    opener, shape = _torchvision(name), (3, 32, 32)
    read = partial(read_with_torchvision, opener=opener)
    return Entry(read, shape, shape, class_names, hold_out, files, download=opener, page=page)


_DIGITS = tuple(string.digits)
_FASHION = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"
)  # fmt: skip
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR10_FILES = tuple(
    f"cifar-10-batches-py/{file}" for file in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
)  # torchvision reads either part only if all files are there
_CIFAR100 = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
    "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
    "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck "
    "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
    "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger "
    "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)
_CIFAR100_FILES = tuple(f"cifar-100-python/{file}" for file in ("train", "test", "meta"))

REGISTRY: Mapping[str, Entry] = {
    "digits": Entry(read_digits, (1, 8, 8), (1, 8, 8), _DIGITS, deal),
    "mnist": _like_mnist("MNIST", _DIGITS, "https://ossci-datasets.s3.amazonaws.com/mnist/"),
    "fashion-mnist": _like_mnist("FashionMNIST", _FASHION, "https://github.com/zalandoresearch/fashion-mnist"),
    "kmnist": _like_mnist(
        "KMNIST",
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        "https://github.com/rois-codh/kmnist",
    ),
    "emnist-letters": _like_mnist(
        "EMNIST",
        tuple(string.ascii_uppercase),
        "https://www.nist.gov/itl/products-and-services/emnist-dataset",
        stems=("emnist-letters-train", "emnist-letters-test"),
        options={"split": "letters"},
        transposed=True,
        first_label=1,
    ),
    "cifar10": _with_torchvision(
        "CIFAR10",
        _CIFAR10,
        {"train": _CIFAR10_FILES, "test": _CIFAR10_FILES},
        "https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "cifar100": _with_torchvision(
        "CIFAR100",
        tuple(_CIFAR100.split()),
        {"train": _CIFAR100_FILES, "test": _CIFAR100_FILES},
        "https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "svhn": _with_torchvision(
        "SVHN",
        _DIGITS,
        {"train": ("train_32x32.mat",), "test": ("test_32x32.mat",)},
        "http://ufldl.stanford.edu/housenumbers/",
    ),
    "noise": Entry(read_noise, None, (1, 32, 32), ("noise",), everything),
    "constant": Entry(read_constant, None, (1, 32, 32), ("constant",), everything),
    "photos": Entry(read_photos, None, (3, 32, 32), PHOTOS, everything),
}
"""The known data sets by name."""
