"""Images that arrive and shall be judged: files, folders, paths that another program lists, and data sets.

In contrast to a data set for training, every image has a name, no image is assigned to a split, and an image that
cannot be read is reported and left out.

Shapes: n images of a piece, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glow.datasets.base import WHITE, Colour, DatasetCorrupt, ImageRefused, Shape, dataset_label, place_of
from glow.datasets.buckets import BucketFile, BucketFolder, fetched, is_uri
from glow.datasets.decode import check_channels, convert, decode
from glow.datasets.files import folder_files, image_files
from glow.datasets.known_folders import LAYOUTS
from glow.datasets.lazy import LazyDataset, read_all_but
from glow.datasets.names import image_source, open_dataset
from glow.datasets.registry import REGISTRY
from glow.errors import UserError

UNREADABLE = (DatasetCorrupt, ImageRefused)
"""The errors for which an image is left out: it is damaged, missing, or not one image with 8 bits per channel."""


@dataclass(frozen=True)
class Incoming:
    """Images with their names.

    Attributes:
        images: the images in the shape that the model reads.
        names: the path or the description of each image.
        classes: the class of each image; empty if there are no classes.
        shapes: the shape (C, H, W) of each image before it was converted, by position. It has the image files that
            have been read, and no images of other kinds of data sets.
        notes: what a user should know about files that are not among the images; one sentence each.

    Examples:
        >>> (part,) = open_incoming(["digits"], (1, 8, 8))
        >>> len(part.names), part.names[1], part.classes[1]
        (355, 'digits test 1', '9')
    """

    images: LazyDataset
    names: Sequence[str]
    classes: Sequence[str] = ()
    shapes: dict[int, Shape] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    @classmethod
    def of_files(
        cls,
        files: Sequence[Path | BucketFile],
        image_shape: Shape,
        classes: Sequence[str] = (),
        background: Colour = WHITE,
    ) -> Incoming:
        """Return image files, none of which is opened before its image is asked for.

        Args:
            files: the files, which need not exist.
            image_shape: (C, H, W) of the model's images; files are converted as those of a folder are.
            classes: the class of each file.
            background: the colour (R, G, B) that transparent images are composited over.

        Raises:
            ValueError: if the number of channels is neither 1 nor 3.
        """
        check_channels(3, image_shape[0])
        shapes: dict[int, Shape] = {}

        def pick(positions: Tensor) -> Tensor:
            chosen: list[Any] = [files[position] for position in positions.tolist()]
            for file in chosen:
                if isinstance(file, Path) and not file.is_file():  # to open a pipe would wait for a writer
                    raise DatasetCorrupt(f"{file} is not a file", remedy="correct the path", code="image-not-found")
            images = torch.empty((len(chosen), *image_shape), dtype=torch.uint8)
            for image, position, file in zip(images, positions.tolist(), fetched(chosen), strict=True):
                decoded = decode(file, background)
                channels, height, width = decoded.shape[1:]
                shapes[position] = channels, height, width
                image.copy_(convert(decoded, image_shape)[0])
            return images

        labels = torch.zeros(len(files), dtype=torch.int64)
        return cls(LazyDataset(labels, (), image_shape, pick), [str(file) for file in files], classes, shapes)

    @classmethod
    def of_dataset(cls, images: LazyDataset, name: str) -> Incoming:
        """Return the images of a split, each of which is named by its position.

        Args:
            images: the split.
            name: the name of the split, such as "mnist test".
        """
        several = len(images.class_names) > 1
        classes = [images.class_names[label] for label in images.labels.tolist()] if several else []
        return cls(images, [f"{name} {position}" for position in range(len(images))], classes)


@dataclass(frozen=True)
class Piece:
    """Some neighbouring images of an `Incoming`.

    Attributes:
        part: the images that these are some of.
        positions: the positions in `part` of the images that could be read.
        images: the images that could be read, uint8 (n, C, H, W).
        names: their names.
        classes: their classes, "" for an image without one.
        shapes: their shapes (C, H, W) before they were converted; None if this is not known.
        unreadable: the name of each image that could not be read, and the reason.

    Examples:
        >>> missing = Incoming.of_files([Path("/no/such/file.png")], (1, 8, 8))
        >>> [piece.unreadable for piece in pieces([missing])]
        [[('/no/such/file.png', '/no/such/file.png is not a file')]]
    """

    part: Incoming
    positions: list[int]
    images: Tensor
    names: list[str]
    classes: list[str]
    shapes: list[Shape | None]
    unreadable: list[tuple[str, str]]


def pieces(parts: Iterable[Incoming], size: int = 1000, threads: int = 1) -> Iterator[Piece]:
    """Read images piece by piece, so that only one piece is in memory.

    Args:
        parts: the images.
        size: largest number of images of a piece.
        threads: number of threads that decode files.

    Raises:
        DatasetNotFound: if a bucket cannot be reached.

    Examples:
        >>> [len(piece.images) for piece in pieces(open_incoming(["digits"], (1, 8, 8)), size=200)]
        [200, 155]
    """
    for part in parts:
        for start in range(0, len(part.names), size):
            stop = min(start + size, len(part.names))
            images, problems = read_all_but(part.images, start, stop, UNREADABLE, threads)
            gone = {position for position, _ in problems}
            kept = [position for position in range(start, stop) if position not in gone]
            yield Piece(
                part,
                kept,
                images,
                [part.names[position] for position in kept],
                [part.classes[position] if part.classes else "" for position in kept],
                [part.shapes.get(position) for position in kept],
                [(part.names[position], _problem(error)) for position, error in problems],
            )


def _problem(error: Exception) -> str:
    return error.problem if isinstance(error, UserError) else str(error)


def open_incoming(
    sources: Sequence[str],
    image_shape: Shape,
    *,
    paths: Iterable[str] = (),
    root: str | Path | None = None,
    download: bool = False,
    background: Colour = WHITE,
) -> list[Incoming]:
    r"""Find the images that sources name. Their files are not opened.

    Args:
        sources: each is an image file; a folder, of which all image files are taken, also those in subfolders; the URI
            of a file or a folder in a bucket; "-" for `paths`; a name such as "folder:PATH" or "arrays:PATH", of which
            the images of all splits are taken; or the name of a known data set, of which the test images are taken.
        image_shape: (C, H, W) of the model's images, to which all are converted.
        paths: what "-" stands for: lines, each with the path or the URI of an image file.
        root: the data root of known data sets; None for the default.
        download: fetch the files of a known data set that are missing.
        background: the colour (R, G, B) that transparent images are composited over.

    Returns:
        The images in the order of the sources. A path that does not exist is among them; it raises an error when it is
        read.

    Raises:
        ValueError: if images cannot be converted to the `image_shape`, or as `load_dataset`.
        DatasetNotFound, DatasetCorrupt: if a data set cannot be opened.

    Examples:
        >>> [part.names for part in open_incoming(["-"], (1, 8, 8), paths=["a.png\n", "b.png\n"])]
        [['a.png', 'b.png']]
    """
    how: dict[str, Any] = {"image_shape": image_shape, "background": background}
    parts: list[Incoming] = []
    for source in sources:
        if source == "-":
            parts.append(Incoming.of_files([file_at(line.rstrip("\r\n")) for line in paths if line.strip()], **how))
        elif (place := place_of(source)) is not None and place.kind != "folder":
            parts += _of_splits(source, **how)
        elif place is not None or (is_uri(source) and not Path(source.partition("?")[0]).suffix):
            parts.append(_of_folder(source if place else f"folder:{source}", **how))
        elif source in REGISTRY or source in LAYOUTS:
            opened = open_dataset(source, "test", root, download=download, image_shape=image_shape)
            parts.append(Incoming.of_dataset(opened, f"{source} test"))
        elif (folder := Path(source).expanduser()).is_dir():
            files = image_files(folder)
            inside = [file.relative_to(folder).parts for file in files]
            classes = [path[0] if len(path) > 1 else "" for path in inside]
            parts.append(Incoming.of_files(files, classes=classes if len(set(classes)) > 1 else (), **how))
        else:
            parts.append(Incoming.of_files([file_at(source)], **how))
    return parts


def file_at(path: str) -> Path | BucketFile:
    """Return the file with a path or a URI. It need not exist.

    Examples:
        >>> file_at("a.png"), str(file_at("s3://bucket/pets/tom.png?region=eu-central-1"))
        (PosixPath('a.png'), 's3://bucket/pets/tom.png')
    """
    if not is_uri(path):
        return Path(path).expanduser()
    uri, question_mark, options = path.partition("?")
    folder, _, name = uri.rpartition("/")
    return BucketFolder(folder + question_mark + options).file(name)


def _of_folder(name: str, **how: Any) -> Incoming:
    listing = folder_files(name)
    chosen = [(file, kind) for files in listing.parts.values() for file, kind in files]
    classes = [kind for _, kind in chosen] if len(listing.class_names) > 1 else []
    return replace(Incoming.of_files([file for file, _ in chosen], classes=classes, **how), notes=listing.notes)


def _of_splits(name: str, image_shape: Shape, background: Colour) -> list[Incoming]:
    """Return the images of all splits of a data set whose name contains a path."""
    source = image_source(name, background=background)
    opened = ((split, source.open(split, image_shape)) for split in source.describe(image_shape).splits)
    return [Incoming.of_dataset(images, f"{dataset_label(name)} {split}") for split, images in opened if len(images)]
