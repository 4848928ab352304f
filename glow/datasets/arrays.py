"""``arrays:PATH``: images in numpy's files, an .npz file, an .npy file or a folder of such files.

The array ``images`` is uint8 (N, C, H, W), (N, H, W, C) or (N, H, W), with 1 or 3 channels. The array ``labels`` has
one integer per image, and classes are numbered from 0; without this array all labels are 0. The name of an array can
begin with a split, such as ``train_images`` or ``test_labels``: the array then contains the images or labels of that
split. `glow.datasets.splits` has the names of splits. If there are train images but no validation images, the last
tenth of each class of the train images is the validation split (`glow.datasets.splits.hold_out`). If no array names a
split, the images of each class are divided among the three splits (`glow.datasets.splits.deal`).

In a folder, the name of an .npy file is the name of its array, and the arrays of a split can also be in a file
``train.npz``, ``val.npz``, ``test.npz`` and so on. A single .npy file is the array ``images``.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glow.datasets.base import SPLITS, DatasetCorrupt, DatasetInfo, DatasetNotFound, Shape, reason
from glow.datasets.decode import check_channels, convert
from glow.datasets.lazy import ImageSource, LazyDataset
from glow.datasets.splits import (
    ALL,
    no_split_notes,
    numbered_classes,
    one_name_per_split,
    part_of,
    split_named,
    splits_of,
)

NOT_AN_ARRAY = (
    OSError,
    ValueError,
    EOFError,  # an empty file, or one that ends within an array
    TypeError,  # a damaged header
    tokenize.TokenError,  # a damaged header, too
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,  # an archive that is encrypted or, as NotImplementedError, compressed in an unknown way
    AttributeError,  # an .npy file with the name of an .npz file
)
"""The errors of `numpy.load`, found by changing bytes of .npy and .npz files at random."""


IMAGES, LABELS = "images", "labels"
"""The names of the arrays, without the split before them."""


@dataclass(frozen=True)
class _Part:
    """The images and labels of one split, or of a data set without splits.

    Attributes:
        images: uint8 (N, C, H, W), mapped into memory if they are from an .npy file.
        labels: integers (N,), the class of each image.
    """

    images: np.ndarray
    labels: np.ndarray


class ArraysDataset(ImageSource):
    """The images of "arrays:PATH". An .npy file is mapped into memory; an .npz file is read whole.

    Args:
        name: "arrays:PATH".

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/set.npz", images=np.zeros((20, 8, 8), np.uint8), labels=np.arange(20) % 2)
        ...     dataset = ArraysDataset(f"arrays:{folder}/set.npz").open("train", image_shape=None)
        >>> dataset.images().shape, dataset.class_names
        (torch.Size([14, 1, 8, 8]), ('0', '1'))
    """

    ADD_SPLIT = "add arrays whose names begin with {split}_ to it"

    def open(self, split: str, image_shape: Shape | None) -> LazyDataset:
        """Open a split."""
        parts = self._parts()
        of, rule = part_of(self.name, parts, split, self.ADD_SPLIT)
        part = parts[of]
        channels, height, width = part.images.shape[1:]
        shape = image_shape or (channels, height, width)
        check_channels(channels, shape[0])
        labels = torch.from_numpy(np.array(part.labels, np.int64))

        def pick(positions: Tensor) -> Tensor:
            return convert(torch.from_numpy(np.array(part.images[positions.numpy()], order="C")), shape)

        return LazyDataset(labels, _class_names(self.name, parts), shape, pick).subset(rule(labels, split))

    def describe(self, image_shape: Shape | None) -> DatasetInfo:
        """Describe the images by their arrays."""
        path, arrays = self._arrays()
        parts = _parts_of(path, arrays)
        channels, height, width = next(iter(parts.values())).images.shape[1:]
        own = (channels, height, width)
        classes, notes = _class_names(self.name, parts), _notes(path, arrays, parts)
        return DatasetInfo(self.name, own, image_shape or own, classes, splits_of(parts), notes)

    def channels(self) -> int:
        """Return the size of the arrays' dimension of channels."""
        return int(next(iter(self._parts().values())).images.shape[1])

    def check(self) -> tuple[str, ...]:
        """Check the types, shapes and labels of the arrays."""
        return splits_of(self._parts())

    def _parts(self) -> dict[str, _Part]:
        """Return the images and labels by split; the key is `ALL` if the data set has no splits."""
        return _parts_of(*self._arrays())

    def _arrays(self) -> tuple[Path, dict[str, np.ndarray]]:
        """Return the path of the data set and its arrays by name."""
        path = Path(self.path).expanduser().absolute()
        if path.is_dir():
            return path, _in_folder(path)
        if not path.is_file():
            remedy = "give arrays:PATH the path of a file or folder"
            raise DatasetNotFound.here(self.name, "neither a file nor a folder", remedy)
        return path, _in_file(path)


def _class_names(name: str, parts: Mapping[str, _Part]) -> tuple[str, ...]:
    """Return the labels as text, because arrays have no names of classes."""
    highest = max((int(part.labels.max()) for part in parts.values() if len(part.labels)), default=0)
    return numbered_classes(name, highest, sum(len(part.images) for part in parts.values()))


