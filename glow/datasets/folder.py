"""`folder:PATH`: a user's own images, in class folders or flat, with or without train/ and test/ above."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from glow.datasets.base import SPLITS, DatasetCorrupt, DatasetInfo, DatasetNotFound, DatasetStatus, MemberRule, Shape
from glow.datasets.lazy import LazyDataset
from glow.datasets.tensors import check_channels, convert, deal, everything, hold_out
from glow.errors import SHAPE_ADVICE

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "describe_folder",
    "folder_channels",
    "folder_status",
    "open_folder",
    "read_image",
]


@dataclass(frozen=True)
class Listing:
    """The image files of a folder, each with its class, in order of their paths."""

    parts: dict[str, list[tuple[Path, str]]]  # keys: those of "train", "validation", "test" there are, or "all"

    @property
    def files(self) -> list[Path]:
        return [path for files in self.parts.values() for path, _ in files]

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sorted({name for files in self.parts.values() for _, name in files}))

    @property
    def splits(self) -> tuple[str, ...]:
        if "all" in self.parts:
            return SPLITS
        there = self.parts.keys() | ({"validation"} if "train" in self.parts else set())
        return tuple(split for split in SPLITS if split in there)

    def part(self, split: str) -> tuple[str, MemberRule]:
        """The part that holds a split, and the rule that says which of its images are in the split."""
        if "all" in self.parts:
            return "all", deal
        if "validation" in self.parts:
            return split, everything
        return "test" if split == "test" else "train", hold_out


def open_folder(name: str, split: str, image_shape: Shape | None) -> LazyDataset:
    """Lists the files, and without an `image_shape` reads their headers; only images asked for get decoded.

    DatasetNotFound when the folder or the split has no images, ValueError when images differ in size and no
    `image_shape` says what to make of them, DatasetCorrupt for a file that is read and cannot be.
    """
    if image_shape:
        check_channels(3, image_shape[0])  # for grey images the same, and what they are is not known yet
    listing = _list(name)
    if split not in listing.splits:
        there = ", ".join(listing.splits)
        raise DatasetNotFound(f"{name} has no images for split {split!r} (only {there}); add a folder {split}/ to it")
    part, rule = listing.part(split)
    files = listing.parts[part]
    label_of = {class_name: label for label, class_name in enumerate(listing.class_names)}
    labels = torch.tensor([label_of[class_name] for _, class_name in files])
    shape = image_shape or _common_shape(name, listing.files)

    def pick(indices: Tensor) -> Tensor:
        images = torch.empty((len(indices), *shape), dtype=torch.uint8)
        for image, index in zip(images, indices.tolist(), strict=True):
            image.copy_(convert(_decode(files[index][0]), shape)[0])
        return images

    return LazyDataset(labels, listing.class_names, shape, pick).subset(rule(labels, split))


def describe_folder(name: str, image_shape: Shape | None) -> DatasetInfo:
    """Reads the header of every image; raises what `open_folder` raises."""
    listing = _list(name)
    mixed = image_shape is not None and len(_survey(listing.files)[1]) > 1
    original_shape = image_shape if image_shape and mixed else _common_shape(name, listing.files)
    return DatasetInfo(name, original_shape, image_shape or original_shape, listing.class_names, listing.splits)


def folder_channels(name: str) -> int:
    """1 if all images are grey, else 3; raises what `open_folder` raises."""
    return _survey(_list(name).files)[0]


def folder_status(name: str) -> DatasetStatus:
    try:
        listing = _list(name)
    except DatasetNotFound as error:
        return DatasetStatus(name, "missing", f"{error}.")
    except ValueError as error:
        return DatasetStatus(name, f"corrupt: {error}", "Move the images that are beside class folders.")
    for path in listing.files:
        if not path.is_file() or path.stat().st_size == 0:
            return DatasetStatus(name, f"corrupt: {path} is empty or a dead link", "Replace or remove it.")
    if listing.splits != SPLITS:
        absent = " or ".join(split for split in SPLITS if split not in listing.splits)
        return DatasetStatus(
            name,
            f"partial: {', '.join(listing.splits)} only",
            f"Add a folder for {absent} if you need that split.",
        )
    return DatasetStatus(name, "found", "Nothing to do.")


def read_image(path: str | Path, image_shape: Shape) -> Tensor:
    """An image file as uint8 `image_shape` (C, H, W), converted as those of a folder are.

    DatasetNotFound if there is no such file, DatasetCorrupt if it cannot be decoded, ValueError for more than 8 bits a
    channel.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DatasetNotFound(f"there is no image file {path}; give the path of one")
    return convert(_decode(path), image_shape)[0]


