"""`folder:PATH`: image files of a user, in class folders or in one folder, with or without official splits.

docs/data.md lists the rules: which folders are splits and classes, and how links are followed. A file is decoded when
its image is asked for; `describe_folder` reads only headers.

Shapes: C channels, H rows, W columns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from glow.datasets.base import (
    SPLITS,
    DatasetCorrupt,
    DatasetInfo,
    DatasetNotFound,
    DatasetStatus,
    ImageRefused,
    ImageUnreadable,
    Shape,
)
from glow.datasets.buckets import BucketFile, BucketFolder, fetched, in_threads, is_uri
from glow.datasets.decode import WHITE, Colour, EncodedImage, Header, decode, read_header
from glow.datasets.lazy import LazyDataset
from glow.datasets.parts import ALL, part_of, splits_of
from glow.datasets.split_names import no_split_notes, one_name_per_split, split_folders
from glow.datasets.tensors import check_channels, convert
from glow.datasets.walk import identity, link_notes, names_in, walk
from glow.errors import SHAPE_ADVICE

__all__ = [
    "describe_folder",
    "folder_channels",
    "folder_status",
    "one_look",
    "open_folder",
    "read_image",
]


Result = TypeVar("Result")

_looks: ContextVar[dict[object, Any] | None] = ContextVar("looks", default=None)
"""The listings and surveys of the present block of `one_look`; None outside such a block."""


@dataclass(frozen=True)
class Listing:
    """The image files of a folder.

    Attributes:
        parts: for each part, the path and the class of every image file, in the order of the paths. Each split that has
            a folder with images is a part. If there is neither a train nor a test folder, all files are the part `ALL`.
        left_out: paths that are not in `parts`, because they are links to files or folders that are listed under
            another path.
        in_no_split: paths, relative to the folder, of images that are not in `parts`, because they are next to the
            folders of the splits.
    """

    parts: dict[str, list[tuple[Path, str]]] | dict[str, list[tuple[BucketFile, str]]]
    left_out: tuple[Path, ...] = ()
    in_no_split: tuple[str, ...] = ()

    @property
    def files(self) -> list[Path | BucketFile]:
        """The image files of all parts."""
        return [path for files in self.parts.values() for path, _ in files]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of all parts, sorted."""
        return tuple(sorted({name for files in self.parts.values() for _, name in files}))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that can be opened. If there are train images, validation images can be held out of them."""
        return splits_of(self.parts)

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence about the paths in `left_out`, and one about those in `in_no_split`, if there are any."""
        return (*link_notes(self.left_out), *no_split_notes(self.in_no_split))


def open_folder(name: str, split: str, image_shape: Shape | None, background: Colour = WHITE) -> LazyDataset:
    """Open a split of a folder of images.

    With an `image_shape` no file is opened before its image is asked for; without one, every header is read.

    Args:
        name: "folder:PATH".
        split: "train", "validation" or "test".
        image_shape: (C, H, W) of the images; None for their own shape, if all images have the same shape.
        background: the colour (R, G, B) that transparent images are composited over.

    Returns:
        A data set whose images are decoded when they are asked for.

    Raises:
        DatasetNotFound: if the folder does not exist, or has no images for the split.
        DatasetCorrupt: for a file whose header cannot be read, or a folder that cannot be listed.
        ValueError: if images differ in size and there is no `image_shape`, a file is in two splits, or images are next
            to class folders.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as path:
        ...     for number in range(10):
        ...         Image.new("L", (6, 4), color=number).save(f"{path}/{number}.png")
        ...     dataset = open_folder(f"folder:{path}", "train", image_shape=(1, 8, 8))
        ...     images = dataset.images(0, 2)
        >>> len(dataset), images.shape
        (7, torch.Size([2, 1, 8, 8]))
    """
    if image_shape:
        check_channels(3, image_shape[0])  # the result is the same for grey images; it is not known yet which these are
    listing = _list(name)
    part, rule = part_of(name, listing.parts, split, remedy=f"add a folder {split}/ to it")
    files = listing.parts[part]
    label_of = {class_name: label for label, class_name in enumerate(listing.class_names)}
    labels = torch.tensor([label_of[class_name] for _, class_name in files])
    shape = image_shape or _surveyed(name, listing).common_shape(name)

    def pick(indices: Tensor) -> Tensor:
        images = torch.empty((len(indices), *shape), dtype=torch.uint8)
        chosen = fetched([files[index][0] for index in indices.tolist()])
        for image, file in zip(images, chosen, strict=True):
            image.copy_(convert(decode(file, background), shape)[0])
        return images

    stamps = torch.tensor([_stamp(path) for path, _ in files])
    return LazyDataset(labels, listing.class_names, shape, pick, stamps=stamps).subset(rule(labels, split))


