"""The memory that the processes of a command can still use."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["memory_left"]

CONTAINER = Path("/sys/fs/cgroup")
"""The folder in which Linux shows the limits of a container."""


def memory_left() -> int:
    """Return the free memory in bytes: of this machine, or of the container if its limit leaves less.

    Memory in which the system caches files counts as free.
    """
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # there is no container, or it has no limit ("max")
        limit = int((CONTAINER / "memory.max").read_text())
        used = int((CONTAINER / "memory.current").read_text())
        files = {name: int(bytes_) for name, bytes_ in map(str.split, (CONTAINER / "memory.stat").open())}
        free = min(free, limit - used + files.get("file", 0))
    return free
