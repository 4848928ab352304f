"""A Parquet file with encoded images: it is opened once per process, and read in row groups."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glow.datasets.base import DatasetCorrupt, DatasetNotFound, ImageUnreadable
from glow.datasets.buckets import BucketFile, stamp_of
from glow.datasets.decode import EncodedImage

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

__all__ = ["Table"]

_READING = threading.Lock()
"""The lock of the thread that reads a row group: other threads need the same one, and pyarrow's reader allows one."""


@dataclass(frozen=True)
class Table:
    """A Parquet file. An instance can be pickled; a process that receives it opens the file itself.

    Attributes:
        source: the file.
        stamp: the size of the file in bytes and the time of its last change in ns. Rows in the cache are used only for
            a table with an equal stamp, so that a changed file is read again.

    Example:
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
        raise DatasetCorrupt(
            f"{table} is gone", remedy="leave the files in place while they are read", code="file-gone"
        ) from error
    except (OSError, ValueError) as error:
        if isinstance(error, DatasetNotFound | DatasetCorrupt):
            raise
        raise DatasetCorrupt(
            f"{table} cannot be read as Parquet ({str(error).splitlines()[0]})",
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
            f"row group {group} of {table} cannot be read ({str(error).splitlines()[0]})",
            remedy="replace the file with a good copy",
            code="parquet-damaged",
        ) from error
    return [value["bytes"] if isinstance(value, dict) else value for value in values]