def _parts_of(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, _Part]:
    found = _kinds(path, arrays)
    if not found:
        there = f"only {', '.join(sorted(arrays))}" if arrays else "no arrays"
        raise DatasetNotFound(
            f"{path} has no array with a name such as {IMAGES}, train_{IMAGES} or test_{IMAGES} ({there})",
            remedy=f"name the array of the images {IMAGES}",
            code="no-images",
        )
    if "" in found and len(found) > 1:
        raise _unusable(
            f"{path} has both an array {IMAGES} and arrays of images whose names begin with a split",
            "let the name of every array begin with a split, such as train_ or test_",
        )
    parts = {
        part: _checked(path, kind, arrays[kind + IMAGES], arrays.get(kind + LABELS)) for kind, part in found.items()
    }
    shapes = {part.images.shape[1:] for part in parts.values()}
    if len(shapes) > 1:
        shown = " and ".join("x".join(map(str, shape)) for shape in sorted(shapes))
        raise _unusable(f"the splits of {path} have images of the shapes {shown}", "give all images the same shape")
    return parts


def _kinds(path: Path, arrays: Collection[str]) -> dict[str, str]:
    """Return the beginnings of the names of arrays of images, such as "train_" or "", each with its part.

    Raises:
        DatasetCorrupt: if the arrays of a split have two names.
    """
    begins = {name.removesuffix(what) for name in arrays for what in (IMAGES, LABELS) if name.endswith(what)}
    parts = {kind: split_named(kind[:-1]) for kind in begins if kind.endswith("_")} | {"": ALL}
    one_name_per_split(path, [kind[:-1] for kind, part in parts.items() if kind and part])
    of_images = {kind: part for kind, part in parts.items() if part and kind + IMAGES in arrays}
    return dict(sorted(of_images.items(), key=lambda found: (*SPLITS, ALL).index(found[1])))


def _notes(path: Path, arrays: Collection[str], parts: Collection[str]) -> tuple[str, ...]:
    """Return sentences about images that are left out because other names contain splits."""
    if ALL in parts:
        return ()
    kinds = _kinds(path, arrays)
    others = sorted(name for name in arrays if name.endswith(IMAGES) and name.removesuffix(IMAGES) not in kinds)
    files = sorted(file.name for file in path.glob("*.npz") if not split_named(file.stem))
    return (*no_split_notes(others, "array"), *no_split_notes(files))


def _in_folder(folder: Path) -> dict[str, np.ndarray]:
    """Return the arrays of .npy files by the files' names, and those of train.npz and so on by split and name."""
    arrays = {file.stem: _mapped(file) for file in sorted(folder.glob("*.npy"))}
    for file in sorted(folder.glob("*.npz")):
        if split_named(file.stem) and file.is_file():
            arrays |= {f"{file.stem}_{name}": array for name, array in _in_file(file).items()}
    return arrays


def _in_file(file: Path) -> dict[str, np.ndarray]:
    if file.suffix == ".npy":
        return {IMAGES: _mapped(file)}
    return _unpacked(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=1)  # because the splits of a file are usually opened one after the other
def _unpacked(file: Path, changed_ns: int) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except NOT_AN_ARRAY as error:
        raise _unreadable(f"{file} is not an .npz file of arrays", "numpy.savez", error) from error


def _mapped(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except NOT_AN_ARRAY as error:
        raise _unreadable(f"{file} is not an .npy file of an array", "numpy.save", error) from error


def _unreadable(problem: str, writer: str, error: Exception) -> DatasetCorrupt:
    return DatasetCorrupt(f"{problem} ({reason(error)})", remedy=f"write it with {writer}", code="dataset-damaged")


def _checked(path: Path, kind: str, images: np.ndarray, labels: np.ndarray | None) -> _Part:
    name = f"{kind}{IMAGES} in {path}"
    if images.dtype != np.uint8:
        raise _unusable(f"{name} are {images.dtype}", "give uint8, 0 to 255")
    images = _channels_first(images, name)
    if labels is None:
        labels = np.zeros(len(images), np.int64)
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise _unusable(
            f"{kind}{LABELS} in {path} are {labels.dtype} of shape {labels.shape}",
            f"give one integer for each of the {len(images)} images",
        )
    if len(labels) and labels.min() < 0:
        raise _unusable(f"{kind}{LABELS} in {path} contain the label {labels.min()}", "number the classes from 0")
    return _Part(images, labels)


def _channels_first(images: np.ndarray, name: str) -> np.ndarray:
    """Return a view (N, C, H, W). The dimension of the channels is the one that has size 1 or 3."""
    if images.ndim == 3:
        return images[:, None]
    first, last = images.ndim == 4 and images.shape[1] in (1, 3), images.ndim == 4 and images.shape[3] in (1, 3)
    if first == last:
        raise _unusable(
            f"{name} have shape {images.shape}", "give (N, C, H, W) or (N, H, W, C) with 1 or 3 channels, or (N, H, W)"
        )
    return images if first else images.transpose(0, 3, 1, 2)


def _unusable(problem: str, remedy: str) -> DatasetCorrupt:
    return DatasetCorrupt(problem, remedy=remedy, code="arrays-unusable")
