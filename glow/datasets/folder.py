"""`folder:PATH`: a user's own images, in class folders or flat, with or without train/ and test/ above."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from glow.datasets.base import SPLITS, DatasetCorrupt, DatasetInfo, DatasetNotFound, DatasetStatus, MemberRule, Shape
from glow.datasets.decode import WHITE, Colour, decode, read_header
from glow.datasets.lazy import LazyDataset
from glow.datasets.tensors import check_channels, convert, deal, everything, hold_out
from glow.errors import SHAPE_ADVICE

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
    left_out: tuple[Path, ...] = ()  # files and folders that links lead to, and that are listed already

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

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.left_out:
            return ()
        what = "1 path is" if len(self.left_out) == 1 else f"{len(self.left_out)} paths are"
        return (f"{what} left out (such as {self.left_out[0]}), a link to what is listed already",)

    def part(self, split: str) -> tuple[str, MemberRule]:
        """The part that holds a split, and the rule that says which of its images are in the split."""
        if "all" in self.parts:
            return "all", deal
        if "validation" in self.parts:
            return split, everything
        return "test" if split == "test" else "train", hold_out


def open_folder(name: str, split: str, image_shape: Shape | None, background: Colour = WHITE) -> LazyDataset:
    """Lists the files, and without an `image_shape` reads their headers; only images asked for get decoded.

    DatasetNotFound when the folder or the split has no images, ValueError when images differ in size and no
    `image_shape` says what to make of them, or when two splits have a file in common, DatasetCorrupt for a file that is
    read and cannot be.
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
    shape = image_shape or _survey(listing.files).common_shape(name)

    def pick(indices: Tensor) -> Tensor:
        images = torch.empty((len(indices), *shape), dtype=torch.uint8)
        for image, index in zip(images, indices.tolist(), strict=True):
            image.copy_(convert(decode(files[index][0], background), shape)[0])
        return images

    return LazyDataset(labels, listing.class_names, shape, pick).subset(rule(labels, split))


def describe_folder(
    name: str, image_shape: Shape | None, background: Colour = WHITE, skip_unreadable: bool = False
) -> DatasetInfo:
    """Reads the header of every image; raises what `open_folder` raises."""
    listing = _list(name)
    survey = _survey(listing.files, skip_unreadable)
    mixed = len(survey.sizes) > 1
    original_shape = image_shape if image_shape and mixed else survey.common_shape(name)
    shape = image_shape or original_shape
    notes = (*listing.notes, *survey.notes(shape[0], background))
    return DatasetInfo(name, original_shape, shape, listing.class_names, listing.splits, notes)


def folder_channels(name: str, skip_unreadable: bool = False) -> int:
    """1 if all images are grey, else 3; raises what `open_folder` raises."""
    return _survey(_list(name).files, skip_unreadable).channels


def folder_status(name: str) -> DatasetStatus:
    try:
        listing = _list(name)
    except DatasetNotFound as error:
        return DatasetStatus(name, "missing", f"{error}.")
    except ValueError as error:
        problem, _, remedy = str(error).partition("; ")
        return DatasetStatus(name, f"corrupt: {problem}", f"{remedy[:1].upper()}{remedy[1:]}.")
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


