"""The known data sets, which have a name of their own such as "mnist": their readers, shapes, classes and files.

To add a data set, add an `Entry` to `REGISTRY`, and a reader to `readers.py` if its files have a new format.

Shapes: C channels, H rows, W columns.
"""

from __future__ import annotations

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

from glow.datasets.base import DatasetNotFound, MemberRule, Shape
from glow.datasets.readers import (
    PHOTOS,
    Reader,
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
from glow.datasets.tensors import deal, everything, hold_out

Downloader = Callable[[ModuleType, str, bool], object]
"""A function that downloads: torchvision.datasets, a folder, and whether to fetch the train files -> not used."""

__all__ = ["REGISTRY", "Entry"]


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

    def fetch(self, name: str, root: Path, part: str) -> None:
        """Download the files with torchvision into a temporary folder, and move those that were missing into the root.

        An interrupted download thus leaves no incomplete files.

        Raises:
            DatasetNotFound: if the download fails.
        """
        assert self.download is not None
        missing = self.missing(part, root)
        try:
            from torchvision import datasets

            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as scratch:
                self.download(datasets, scratch, part == "train")
                for file in dict.fromkeys(file for files in self.files.values() for file in files):
                    if file in missing or (Path(scratch, file).is_file() and not (root / file).exists()):
                        (root / file).parent.mkdir(parents=True, exist_ok=True)
                        os.replace(Path(scratch, file), root / file)
        except (OSError, RuntimeError, EOFError, zlib.error, http.client.HTTPException) as error:
            cause = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise DatasetNotFound(
                f"the download of {name} failed ({cause})", remedy=self.remedy(root, missing), code="download-failed"
            ) from error


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
