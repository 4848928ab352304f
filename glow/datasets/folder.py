"""`folder:PATH`: image files of a user, in class folders or in one folder, with or without official splits.

`folder_files.py` lists the files. A file is decoded when its image is asked for; `describe_folder` reads only headers.

Shapes: C channels, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
from glow.datasets.buckets import BucketFile, fetched, in_threads, stamp_of
from glow.datasets.decode import WHITE, Colour, EncodedImage, Header, decode, read_header
from glow.datasets.folder_files import Listing, folder_files
from glow.datasets.lazy import LazyDataset
from glow.datasets.looks import once
from glow.datasets.parts import part_of
from glow.datasets.tensors import check_channels, convert
from glow.errors import SHAPE_ADVICE

__all__ = ["describe_folder", "folder_channels", "folder_status", "open_folder", "read_image"]


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

    def stamps(indices: Tensor) -> Tensor:
        return torch.tensor([stamp_of(files[index][0]) for index in indices.tolist()], dtype=torch.int64).reshape(-1, 2)

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
        problem, _, remedy = str(error).partition("; ")  # see `folder_files`
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


def _list(name: str) -> Listing:
    return once(("listing", name), lambda: folder_files(name))


def _surveyed(name: str, listing: Listing, skip_unreadable: bool = False) -> Survey:
    return once(("survey", name, skip_unreadable), lambda: _survey(listing.files, skip_unreadable))


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
