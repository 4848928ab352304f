"""How much memory the processes of a command may still use."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["memory_left"]

CONTAINER = Path("/sys/fs/cgroup")
"""Where Linux says what a container may use."""


def memory_left() -> int:
    """Bytes that are free on this machine and within its container's limit, if there is one. What the file system keeps
    of files counts as free."""
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        limit = int((CONTAINER / "memory.max").read_text())
        used = int((CONTAINER / "memory.current").read_text())
        files = {name: int(bytes_) for name, bytes_ in map(str.split, (CONTAINER / "memory.stat").open())}
        free = min(free, limit - used + files.get("file", 0))
    return free
