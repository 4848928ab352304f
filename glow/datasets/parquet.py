"""``parquet:PATH``: encoded images in the rows of Parquet files, in the layout that Hugging Face exports.

PATH is a file or a folder, local or in a bucket. One column holds the images: bytes of PNG, JPEG and so on, or a
struct with a field ``bytes``. A column ``label`` or ``labels``, or the only column of integers or strings, holds the
classes.

A file belongs to a split if its name, or the name of a folder in its path, starts with a name of
`glow.datasets.splits`. Examples are ``data/train-00000-of-00002.parquet`` and ``test/0000.parquet``. If no file
belongs to a split, `glow.datasets.splits.deal` divides the images of each class among the splits, as for a folder of
images. All files have the same column of images, and the same column of classes or none.

The images are grey if all of them are grey, and otherwise all are read as RGB. Their size is that of the first image.

Each process opens a file once, and reads it in row groups.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from glow.datasets.base import (
    SPLITS,
    DatasetCorrupt,
    DatasetInfo,
    DatasetNotFound,
    ImageRefused,
    ImageUnreadable,
    Shape,
    reason,
)
from glow.datasets.buckets import BucketFile, gone, stamp_of
from glow.datasets.decode import EncodedImage, Header, check_channels, convert, decode, header_or_error
from glow.datasets.files import Files, parquet_files
from glow.datasets.lazy import ImageSource, LazyDataset, once
from glow.datasets.splits import ALL, numbered_classes, part_of, splits_of
from glow.errors import SHAPE_ADVICE

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

_READING = threading.Lock()
"""The lock of the thread that reads a row group: other threads need the same one, and pyarrow's reader allows one."""


@dataclass(frozen=True)
class Table:
    """A Parquet file. An instance can be pickled; a process that receives it opens the file itself.

    Attributes:
        source: the file.
        stamp: the size of the file in bytes and the time of its last change in ns. Rows in the cache are used only for
            a table with an equal stamp, so that a changed file is read again.

    Examples:
        >>> import io, tempfile, pyarrow, pyarrow.parquet
        >>> from PIL import Image
        >>> stream = io.BytesIO()
        >>> Image.new("L", (6, 4)).save(stream, "PNG")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pyarrow.parquet.write_table(pyarrow.table({"image": [stream.getvalue()] * 3}), f"{folder}/a.parquet")
        ...     table = Table.at(Path(folder, "a.parquet"))
        ...     table.rows, str(table.image(2, "image")).replace(folder, "")
        (3, 'row 2 of /a.parquet')
    """

    source: Path | BucketFile
    stamp: tuple[int, int]

    @classmethod
    def at(cls, source: Path | BucketFile) -> Table:
        """Return the table of a file, with the current size and time of change of the file as its stamp."""
        return cls(source, stamp_of(source))

    def __str__(self) -> str:
        """Return the path or URI of the file."""
        return str(self.source)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(_opened(self).metadata.num_rows)

    @property
    def group_ends(self) -> np.ndarray:
        """For each row group, the number of the row after its last row, counted from 0 in the file."""
        metadata = _opened(self).metadata
        return np.cumsum([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])

    @property
    def schema(self) -> pyarrow.Schema:
        """The names and types of the columns."""
        return _opened(self).schema_arrow

    def column(self, name: str) -> list[Any]:
        """Return all values of a column."""
        return list(_opened(self).read(columns=[name]).column(name).to_pylist())

    def image(self, row: int, column: str) -> EncodedImage:
        """Return the encoded image of a row. This reads the whole row group that contains the row.

        Raises:
            DatasetCorrupt: if the row group cannot be read; ImageUnreadable if that is because it is damaged, or if the
                row has no image.
        """
        ends = self.group_ends
        group = int(np.searchsorted(ends, row, side="right"))
        first = int(ends[group - 1]) if group else 0
        with _READING:
            contents = _group(self, group, column)
        found = self._encoded(row, contents[row - first], column)
        if isinstance(found, ImageUnreadable):
            raise found
        return found

    def images(self, column: str) -> Iterator[EncodedImage | ImageUnreadable]:
        """Yield the encoded images of all rows in order; an error in place of a row without an image.

        A damaged row group yields one error for all of its rows.
        """
        row = 0
        for group, end in enumerate(self.group_ends):
            try:
                with _READING:
                    contents = _group(self, group, column)
            except ImageUnreadable as error:
                yield error
                contents = []
            for number, content in enumerate(contents, row):
                yield self._encoded(number, content, column)
            row = int(end)

    def _encoded(self, row: int, content: bytes | None, column: str) -> EncodedImage | ImageUnreadable:
        name = f"row {row} of {self}"
        if content is not None:
            return EncodedImage(name, content)
        return ImageUnreadable(
            f"{name} has no bytes of an image in column {column!r}",
            remedy="export the data set with its images embedded",
            code="parquet-without-images",
        )


