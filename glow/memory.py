"""A setting of the C library's allocator that makes repeated allocation of large tensors cheap on CPUs."""

from __future__ import annotations

import ctypes

# The values of these names in glibc's malloc.h, for mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Make this process keep freed memory for the next tensor.

    By default glibc returns the memory of a large tensor to the system as soon as it is freed, and the next tensor of
    that size costs one page fault per 4 kB. Scoring and sampling free each hidden layer immediately after its use, and
    the page faults can then take as much time as all computation. After this call the process never returns freed
    memory to the system, so call it in your own programs, but not in a library that others import. Call it before
    threads are started: it makes threads that start later share one arena of the allocator, because further arenas
    would return their memory to the system. With a C library that has no ``mallopt``, the call does nothing.

    Examples:
        A program calls it in its first statement. Here the program runs in a separate process:

        >>> import subprocess, sys
        >>> program = "from glow.memory import keep_freed_memory; keep_freed_memory()"
        >>> subprocess.run([sys.executable, "-c", program]).returncode
        0
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_ARENA_MAX, 1)  # further arenas would return their memory in spite of the settings above
