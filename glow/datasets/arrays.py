"""``arrays:PATH``: images that are arrays already, in an .npz file or a folder of .npy files.

The arrays are ``images``, uint8 (N, C, H, W), (N, H, W, C) or (N, H, W), and ``labels``, integers (N,), which may be
missing. Where the names begin with a split, ``train_images`` and ``test_labels`` for example, those are the splits;
without a validation split it is held out of train. A folder may also hold ``train.npz`` and ``test.npz``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glow.datasets.base import SPLITS, DatasetCorrupt, DatasetInfo, DatasetNotFound, DatasetStatus, MemberRule, Shape
from glow.datasets.lazy import LazyDataset
from glow.datasets.names import place_of
from glow.datasets.tensors import check_channels, convert, deal, everything, hold_out

__all__ = ["arrays_channels", "arrays_status", "describe_arrays", "open_arrays"]

IMAGES, LABELS = "images", "labels"


@dataclass(frozen=True)
class Part:
    """Images of one split, or of all: uint8 (N, C, H, W), which .npy files are mapped as, and labels (N,)."""

    images: np.ndarray
    labels: np.ndarray


def open_arrays(name: str, split: str, image_shape: Shape | None) -> LazyDataset:
    """Maps .npy files into memory; an .npz file is read whole.

    DatasetNotFound without such a file or split, DatasetCorrupt for arrays that are no images or do not fit together.
    """
    parts = _parts(name)
    of, rule = _part_of(name, parts, split)
    part = parts[of]
    channels, height, width = part.images.shape[1:]
    shape = image_shape or (channels, height, width)
    check_channels(channels, shape[0])
    labels = torch.from_numpy(np.array(part.labels, np.int64))

    def pick(positions: Tensor) -> Tensor:
        return convert(torch.from_numpy(np.array(part.images[positions.numpy()], order="C")), shape)

    return LazyDataset(labels, _class_names(parts), shape, pick).subset(rule(labels, split))


def describe_arrays(name: str, image_shape: Shape | None) -> DatasetInfo:
    """Raises what `open_arrays` raises."""
    parts = _parts(name)
    channels, height, width = next(iter(parts.values())).images.shape[1:]
    own = (channels, height, width)
    return DatasetInfo(name, own, image_shape or own, _class_names(parts), _splits(parts))


def arrays_channels(name: str) -> int:
    """1 or 3; raises what `open_arrays` raises."""
    return int(next(iter(_parts(name).values())).images.shape[1])


def arrays_status(name: str) -> DatasetStatus:
    try:
        splits = _splits(_parts(name))
    except DatasetNotFound as error:
        return DatasetStatus(name, "missing", f"{error}.")
    except DatasetCorrupt as error:
        return DatasetStatus(name, f"corrupt: {error}", "Write the arrays again.")
    if splits != SPLITS:
        absent = " or ".join(split for split in SPLITS if split not in splits)
        return DatasetStatus(name, f"partial: {', '.join(splits)} only", f"Add arrays for {absent} if you need it.")
    return DatasetStatus(name, "found", "Nothing to do.")


def _splits(parts: Mapping[str, Part]) -> tuple[str, ...]:
    if "" in parts:
        return SPLITS
    there = parts.keys() | ({"validation"} if "train" in parts else set())
    return tuple(split for split in SPLITS if split in there)


def _part_of(name: str, parts: Mapping[str, Part], split: str) -> tuple[str, MemberRule]:
    if "" in parts:
        return "", deal
    if split in parts:
        return split, hold_out if split == "train" and "validation" not in parts else everything
    if split == "validation" and "train" in parts:
        return "train", hold_out
    raise DatasetNotFound(
        f"{name} has no images for split {split!r} (only {', '.join(_splits(parts))}); add {split}_{IMAGES} to it"
    )


def _class_names(parts: Mapping[str, Part]) -> tuple[str, ...]:
    """Classes have no names there: their numbers are taken."""
    highest = max((int(part.labels.max()) for part in parts.values() if len(part.labels)), default=0)
    return tuple(str(label) for label in range(highest + 1))


def _parts(name: str) -> dict[str, Part]:
    """The parts by split; "" where the images are of no split."""
    place = place_of(name)
    assert place is not None
    path = Path(place.path).expanduser().absolute()
    if path.is_dir():
        arrays = _in_folder(path)
    elif path.is_file():
        arrays = _in_file(path)
    else:
        raise DatasetNotFound(
            f"{name} is neither a file nor a folder on this machine; give arrays:PATH the path of one"
        )
    kinds = ("", *(f"{split}_" for split in SPLITS))
    found = {kind: arrays[kind + IMAGES] for kind in kinds if kind + IMAGES in arrays}
    if not found:
        there = f"only {', '.join(sorted(arrays))}" if arrays else "no arrays"
        raise DatasetNotFound(f"{path} has no array named {IMAGES}, train_{IMAGES} or test_{IMAGES} ({there})")
    if "" in found and len(found) > 1:
        raise DatasetCorrupt(f"{path} has {IMAGES} of no split beside those of splits: name all by their split")
    parts = {kind[:-1]: _checked(path, kind, images, arrays.get(kind + LABELS)) for kind, images in found.items()}
    shapes = {part.images.shape[1:] for part in parts.values()}
    if len(shapes) > 1:
        shown = " and ".join("x".join(map(str, shape)) for shape in sorted(shapes))
        raise DatasetCorrupt(f"the splits of {path} have images of {shown}: make them of one shape")
    return parts


def _in_folder(folder: Path) -> dict[str, np.ndarray]:
    """Arrays of .npy files by their name, and those of train.npz, validation.npz and test.npz by split and name."""
    arrays = {file.stem: _mapped(file) for file in sorted(folder.glob("*.npy"))}
    for split in SPLITS:
        file = folder / f"{split}.npz"
        if file.is_file():
            arrays |= {f"{split}_{name}": array for name, array in _in_file(file).items()}
    return arrays


def _in_file(file: Path) -> dict[str, np.ndarray]:
    if file.suffix == ".npy":
        return {IMAGES: _mapped(file)}
    return _unpacked(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=1)  # the splits of one file are asked for one after the other
def _unpacked(file: Path, changed_ns: int) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise DatasetCorrupt(f"{file} is not an .npz file of arrays ({str(error).splitlines()[0]})") from error


def _mapped(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DatasetCorrupt(f"{file} is not an .npy file of an array ({str(error).splitlines()[0]})") from error


def _checked(path: Path, kind: str, images: np.ndarray, labels: np.ndarray | None) -> Part:
    name = f"{kind}{IMAGES} in {path}"
    if images.dtype != np.uint8:
        raise DatasetCorrupt(f"{name} are {images.dtype}: give uint8, 0 to 255")
    images = _channels_first(images, name)
    if labels is None:
        labels = np.zeros(len(images), np.int64)
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise DatasetCorrupt(
            f"{kind}{LABELS} in {path} are {labels.dtype} of shape {labels.shape}: give an integer for each of the "
            f"{len(images)} images"
        )
    if len(labels) and labels.min() < 0:
        raise DatasetCorrupt(f"{kind}{LABELS} in {path} has the label {labels.min()}: number classes from 0")
    return Part(images, labels)


def _channels_first(images: np.ndarray, name: str) -> np.ndarray:
    """A view (N, C, H, W). Which dimension is the channels' is seen by its size, 1 or 3."""
    if images.ndim == 3:
        return images[:, None]
    first, last = images.ndim == 4 and images.shape[1] in (1, 3), images.ndim == 4 and images.shape[3] in (1, 3)
    if first == last:
        raise DatasetCorrupt(
            f"{name} have shape {images.shape}: give (N, C, H, W) or (N, H, W, C) with 1 or 3 channels, or (N, H, W)"
        )
    return images if first else images.transpose(0, 3, 1, 2)
