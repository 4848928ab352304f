"""A cache on this machine's disk for parts of files that lie in a bucket. Its size is bounded.

All processes of a machine share the cache. It lies in ``$GLOW_BUCKET_CACHE``, or else in ``glow/buckets`` in the
user's cache folder, and holds up to ``$GLOW_BUCKET_CACHE_GB`` gigabytes (20 if not set). What was used least recently
is removed first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from glow.errors import UserError

__all__ = ["BlockCache", "cache_of_this_machine"]

GIGABYTE = 10**9

SCANS_PER_LIMIT = 16
"""A process looks at the size of the cache each time that it has added this fraction of the limit."""

KEPT_AFTER_A_SCAN = 0.9
"""Fraction of the limit that a scan leaves, so that the next file does not need another scan."""

ABANDONED_S = 3600.0
"""Age at which an unfinished file is taken for that of a process that was killed."""


class BlockCache:
    """A cache of blocks of bytes on disk, each of which has a key.

    Args:
        folder: the folder that contains the blocks; it is made if needed.
        limit: bytes that the cache may hold. A process looks at the size of the cache only after it has added a
            sixteenth of the limit, so the cache can be larger by that much per process.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> cache = BlockCache(Path(folder.name), limit=10**6)
        >>> cache.get("key", lambda: b"from the bucket")
        b'from the bucket'
        >>> cache.get("key", lambda: b"not fetched again")
        b'from the bucket'
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._added = limit  # so that the first addition looks at what earlier processes left

    def has(self, key: str) -> bool:
        """Return whether the block is on disk."""
        return self._file(key).exists()

    def get(self, key: str, fetch: Callable[[], bytes], is_whole: Callable[[bytes], bool] = bool) -> bytes:
        """Return a block from the disk, or fetch it and write it to the disk.

        A disk that cannot be written costs only speed: the block is fetched each time. So does a machine that lost its
        power, which can leave files that are empty or cut short: they are replaced.

        Args:
            key: the name of the block. Blocks with different content need different keys.
            fetch: a function that gets the block from the bucket. Its exceptions are passed on.
            is_whole: a function that returns whether a block from the disk is whole. By default, every block is that is
                not empty.
        """
        file = self._file(key)
        with contextlib.suppress(OSError):
            content = file.read_bytes()
            if is_whole(content):
                os.utime(file)
                return content
        content = fetch()
        with contextlib.suppress(OSError):
            self._keep(file, content)
        return content

    def _file(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()[:40]
        return self._folder / name[:2] / name

    def _keep(self, file: Path, content: bytes) -> None:
        """Write a block, whole or not at all."""
        self._added += len(content)
        if self._added > self._limit / SCANS_PER_LIMIT:
            self._make_room(len(content))
            self._added = len(content)
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"{file.name}.{os.getpid()}.{time.monotonic_ns()}.part")
        try:
            unfinished.write_bytes(content)
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Remove what was used least recently, until there is room."""
        found: list[tuple[float, int, Path]] = []
        for file in self._folder.glob("??/*"):
            with contextlib.suppress(OSError):  # another process removed it
                status = file.stat()
                if file.suffix == ".part" and time.time() - status.st_mtime > ABANDONED_S:
                    file.unlink()
                else:
                    found.append((status.st_mtime, status.st_size, file))
        used = sum(size for _, size, _ in found)
        if used + size <= self._limit:
            return
        for _, freed, file in sorted(found):
            if used + size <= self._limit * KEPT_AFTER_A_SCAN:
                break
            file.unlink(missing_ok=True)
            used -= freed


@lru_cache(maxsize=4)
def _cache(folder: str, limit: int) -> BlockCache:
    return BlockCache(Path(folder), limit)


def cache_of_this_machine() -> BlockCache:
    """Return the cache that the environment variables ``$GLOW_BUCKET_CACHE`` and ``$GLOW_BUCKET_CACHE_GB`` describe.

    Raises:
        UserError: if ``$GLOW_BUCKET_CACHE_GB`` is not a positive number.

    Example:
        >>> isinstance(cache_of_this_machine(), BlockCache)
        True
    """
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(os.environ.get("GLOW_BUCKET_CACHE") or f"{home}/glow/buckets").expanduser().absolute()
    text = os.environ.get("GLOW_BUCKET_CACHE_GB") or "20"
    try:
        limit = float(text) * GIGABYTE
    except ValueError:
        limit = -1
    if not 0 < limit < float("inf"):
        raise UserError(
            f"$GLOW_BUCKET_CACHE_GB is {text!r}, which is not a positive number of gigabytes",
            remedy="set it to a number such as 20, or unset it",
            code="cache-size",
        )
    return _cache(str(folder), int(limit))
