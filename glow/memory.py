"""How the process keeps the memory that tensors leave."""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Keeps freed memory for the next tensor, in all of this process: call it before threads are made.

    By itself the C library gives the memory of a large tensor back to the system when it is freed, and the next one of
    that size costs a page fault every 4 kB. For scoring and sampling, which free hidden layers at once, that can be as
    much time as all else. The process never shrinks then, so this is for those who own it. Without glibc it does
    nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_ARENA_MAX, 1)  # others give back what they can