def describe_folder(
    name: str, image_shape: Shape | None, background: Colour = WHITE, skip_unreadable: bool = False
) -> DatasetInfo:
    """Describe a folder of images by the headers of its files.

    Args:
        name: "folder:PATH".
        image_shape: (C, H, W) in which the images will be read; None for their own shape, if all have the same shape.
        background: the colour (R, G, B) that transparent images will be composited over. If there are such images, a
            sentence in `DatasetInfo.notes` says so.
        skip_unreadable: pass over files whose headers cannot be read, unless no file can be read.

    Raises:
        DatasetNotFound: if the folder does not exist or has no images.
        DatasetCorrupt: for a file whose header cannot be read, or a folder that cannot be listed.
        ValueError: if images differ in size and there is no `image_shape`, a file has more than 8 bits per channel or
            several frames, a file is in two splits, or images are next to class folders.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as path:
        ...     for kind, colour in (("cat", "red"), ("dog", "blue")):
        ...         Path(path, kind).mkdir()
        ...         Image.new("RGB", (6, 4), colour).save(f"{path}/{kind}/0.png")
        ...     info = describe_folder(f"folder:{path}", image_shape=None)
        >>> info.class_names, info.image_shape
        (('cat', 'dog'), (3, 4, 6))
    """
    listing = _list(name)
    survey = _surveyed(name, listing, skip_unreadable)
    mixed = len(survey.sizes) > 1
    original_shape = image_shape if image_shape and mixed else survey.common_shape(name)
    shape = image_shape or original_shape
    notes = (*listing.notes, *survey.notes(shape[0], background))
    return DatasetInfo(name, original_shape, shape, listing.class_names, listing.splits, notes)


def folder_channels(name: str, skip_unreadable: bool = False) -> int:
    """Return the number of channels of a folder's images: 1 if all are grey, else 3.

    Args:
        name: "folder:PATH".
        skip_unreadable: pass over files whose headers cannot be read, unless no file can be read.

    Raises:
        DatasetNotFound: if the folder does not exist or has no images.
        DatasetCorrupt: for a file whose header cannot be read, or a folder that cannot be listed.
        ValueError: if a file has more than 8 bits per channel or several frames, a file is in two splits, or images are
            next to class folders.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as path:
        ...     Image.new("L", (6, 4)).save(f"{path}/grey.png")
        ...     grey = folder_channels(f"folder:{path}")
        ...     Image.new("RGB", (6, 4)).save(f"{path}/red.png")
        ...     grey, folder_channels(f"folder:{path}")
        (1, 3)
    """
    return _surveyed(name, _list(name), skip_unreadable).channels