@lru_cache(maxsize=256)
def _opened(table: Table) -> ParquetFile:
    """Open a file once per process.

    Raises:
        DatasetCorrupt: if it is no Parquet file, or is not there any more.
    """
    from pyarrow.parquet import ParquetFile

    try:
        source = table.source
        return ParquetFile(source if isinstance(source, Path) else source.seekable())
    except FileNotFoundError as error:
        raise gone(table) from error
    except (OSError, ValueError) as error:
        if isinstance(error, DatasetNotFound | DatasetCorrupt):
            raise
        raise DatasetCorrupt(
            f"{table} cannot be read as Parquet ({reason(error)})",
            remedy="replace it with a good copy, or remove it",
            code="parquet-damaged",
        ) from error


@lru_cache(maxsize=4)
def _group(table: Table, group: int, column: str) -> list[bytes | None]:
    """Return the encoded images of a row group, and None for a row without one; the last few groups stay in memory.

    Raises:
        DatasetCorrupt: if the row group cannot be read; ImageUnreadable if that is because it is damaged.
    """
    try:
        values = _opened(table).read_row_group(group, columns=[column]).column(column).to_pylist()
    except (OSError, ValueError) as error:
        # An OSError of a bucket may be one of the network, which pyarrow does not tell apart.
        of_system = isinstance(error, OSError) and (error.errno is not None or isinstance(table.source, BucketFile))
        raise (DatasetCorrupt if of_system else ImageUnreadable)(
            f"row group {group} of {table} cannot be read ({reason(error)})",
            remedy="replace the file with a good copy",
            code="parquet-damaged",
        ) from error
    return [value["bytes"] if isinstance(value, dict) else value for value in values]


LABELS = ("label", "labels")
"""Names of the column of classes, of which the first that exists is taken."""


@dataclass(frozen=True)
class _Part:
    """The files of one split, or all files if none belongs to a split.

    Attributes:
        tables: the files.
        images: the name of the column of images.
        labels: the name of the column of classes; None if there is no such column.
    """

    tables: tuple[Table, ...]
    images: str
    labels: str | None

    @property
    def ends(self) -> np.ndarray:
        """For each file, the position in the part after its last image."""
        return np.cumsum([table.rows for table in self.tables])

    def image(self, position: int, ends: np.ndarray) -> EncodedImage:
        number = int(np.searchsorted(ends, position, side="right"))
        first = int(ends[number - 1]) if number else 0
        return self.tables[number].image(position - first, self.images)

    def classes(self) -> list[Any]:
        """Return the class of each row: its value in the column of classes, or 0 if there is no such column."""
        if self.labels is None:
            return [0] * int(self.ends[-1])
        return [value for table in self.tables for value in table.column(self.labels)]


