"""`folder:PATH`: image files of a user, in class folders or in one folder, with or without official splits.

`files.py` lists the files. A file is decoded when its image is asked for; `FolderDataset.describe` reads only headers.

Hugging Face `datasets` 5.2.0 (`imagefolder`) was tried in its place: it reads more files per second, but takes ten
times as long to open a folder of 10,000 files (7.3 s), and returns a 16-bit image without an error.

Shapes: C channels, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from glow.datasets.base import WHITE, Colour, DatasetCorrupt, DatasetInfo, DatasetNotFound, Shape
from glow.datasets.buckets import BucketFile, fetched, in_memory, in_threads, stamp_of
from glow.datasets.decode import Header, check_channels, convert, decode, header_or_error
from glow.datasets.files import Listing, folder_files
from glow.datasets.lazy import ImageSource, LazyDataset, once
from glow.datasets.splits import part_of
from glow.errors import SHAPE_ADVICE


class FolderDataset(ImageSource):
    """The images of "folder:PATH". Each call lists the files, except within a block of `one_look`.

    Args:
        name: "folder:PATH"; PATH can be the URI of a folder in a bucket.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as path:
        ...     for kind, colour in (("cat", "red"), ("dog", "blue")):
        ...         Path(path, kind).mkdir()
        ...         for number in range(10):
        ...             Image.new("RGB", (6, 4), colour).save(f"{path}/{kind}/{number}.png")
        ...     folder = FolderDataset(f"folder:{path}")
        ...     info = folder.describe(image_shape=None)
        ...     images = folder.open("train", image_shape=(1, 8, 8)).images(0, 2)
        >>> info.class_names, info.image_shape, images.shape
        (('cat', 'dog'), (3, 4, 6), torch.Size([2, 1, 8, 8]))
    """

    ADD_SPLIT = "add a folder {split}/ to it"

    def open(self, split: str, image_shape: Shape | None) -> LazyDataset:
        """Open a split. With an `image_shape`, no file is opened before its image is asked for."""
        if image_shape:
            check_channels(3, image_shape[0])  # the same for grey images; it is not known yet which these are
        listing = self._listing()
        part, rule = part_of(self.name, listing.parts, split, self.ADD_SPLIT)
        files = listing.parts[part]
        label_of = {class_name: label for label, class_name in enumerate(listing.class_names)}
        labels = torch.tensor([label_of[class_name] for _, class_name in files])
        shape = image_shape or self._survey(listing).common_shape(self.name)

        def pick(indices: Tensor) -> Tensor:
            images = torch.empty((len(indices), *shape), dtype=torch.uint8)
            chosen = fetched([files[index][0] for index in indices.tolist()])
            for image, file in zip(images, chosen, strict=True):
                image.copy_(convert(decode(file, self.background), shape)[0])
            return images

        def stamps(indices: Tensor) -> Tensor:
            found = [stamp_of(files[index][0]) for index in indices.tolist()]
            return torch.tensor(found, dtype=torch.int64).reshape(-1, 2)

        return LazyDataset(labels, listing.class_names, shape, pick, stamps=stamps).subset(rule(labels, split))

    def describe(self, image_shape: Shape | None) -> DatasetInfo:
        """Describe the images by the headers of all files."""
        listing = self._listing()
        survey = self._survey(listing, self.skip_unreadable)
        mixed = len(survey.sizes) > 1
        original_shape = image_shape if image_shape and mixed else survey.common_shape(self.name)
        shape = image_shape or original_shape
        notes = (*listing.notes, *survey.notes(shape[0], self.background))
        return DatasetInfo(self.name, original_shape, shape, listing.class_names, listing.splits, notes)

    def channels(self) -> int:
        """Return the number of channels by the headers of all files."""
        return self._survey(self._listing(), self.skip_unreadable).channels

    def check(self) -> tuple[str, ...]:
        """Check that the folder can be listed, and that no file is empty."""
        listing = self._listing()
        for path in listing.files:
            if stamp_of(path)[0] == 0:
                raise DatasetCorrupt(
                    f"{path} is empty or a dead link", remedy="replace or remove it", code="file-empty"
                )
        return listing.splits

    def _listing(self) -> Listing:
        return once(("listing", self.name), lambda: folder_files(self.name))

    def _survey(self, listing: Listing, skip_unreadable: bool = False) -> _Survey:
        return once(("survey", self.name, skip_unreadable), lambda: _survey(listing.files, skip_unreadable))


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

    Examples:
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


@dataclass(frozen=True)
class _Survey:
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


def _survey(files: list[Path | BucketFile], skip_unreadable: bool = False) -> _Survey:
    """Read the header of every file; those in buckets are read by several threads.

    Raises DatasetCorrupt or ImageRefused for a file that cannot be read. With `skip_unreadable`, files with a damaged
    header and refused images raise an error only if no file can be read.
    """
    survey = _Survey({}, [], [], [])
    problem: Exception | None = None
    in_bucket = [path for path in files if isinstance(path, BucketFile)]
    # A file in a bucket is read once, although a PNG is opened twice.
    headers = (
        in_threads(lambda file: header_or_error(in_memory(file)), in_bucket)
        if in_bucket
        else map(header_or_error, files)
    )
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
