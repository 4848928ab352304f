"""The destination of ``glowctl pack``: a folder that all machines share, or a bucket."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from glow.datasets.buckets import BucketFolder, is_uri
from jobs.errors import JobError
from jobs.text import megabytes

__all__ = ["Destination", "destination_of"]


class Destination(Protocol):
    """A folder or bucket whose files are read, written and removed by name."""

    def read(self, name: str) -> bytes | None:
        """Return the contents of a file, or None if there is no such file."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all. Raises OSError."""

    def remove(self, name: str) -> None:
        """Remove a file, if it exists. Raises OSError."""

    def sizes(self) -> Mapping[str, int]:
        """Return the names of all files and their sizes in bytes; empty if the destination does not exist."""

    def check_room(self, size: int) -> None:
        """Raise JobError if the disk has less than `size` free bytes; a bucket accepts any size."""


def destination_of(dest: str) -> Destination:
    """Return the destination that the argument DEST names; `dest` is an absolute path or a URI."""
    return _Bucket(dest) if is_uri(dest) else _Folder(Path(dest))


class _Bucket:
    """A bucket, where a file appears whole when it has been sent."""

    def __init__(self, uri: str) -> None:
        self._bucket = BucketFolder(uri)
        self.read, self.write, self.remove = self._bucket.read, self._bucket.write, self._bucket.remove

    def __str__(self) -> str:
        return str(self._bucket)

    def sizes(self) -> Mapping[str, int]:
        return {str(file.relative): file.size for file in self._bucket.files()}

    def check_room(self, size: int) -> None:
        """Accept any size, because a bucket does not tell how much room it has."""


class _Folder:
    """A folder, in which a file has another name until it is complete."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __str__(self) -> str:
        return str(self._folder)

    def read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / f"{name}.{os.getpid()}.part"
        try:
            unfinished.write_bytes(content)
            unfinished.replace(self._folder / name)
        finally:
            unfinished.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def sizes(self) -> Mapping[str, int]:
        if not self._folder.is_dir():
            return {}
        return {path.name: path.stat().st_size for path in self._folder.iterdir()}

    def check_room(self, size: int) -> None:
        parent = next(folder for folder in (self._folder, *self._folder.parents) if folder.is_dir())
        free = shutil.disk_usage(parent).free
        if size > free:
            raise JobError(
                f"the images that remain to be packed take {megabytes(size)}, but the disk with {parent} has only "
                f"{megabytes(free)} free",
                remedy="free some space, or give another DEST or a smaller --image-size",
                code="disk-full",
            )