class ParquetDataset(ImageSource):
    """The images of "parquet:PATH". Each call lists the files, except within a block of `one_look`.

    Args:
        name: "parquet:PATH"; PATH can be a file or a folder, on this machine or in a bucket.

    Examples:
        >>> import io, tempfile, pyarrow, pyarrow.parquet
        >>> from PIL import Image
        >>> stream = io.BytesIO()
        >>> Image.new("L", (6, 4), 7).save(stream, "PNG")
        >>> columns = {"image": [{"bytes": stream.getvalue(), "path": None}] * 20, "label": [0, 1] * 10}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pyarrow.parquet.write_table(pyarrow.table(columns), f"{folder}/train-0.parquet")
        ...     source = ParquetDataset(f"parquet:{folder}")
        ...     info, dataset = source.describe(image_shape=None), source.open("train", image_shape=None)
        ...     info.splits, dataset.images(0, 2).shape, dataset.class_names
        (('train', 'validation'), torch.Size([2, 1, 4, 6]), ('0', '1'))
    """

    ADD_SPLIT = "add a file whose name starts with {split}"

    def open(self, split: str, image_shape: Shape | None) -> LazyDataset:
        """Open a split. Without an `image_shape`, an image of another size than the first is always refused."""
        parts = self._parts()
        of, rule = part_of(self.name, parts, split, self.ADD_SPLIT)
        part, names = parts[of], _class_names(self.name, parts)
        shape = image_shape or _own_shape(parts, _first(parts))
        check_channels(3, shape[0])  # the result is the same for grey images
        same_size = self.refuse_other_sizes or image_shape is None
        labels = torch.tensor(_numbered(self.name, part, names), dtype=torch.int64)
        ends = part.ends

        def pick(positions: Tensor) -> Tensor:
            images = torch.empty((len(positions), *shape), dtype=torch.uint8)
            for image, position in zip(images, positions.tolist(), strict=True):
                encoded = part.image(position, ends)
                decoded = decode(encoded, self.background)
                if same_size:
                    _check_size(self.name, encoded, decoded, shape)
                image.copy_(convert(decoded, shape)[0])
            return images

        def stamps(positions: Tensor) -> Tensor:
            numbers = np.searchsorted(ends, positions.numpy(), side="right")
            found, which = np.unique(numbers, return_inverse=True)
            now = torch.tensor([stamp_of(part.tables[number].source) for number in found.tolist()], dtype=torch.int64)
            return now.reshape(-1, 2)[torch.from_numpy(which)]

        return LazyDataset(labels, names, shape, pick, stamps=stamps).subset(rule(labels, split))

    def describe(self, image_shape: Shape | None) -> DatasetInfo:
        """Describe the images by the columns and the header of the first image.

        Without an `image_shape`, headers of other images are read too, as by `channels`. With one, the images may
        differ in size, so that `DatasetInfo.original_shape` is the `image_shape`.
        """
        files = self._files()
        parts = self._parts(files)
        first = _first(parts, self.skip_unreadable)  # also with an image_shape, to refuse a bad file before any work
        shape = image_shape or _own_shape(parts, first)
        return DatasetInfo(self.name, shape, shape, _class_names(self.name, parts), splits_of(parts), files.notes)

    def channels(self) -> int:
        """Return the number of channels by the headers up to that of the first coloured image.

        Thus all headers are read if all images are grey.
        """
        return _channels(tuple(self._parts().values()))

    def check(self) -> tuple[str, ...]:
        """Check that the files can be opened, and have the same columns of images and classes."""
        return splits_of(self._parts())

    def _files(self) -> Files:
        return once(("parquet files", self.name), lambda: parquet_files(self.name))

    def _parts(self, files: Files | None = None) -> dict[str, _Part]:
        """Return the parts by split, or under `ALL` if no file names a split."""
        return once(("parquet parts", self.name), lambda: _parts_of(self.name, files or self._files()))


def _first(parts: Mapping[str, _Part], skip_unreadable: bool = False) -> Header:
    """Return the header of the first image, or with `skip_unreadable` the first header that can be read.

    Raises:
        ImageUnreadable, ImageRefused: if that of the first image cannot be read, or with `skip_unreadable` none.
    """
    headers = _headers(parts.values())
    first = next(headers)  # there is one, because no part is empty
    if skip_unreadable:
        first = next((header for header in chain([first], headers) if isinstance(header, Header)), first)
    if not isinstance(first, Header):
        raise first
    return first


def _own_shape(parts: Mapping[str, _Part], first: Header) -> Shape:
    """Return the size of the first image, with the number of channels of all images."""
    width, height = first.size
    return _channels(tuple(parts.values())), height, width


def _headers(parts: Iterable[_Part]) -> Iterator[Header | ImageUnreadable | ImageRefused]:
    """Yield the headers of all images in order; the error in place of a header that cannot be read."""
    for part in parts:
        for table in part.tables:
            for encoded in table.images(part.images):
                yield encoded if isinstance(encoded, ImageUnreadable) else header_or_error(encoded)


@lru_cache(maxsize=64)
def _channels(parts: tuple[_Part, ...]) -> int:
    """Return 1 if the headers of all images are grey, else 3.

    An image whose header cannot be read does not count: it is refused when it is asked for.
    """
    coloured = any(isinstance(header, Header) and header.channels == 3 for header in _headers(parts))
    return 3 if coloured else 1


def _check_size(name: str, encoded: EncodedImage, decoded: Tensor, shape: Shape) -> None:
    """Raise DatasetCorrupt if a decoded image is not as high and as wide as `shape`."""
    height, width = decoded.shape[-2:]
    if (height, width) != shape[1:]:
        raise DatasetCorrupt(
            f"the images of {name} differ in size (first image: {shape[2]}x{shape[1]}, {encoded}: {width}x{height})",
            remedy=SHAPE_ADVICE,
            code="image-size",
        )


def _parts_of(name: str, files: Files) -> dict[str, _Part]:
    by_part = {part: [Table.at(source) for source in sources] for part, sources in files.by_part.items()}
    ordered = [split for split in (*SPLITS, ALL) if split in by_part]
    images, labels = _columns([table for split in ordered for table in by_part[split]])
    parts = {split: _Part(tuple(by_part[split]), images, labels) for split in ordered}
    parts = {split: part for split, part in parts.items() if part.ends[-1] > 0}
    if not parts:
        raise DatasetNotFound(
            f"the Parquet files of {name} have no rows", remedy="give files with images", code="dataset-empty"
        )
    return parts