def read_image(path: str | Path, image_shape: Shape, background: Colour = WHITE) -> Tensor:
    """An image file as uint8 `image_shape` (C, H, W), converted as those of a folder are.

    DatasetNotFound if there is no such file; raises what `decode` raises.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DatasetNotFound(f"there is no image file {path}; give the path of one")
    return convert(decode(path, background), image_shape)[0]


def _list(name: str) -> Listing:
    """DatasetNotFound without images; ValueError for images beside class folders, which have no class, and for files
    that two splits have in common."""
    path = Path(name.removeprefix("folder:")).expanduser().absolute()
    if not path.is_dir():
        raise DatasetNotFound(f"{name} is not a folder on this machine; give folder:PATH the path of one with images")
    candidates = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}
    folders = {part: path / sub for part, subs in candidates.items() for sub in subs if (path / sub).is_dir()}
    if not folders.keys() & {"train", "test"}:
        folders = {"all": path}
    listed = {part: _files_by_class(folder, path.name) for part, folder in folders.items()}
    parts = {part: files for part, (files, _) in listed.items() if files}
    if not parts:
        raise DatasetNotFound(f"{path} has no images that Pillow can read; put some there or name another folder")
    _check_disjoint(parts)
    return Listing(parts, tuple(link for _, left_out in listed.values() for link in left_out))


def _files_by_class(folder: Path, flat_name: str) -> tuple[list[tuple[Path, str]], list[Path]]:
    """The images and their classes: a class for each subfolder; without any, one class named `flat_name`. Then what is
    left out, because a link leads to it and it is listed already."""
    from PIL import Image

    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files, left_out = _walk(folder)
    images = [(linked, path) for linked, path in files if path.suffix.lower() in suffixes]
    found: dict[object, Path] = {}
    for _, path in sorted(images):  # a file's own path before a link to it
        if found.setdefault(_identity(path), path) != path:
            left_out.append(path)
    paths = sorted(path.relative_to(folder) for path in found.values())
    loose = [path for path in paths if len(path.parts) == 1]
    if loose and len(loose) < len(paths):
        raise ValueError(
            f"{folder} has images both in class folders and beside them ({loose[0]}); move these into class folders"
        )
    return [(folder / path, flat_name if loose else path.parts[0]) for path in paths], sorted(left_out)


def _walk(folder: Path) -> tuple[list[tuple[bool, Path]], list[Path]]:
    """The files that are not hidden, and of each whether it is reached by a link; then the folders left out, because a
    link leads to them and they are listed already.

    Each folder of the disk is entered once, by its own path before a link to it, so that no link makes a circle.
    """
    entered: set[object] = set()
    files: list[tuple[bool, Path]] = []
    left_out: list[Path] = []
    waiting = deque([folder])
    while waiting:
        start = waiting.popleft()
        for parent, folders, names in os.walk(start):  # which does not follow links by itself
            identity = _identity(Path(parent))
            if identity in entered:
                left_out.append(Path(parent))
                folders.clear()
                continue
            entered.add(identity)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            waiting += [path for path in (Path(parent, name) for name in folders) if path.is_symlink()]
            for path in (Path(parent, name) for name in names if not name.startswith(".")):
                files.append((start != folder or path.is_symlink(), path))
    return files, left_out


def _identity(path: Path) -> object:
    """The same for two paths that lead to one file or folder of the disk."""
    try:
        found = path.stat()
    except OSError:  # a dead link, which is told when it is read
        return path
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)


def _check_disjoint(parts: Mapping[str, list[tuple[Path, str]]]) -> None:
    """ValueError for a file that is in two splits."""
    seen: dict[object, Path] = {}
    for files in parts.values():
        for path, _ in files:
            other = seen.setdefault(_identity(path), path)
            if other != path:
                raise ValueError(f"{other} and {path}, of two splits, are one file; take it out of one of them")


@dataclass(frozen=True)
class Survey:
    """What the headers of a folder's images say: which there are of each kind."""

    sizes: dict[tuple[int, int], Path]  # each (width, height) there is, with an example
    grey: list[Path]
    coloured: list[Path]
    transparent: list[Path]

    @property
    def channels(self) -> int:
        """1 if all images are grey, else 3."""
        return 3 if self.coloured else 1

    def common_shape(self, name: str) -> Shape:
        """(C, H, W) of all images; ValueError unless they are of one size."""
        (width, height), first = next(iter(self.sizes.items()))
        if len(self.sizes) > 1:
            (other_width, other_height), other = list(self.sizes.items())[1]
            raise ValueError(
                f"the images of {name} differ in size ({first.name}: {width}x{height}, {other.name}: "
                f"{other_width}x{other_height}); {SHAPE_ADVICE}"
            )
        return self.channels, height, width

    def notes(self, channels: int, background: Colour) -> tuple[str, ...]:
        """What a user should know of images that are read as `channels`."""
        notes = []
        if self.grey and self.coloured:
            notes.append(
                f"{len(self.grey)} of the images are grey (such as {self.grey[0]}) and {len(self.coloured)} in colour "
                f"(such as {self.coloured[0]}); all are read as {'grey' if channels == 1 else 'colour'}"
            )
        if self.transparent:
            have = "has" if len(self.transparent) == 1 else "have"
            notes.append(
                f"{len(self.transparent)} of the images {have} transparency (such as {self.transparent[0]}), "
                f"composited over RGB {', '.join(map(str, background))}"
            )
        return tuple(notes)


def _survey(files: list[Path], skip_unreadable: bool = False) -> Survey:
    """Reads the header of every file; DatasetCorrupt or ValueError for one, or for all of them, that cannot be read."""
    survey = Survey({}, [], [], [])
    problem: Exception | None = None
    for path in files:
        try:
            header = read_header(path)
        except (DatasetCorrupt, ValueError) as error:
            if not skip_unreadable:
                raise
            problem = error
            continue
        survey.sizes.setdefault(header.size, path)
        (survey.grey if header.channels == 1 else survey.coloured).append(path)
        if header.transparent:
            survey.transparent.append(path)
    if problem is not None and not survey.sizes:
        raise problem
    return survey