def _list(name: str) -> Listing:
    """DatasetNotFound without images; ValueError for images beside class folders: they have no class."""
    path = Path(name.removeprefix("folder:")).expanduser().absolute()
    if not path.is_dir():
        raise DatasetNotFound(f"{name} is not a folder on this machine; give folder:PATH the path of one with images")
    candidates = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}
    folders = {part: path / sub for part, subs in candidates.items() for sub in subs if (path / sub).is_dir()}
    if not folders.keys() & {"train", "test"}:
        folders = {"all": path}
    parts = {part: _files_by_class(folder, path.name) for part, folder in folders.items()}
    parts = {part: files for part, files in parts.items() if files}
    if not parts:
        raise DatasetNotFound(f"{path} has no images that Pillow can read; put some there or name another folder")
    return Listing(parts)


def _files_by_class(folder: Path, flat_name: str) -> list[tuple[Path, str]]:
    """The images and their classes: a class for each subfolder; without any, one class named `flat_name`."""
    from PIL import Image

    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    walk = os.walk(folder, followlinks=True)
    found = [Path(parent, file).relative_to(folder) for parent, _, files in walk for file in files]
    found = sorted(path for path in found if path.suffix.lower() in suffixes and not _hidden(path))
    loose = [path for path in found if len(path.parts) == 1]
    if loose and len(loose) < len(found):
        raise ValueError(f"{folder} has images both in class folders and beside them ({loose[0]})")
    return [(folder / path, flat_name if loose else path.parts[0]) for path in found]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _common_shape(name: str, files: list[Path]) -> Shape:
    """(C, H, W) of all images; ValueError unless they are of one size."""
    channels, sizes = _survey(files)
    (width, height), first = next(iter(sizes.items()))
    if len(sizes) > 1:
        (other_width, other_height), other = list(sizes.items())[1]
        raise ValueError(
            f"the images of {name} differ in size ({first.name}: {width}x{height}, {other.name}: "
            f"{other_width}x{other_height}); {SHAPE_ADVICE}"
        )
    return channels, height, width


def _survey(files: list[Path]) -> tuple[int, dict[tuple[int, int], Path]]:
    """1 channel if all images are grey, else 3; each (width, height) there is, with an example. Reads headers."""
    sizes: dict[tuple[int, int], Path] = {}
    channels = 1
    for path in files:
        with _open(path) as image:
            sizes.setdefault(image.size, path)
            channels = max(channels, _channels(image))
    return channels, sizes


def _decode(path: Path) -> Tensor:
    """uint8 (1, C, H, W), grey if the file is, else RGB; transparency is dropped."""
    with _open(path) as image:
        grey = _channels(image) == 1
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        pixels = np.array(image.convert("L" if grey else "RGB"))
    tensor = torch.from_numpy(pixels)
    return tensor[None, None] if grey else tensor.permute(2, 0, 1)[None]


@contextmanager
def _open(path: Path) -> Iterator[Image]:
    """A Pillow image; whatever fails while it is in use becomes DatasetCorrupt."""
    import PIL.Image

    try:
        with PIL.Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise _TooDeepError(f"{path} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits")
            yield image
    except _TooDeepError:
        raise
    except Exception as error:  # Pillow's plugins raise anything: OSError, SyntaxError, struct.error, ...
        raise DatasetCorrupt(f"{path} cannot be decoded as an image ({error}); replace or remove it") from error


class _TooDeepError(ValueError):
    """Readable, but not as uint8."""


def _channels(image: Image) -> int:
    return 1 if image.mode in ("L", "1") else 3