def folder_status(name: str) -> DatasetStatus:
    """Return the state of a folder of images, judged by the paths and sizes of its files.

    Args:
        name: "folder:PATH".

    Example:
        >>> folder_status("folder:/no/such/folder").state
        'missing'
    """
    try:
        listing = _list(name)
    except DatasetNotFound as error:
        return DatasetStatus(name, "missing", f"{error}.")
    except DatasetCorrupt as error:
        return DatasetStatus(name, f"corrupt: {error.problem}", f"{error.remedy[:1].upper()}{error.remedy[1:]}.")
    except ValueError as error:
        problem, _, remedy = str(error).partition("; ")  # see `_list`
        return DatasetStatus(name, f"corrupt: {problem}", f"{remedy[:1].upper()}{remedy[1:]}.")
    for path in listing.files:
        size = path.size if isinstance(path, BucketFile) else path.stat().st_size if path.is_file() else 0
        if size == 0:
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
    """Read one image file in the same way as the images of a folder.

    Args:
        path: the file.
        image_shape: (C, H, W) of the result. `convert` changes the number of channels, then shrinks or pads the image.
        background: the colour (R, G, B) that a transparent image is composited over.

    Returns:
        uint8 (C, H, W).

    Raises:
        DatasetNotFound: if there is no such file.
        DatasetCorrupt: if the file cannot be decoded.
        ValueError: if the file is not one image with 8 bits per channel, or `image_shape` has neither 1 nor 3 channels.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (30, 20), "white").save(f"{folder}/a.png")
        ...     image = read_image(f"{folder}/a.png", (3, 32, 32))
        >>> image.shape, image[:, 16, 16].tolist(), image[:, 0, 0].tolist()  # the centre, and the padding
        (torch.Size([3, 32, 32]), [255, 255, 255], [0, 0, 0])
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DatasetNotFound(
            f"there is no image file {path}", remedy="give the path of an image file", code="image-not-found"
        )
    return convert(decode(path, background), image_shape)[0]


@contextmanager
def one_look(known: dict[object, Any] | None = None) -> Iterator[None]:
    """List each folder, and read the headers of its files, only once within the `with` block.

    The functions of this module otherwise do both at every call, because files may change between two calls.

    Args:
        known: the results of an earlier block, which this block takes over and adds to; None for no results.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as path, one_look():
        ...     Image.new("L", (6, 4)).save(f"{path}/grey.png")
        ...     grey = folder_channels(f"folder:{path}")
        ...     Image.new("RGB", (6, 4)).save(f"{path}/red.png")
        ...     grey, folder_channels(f"folder:{path}")
        (1, 1)
    """
    token = _looks.set({} if known is None else known)
    try:
        yield
    finally:
        _looks.reset(token)


def _once(key: object, look: Callable[[], Result]) -> Result:
    """Return `look()`, or within a block of `one_look` what it returned before for this key."""
    known = _looks.get()
    if known is None:
        return look()
    if key not in known:
        known[key] = look()
    result: Result = known[key]
    return result


def _list(name: str) -> Listing:
    return _once(("listing", name), lambda: _list_now(name))


def _surveyed(name: str, listing: Listing, skip_unreadable: bool = False) -> Survey:
    return _once(("survey", name, skip_unreadable), lambda: _survey(listing.files, skip_unreadable))


def _list_now(name: str) -> Listing:
    """List the image files of "folder:PATH".

    Raises:
        DatasetNotFound: if there are none.
        DatasetCorrupt: if the system cannot list a folder, or a split has two folders.
        ValueError: for images next to class folders, which have no class, or a file in two splits. `folder_status`
            splits its message at the first "; " into what is wrong and what to do.
    """
    place = name.removeprefix("folder:")
    if is_uri(place):
        return _list_in_bucket(BucketFolder(place))
    path = Path(place).expanduser().absolute()
    if not path.is_dir():
        raise DatasetNotFound(
            f"{name} is not a folder on this machine",
            remedy="give folder:PATH the path of a folder with images",
            code="dataset-not-found",
        )
    folders = split_folders([name for name in names_in(path) if (path / name).is_dir()])
    listed = {path / sub: _files_by_class(path / sub, path.name) for sub in folders or [""]}
    in_order = sorted(folders.items(), key=lambda named: SPLITS.index(named[1])) or [("", ALL)]
    full = {sub: part for sub, part in in_order if listed[path / sub][0]}
    if not full:
        raise _no_images(path)
    if folders:
        one_name_per_split(path, full)
    parts = {part: listed[path / sub][0] for sub, part in full.items()}
    _check_disjoint(parts)
    links = tuple(link for sub, _ in in_order for link in listed[path / sub][1])
    return Listing(parts, links, _in_no_split(path, folders, parts) if folders else ())


def _in_no_split(path: Path, folders: Collection[str], parts: Mapping[str, list[tuple[Path, str]]]) -> tuple[str, ...]:
    """Return the paths, relative to the folder, of the images next to the folders of the splits."""
    suffixes = _suffixes()
    others = [path / name for name in names_in(path) if name not in folders]
    walked = [[other] if os.path.isfile(other) else [file for _, file in walk(other, True)[0]] for other in others]
    images = sorted(file for files in walked for file in files if file.suffix.lower() in suffixes)
    if not images:
        return ()
    listed = {identity(file) for files in parts.values() for file, _ in files}
    return tuple(str(file.relative_to(path)) for file in images if identity(file) not in listed)


def _list_in_bucket(folder: BucketFolder) -> Listing:
    """List the image files of a folder in a bucket, where there are no links.

    Raises:
        DatasetNotFound: if there are none.
        DatasetCorrupt: if a split has two folders.
        ValueError: for images next to class folders.
    """
    suffixes = _suffixes()
    images = [
        file
        for file in folder.files()
        if file.suffix.lower() in suffixes and not any(part.startswith(".") for part in file.relative.parts)
    ]
    if not images:
        raise _no_images(folder)
    first_parts = {file.relative.parts[0] for file in images if len(file.relative.parts) > 1}
    folders = split_folders(first_parts)
    one_name_per_split(folder, folders)
    by_part: dict[str, list[BucketFile]] = {}
    in_no_split = []
    for file in images:
        part = folders.get(file.relative.parts[0]) if folders else ALL
        if part is None:
            in_no_split.append(str(file.relative))
        else:
            by_part.setdefault(part, []).append(file)
    flat_name = folder.uri.partition("?")[0].rstrip("/").rpartition("/")[2]
    depth = 1 if folders else 0
    parts = {part: _bucket_classes(files, depth, flat_name) for part, files in by_part.items()}
    return Listing(parts, in_no_split=tuple(in_no_split))


def _bucket_classes(files: list[BucketFile], depth: int, flat_name: str) -> list[tuple[BucketFile, str]]:
    """Return the files with their classes: the folder names at this depth, or `flat_name` if there are none.

    Raises:
        ValueError: for images next to class folders.
    """
    loose = [file for file in files if len(file.relative.parts) == depth + 1]
    if loose and len(loose) < len(files):
        raise _loose(files[0].folder, loose[0])
    return [(file, flat_name if loose else file.relative.parts[depth]) for file in files]


def _no_images(place: Path | BucketFolder) -> DatasetNotFound:
    return DatasetNotFound(
        f"{place} contains no file with the extension of an image, such as .png or .jpg",
        remedy="put images with such an extension there, or name another folder",
        code="no-images",
    )


def _loose(place: Path | BucketFolder, file: object) -> ValueError:
    return ValueError(
        f"{place} has images in class folders and images next to these folders ({file}); move the latter into class "
        "folders"
    )


def _suffixes() -> set[str]:
    """Return the extensions of the files that Pillow can open."""
    from PIL import Image

    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def _files_by_class(folder: Path, flat_name: str) -> tuple[list[tuple[Path, str]], list[Path]]:
    """List the images of a folder with their classes.

    Args:
        folder: each of its subfolders is a class.
        flat_name: the name of the only class, if there are no subfolders with images.

    Returns:
        The images and their classes in the order of their paths, and the paths that are left out because they lead to
        files or folders that are listed already.
    """
    suffixes = _suffixes()
    files, left_out = walk(folder)
    images = [(linked, path) for linked, path in files if path.suffix.lower() in suffixes]
    found: dict[object, Path] = {}
    for _, path in sorted(images):  # so that a file's real path comes before links to it
        if found.setdefault(identity(path), path) != path:
            left_out.append(path)
    paths = sorted(path.relative_to(folder) for path in found.values())
    loose = [path for path in paths if len(path.parts) == 1]
    if loose and len(loose) < len(paths):
        raise _loose(folder, loose[0])
    return [(folder / path, flat_name if loose else path.parts[0]) for path in paths], sorted(left_out)


def _stamp(file: Path | BucketFile) -> tuple[int, int]:
    """Return the size of a file and the time of its last change in ns, or zeros for a dead link."""
    if isinstance(file, BucketFile):
        return file.size, file.changed_ns
    try:
        found = file.stat()
    except OSError:  # which is raised again when the file is read
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _check_disjoint(parts: Mapping[str, list[tuple[Path, str]]]) -> None:
    """Raise ValueError if a file is in two splits."""
    seen: dict[object, Path] = {}
    for files in parts.values():
        for path, _ in files:
            other = seen.setdefault(identity(path), path)
            if other != path:
                raise ValueError(f"{other} and {path}, in two splits, are the same file; remove it from one split")


@dataclass(frozen=True)
class Survey:
    """A summary of the headers of all image files in a folder.

    Attributes:
        sizes: each (width, height) in pixels that occurs, with the first file of this size.
        grey: the files with grey images.
        coloured: the files with images in colour.
        transparent: the files with images that have an alpha channel or a transparent colour.
    """

    sizes: dict[tuple[int, int], Path | BucketFile]
    grey: list[Path | BucketFile]
    coloured: list[Path | BucketFile]
    transparent: list[Path | BucketFile]

    @property
    def channels(self) -> int:
        """The number of channels with which the images are read: 1 if all are grey, else 3."""
        return 3 if self.coloured else 1

    def common_shape(self, name: str) -> Shape:
        """Return (C, H, W) of all images; raise ValueError if they differ in size."""
        (width, height), first = next(iter(self.sizes.items()))
        if len(self.sizes) > 1:
            (other_width, other_height), other = list(self.sizes.items())[1]
            raise ValueError(
                f"the images of {name} differ in size ({first.name}: {width}x{height}, {other.name}: "
                f"{other_width}x{other_height}); {SHAPE_ADVICE}"
            )
        return self.channels, height, width

    def notes(self, channels: int, background: Colour) -> tuple[str, ...]:
        """Return one sentence if there are both grey and colour images, and one if there are transparent images.

        Args:
            channels: the number of channels with which all images are read.
            background: the colour (R, G, B) that transparent images are composited over.
        """
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


def _survey(files: list[Path | BucketFile], skip_unreadable: bool = False) -> Survey:
    """Read the header of every file; those in buckets are read by several threads.

    Raises DatasetCorrupt or ImageRefused for a file that cannot be read. With `skip_unreadable`, files with a damaged
    header and refused images raise an error only if no file can be read.
    """
    survey = Survey({}, [], [], [])
    problem: Exception | None = None
    in_bucket = [path for path in files if isinstance(path, BucketFile)]
    headers = in_threads(_header, in_bucket) if in_bucket else map(_header, files)
    for path, header in zip(files, headers, strict=True):
        if not isinstance(header, Header):
            if not skip_unreadable:
                raise header
            problem = header
            continue
        survey.sizes.setdefault(header.size, path)
        (survey.grey if header.channels == 1 else survey.coloured).append(path)
        if header.transparent:
            survey.transparent.append(path)
    if problem is not None and not survey.sizes:
        raise problem
    return survey


def _header(file: Path | BucketFile) -> Header | ImageUnreadable | ImageRefused:
    """Return the header of a file, or the error that says why the file is not read."""
    try:  # a file in a bucket is read once, although a PNG is opened twice
        return read_header(file if isinstance(file, Path) else EncodedImage(str(file), file.open("rb").read()))
    except (ImageUnreadable, ImageRefused) as error:
        return error
