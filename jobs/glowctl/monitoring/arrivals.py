"""Images as they arrive: new files in a folder or a bucket, or paths on standard input.

A file in a folder waits until its size and its time of change are the same at two looks. A file that cannot be decoded
is handed out again after `RETRY_S`, for up to `PATIENCE_S`, because it may be half-written.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from glow.datasets.base import DatasetNotFound
from glow.datasets.buckets import BucketFile, BucketFolder, stamp_of
from glow.datasets.files import image_files, images_in_bucket

BATCH = 64
"""Largest number of images that are judged at a time."""

POLL_S, BUCKET_POLL_S = 1.0, 10.0
"""Seconds between two looks at a folder, and at a folder in a bucket, where each costs requests."""

GATHER_S = 0.5
"""Seconds that a path on standard input waits for others, to be judged together."""

RETRY_S, PATIENCE_S = 2.0, 20.0
"""Seconds between two tries to decode a file, and after which a file that cannot be decoded counts as unreadable."""

QUEUED = 10_000
"""Largest number of paths that are read from standard input ahead of their images."""


@dataclass(frozen=True)
class Arrived:
    """A file that has arrived.

    Attributes:
        file: its path.
        modified: when it was last changed, in nanoseconds since 1970; 0 if that is not known.
        since: when it was first handed out, on the clock of `time.monotonic`.
    """

    file: str
    modified: int
    since: float = field(default_factory=time.monotonic, compare=False)


class Seen:
    """The names of files that have arrived, in a temporary file, so that a million of them take no memory.

    SQLite keeps the latest pages in memory, and removes the file when the process ends.
    """

    def __init__(self) -> None:
        self._names = sqlite3.connect("")
        self._names.execute("CREATE TABLE names (name BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, name: str) -> bool:
        """Add a name, and return whether it is new."""
        return self._names.execute("INSERT OR IGNORE INTO names VALUES (?)", [os.fsencode(name)]).rowcount == 1

    def __contains__(self, name: str) -> bool:
        """Return whether a name has been added."""
        found = self._names.execute("SELECT 1 FROM names WHERE name = ?", [os.fsencode(name)])
        return found.fetchone() is not None


class Arrivals:
    """Batches of files in the order of arrival, each file once.

    Args:
        looks: yields files that have arrived since the last time, perhaps none; ends when no more can arrive.
    """

    def __init__(self, looks: Iterable[list[Arrived]]) -> None:
        self._looks = looks
        self._again: list[tuple[float, Arrived]] = []

    def __iter__(self) -> Iterator[list[Arrived]]:
        """Yield batches of at most `BATCH` files."""
        for found in self._looks:
            ready = self._due() + found
            for start in range(0, len(ready), BATCH):
                yield ready[start : start + BATCH]
        while self._again:
            time.sleep(max(0.0, self._again[0][0] - time.monotonic()))
            yield self._due()

    def again(self, file: Arrived) -> bool:
        """Hand a file out again later, and return True; return False if it has waited for long enough."""
        if time.monotonic() - file.since > PATIENCE_S:
            return False
        self._again.append((time.monotonic() + RETRY_S, file))
        return True

    def _due(self) -> list[Arrived]:
        now = time.monotonic()
        due = [file for at, file in self._again if at <= now]
        self._again = [(at, file) for at, file in self._again if at > now]
        return due


def from_folder(folder: Path | BucketFolder, seen: Seen, note: Callable[[str], None]) -> Iterator[list[Arrived]]:
    """Yield new image files of a folder and its subfolders, again and again, those that were changed first first.

    Args:
        folder: the folder. While it is missing, or its bucket cannot be reached, nothing arrives.
        seen: paths that are left out; each file that is handed out is added.
        note: receives a sentence when the folder goes away and when it returns.
    """
    before: dict[str, tuple[int, int]] = {}
    there = True
    while True:
        now = _listed(folder, seen)
        if (now is not None) != there:
            there = not there
            note(f"{folder} is {'there again' if there else 'gone: waiting until it returns'}")
        now = now or {}
        stable = sorted(
            (modified, path) for path, (size, modified) in now.items() if before.get(path) == (size, modified)
        )
        before = now
        yield [Arrived(path, modified) for modified, path in stable if seen.add(path)]
        time.sleep(POLL_S if isinstance(folder, Path) else BUCKET_POLL_S)


def _listed(folder: Path | BucketFolder, seen: Seen) -> dict[str, tuple[int, int]] | None:
    """Return the size of each new file, and when it was changed; None if there is no such folder.

    Files that vanish in the meantime are left out.
    """
    if isinstance(folder, Path) and not folder.is_dir():
        return None
    try:
        files: Sequence[Path | BucketFile] = (
            image_files(folder) if isinstance(folder, Path) else images_in_bucket(folder)
        )
    except DatasetNotFound:
        return None
    stamps = ((str(file), stamp_of(file)) for file in files if str(file) not in seen)
    return {path: stamp for path, stamp in stamps if stamp != (0, 0)}


def from_lines(lines: Iterable[str], seen: Seen) -> Iterator[list[Arrived]]:
    """Yield the files whose paths come line by line, until the lines end.

    A path that comes twice is left out the second time unless its file has changed.

    Args:
        lines: the lines. They are read in a thread, at most `QUEUED` ahead.
        seen: files that are left out, as `identity` returns them.
    """
    waiting: queue.Queue[str | BaseException | None] = queue.Queue(QUEUED)

    def read() -> None:
        try:
            for line in lines:
                waiting.put(line)
            waiting.put(None)
        except BaseException as error:  # raised where the paths are judged
            waiting.put(error)

    threading.Thread(target=read, name="paths", daemon=True).start()
    ended = False
    while not ended:
        batch: list[Arrived] = []
        while len(batch) < BATCH:
            try:
                line = waiting.get(timeout=GATHER_S)
            except queue.Empty:
                break
            if isinstance(line, BaseException):
                raise line
            if line is None:
                ended = True
                break
            if path := line.rstrip("\r\n"):
                arrived = Arrived(path, _modified(path))
                if seen.add(identity(path, arrived.modified)):
                    batch.append(arrived)
        yield batch


def identity(path: str, modified: int) -> str:
    """Return what tells a file on standard input from one that had the same path before."""
    return f"{modified} {path}"


def _modified(path: str) -> int:
    try:
        return Path(path).expanduser().stat().st_mtime_ns
    except (OSError, ValueError):
        return 0