def _columns(tables: Sequence[Table]) -> tuple[str, str | None]:
    """Return the names of the columns of images and of classes, which all files have.

    If a file has a column `label` or `labels`, it has the classes of all files.

    Raises:
        DatasetCorrupt: if a file does not have exactly one column of images, lacks a column of another file, or has a
            column that is named as that of classes but has values of another type.
    """
    found = [(_image_column(table), _class_column(table), table.schema.names) for table in tables]
    images, classes, names = zip(*found, strict=True)
    labels = next((column for column in (*LABELS, *classes) if column is not None and column in classes), None)
    for column in filter(None, (images[0], labels)):
        has = [column in of_table for of_table in names]
        if not all(has):
            raise DatasetCorrupt(
                f"{tables[has.index(False)]} has no column {column!r}, which {tables[has.index(True)]} has",
                remedy="export all files with the same columns of images and classes, or remove those that differ",
                code="parquet-columns-differ",
            )
    return images[0], labels


def _image_column(table: Table) -> str:
    """Return the name of the column of images.

    Raises:
        DatasetCorrupt: if there is not exactly one such column.
    """
    from pyarrow import types

    fields = list(table.schema)

    def holds_images(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(inner.name == "bytes" and holds_images(inner.type) for inner in kind)
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    images = [field.name for field in fields if holds_images(field.type)]
    if len(images) != 1:
        raise DatasetCorrupt(
            f"{table} has {'no column' if not images else 'several columns'} of images ({', '.join(images) or 'none'}) "
            f"among its columns {', '.join(field.name for field in fields)}",
            remedy="export one column of encoded images",
            code="parquet-columns",
        )
    return images[0]


def _class_column(table: Table) -> str | None:
    """Return the name of the column of classes, or None if there is none.

    Raises:
        DatasetCorrupt: if a column is named as that of classes, but holds neither integers nor strings nor booleans.
    """
    from pyarrow import types

    kinds = {field.name: field.type for field in table.schema}
    plain = [name for name, kind in kinds.items() if types.is_integer(kind) or types.is_string(kind)]
    encoded = [name for name, kind in kinds.items() if _is_encoded(kind)]
    readable = {*plain, *encoded, *(name for name, kind in kinds.items() if types.is_boolean(kind))}
    named = [name for name in LABELS if name in kinds]
    for name in named:
        if name in readable:
            return name
    if named:
        raise DatasetCorrupt(
            f"column {named[0]!r} of {table} holds values of type {kinds[named[0]]}",
            remedy="export the classes as integers or strings, or rename that column",
            code="parquet-label-type",
        )
    candidates = plain or encoded
    return candidates[0] if len(candidates) == 1 else None


def _is_encoded(kind: Any) -> bool:
    """Return whether values are integers or strings that polars (large strings) or pandas (categories) encodes."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
        return bool(types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind))
    return bool(types.is_large_string(kind))


def _class_names(name: str, parts: Mapping[str, _Part]) -> tuple[str, ...]:
    """Return the names that Hugging Face keeps in the schema, or else the values that occur."""
    part = next(iter(parts.values()))
    if part.labels is None:
        return ("0",)
    kept = (part.tables[0].schema.metadata or {}).get(b"huggingface")
    try:
        names = json.loads(kept)["info"]["features"][part.labels]["names"] if kept else None
    except (ValueError, KeyError, TypeError):
        names = None
    if names:
        return tuple(map(str, names))
    values = {value for each in parts.values() for value in each.classes() if value is not None}
    if all(isinstance(value, int) for value in values):
        images = sum(int(each.ends[-1]) for each in parts.values())
        return numbered_classes(name, max(map(int, values), default=0), images)
    return tuple(sorted(value for value in values if isinstance(value, str)))


def _numbered(name: str, part: _Part, names: Sequence[str]) -> list[int]:
    """Return the number of each row's class.

    Raises:
        DatasetCorrupt: if a row has no class, or one without a name.
    """
    numbers: dict[Any, int] = {name: number for number, name in enumerate(names)}
    numbers |= {number: number for number in range(len(names))}
    classes = part.classes()
    for row, value in enumerate(classes):
        if value not in numbers:
            raise DatasetCorrupt(
                f"row {row} of {name} has no class in column {part.labels!r}, or an unknown one ({value!r})",
                remedy="export the data set with the class of each image, or without that column",
                code="parquet-classes",
            )
    return [numbers[value] for value in classes]
