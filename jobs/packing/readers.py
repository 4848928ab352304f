"""The number of processes that read images at the same time, and of threads in each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jobs.ray_runtime.machines import Machine

__all__ = ["Readers", "readers_for"]

THREADS = 4
"""Number of threads per process, if the numbers of cores and of shards allow it."""

MOST_THREADS = 8
"""Largest number of threads per process: more would wait for each other, because Python runs one of them at a time."""


class Readers(NamedTuple):
    """The processes that read images at the same time.

    Attributes:
        processes: their number.
        threads: number of threads, and of cores, of each.
    """

    processes: int
    threads: int


def readers_for(machines: Sequence[Machine], most: int | None, shards: int) -> Readers:
    """Return the processes and threads that use the most cores.

    A process reads one shard at a time. Of two numbers of threads that use equally many cores, the one closer to
    `THREADS` is taken. Fewer processes import fewer libraries; fewer threads wait less for each other.

    Args:
        machines: the machines, of which each process uses one.
        most: the largest number of cores to use; None for all.
        shards: number of shards to write.

    Example:
        >>> readers_for([{"CPU": 2.0}], most=None, shards=10)
        Readers(processes=1, threads=2)
        >>> readers_for([{"CPU": 64.0}], most=None, shards=100)
        Readers(processes=16, threads=4)
    """
    cores = [int(machine.get("CPU", 0)) for machine in machines]
    most = min(most or sum(cores), sum(cores))

    def with_threads(threads: int) -> Readers:
        return Readers(min(shards, most // threads, sum(each // threads for each in cores)), threads)

    choices = [
        with_threads(threads) for threads in range(1, max(1, min(MOST_THREADS, max(cores, default=1), most)) + 1)
    ]
    best = max(choices, key=lambda each: (each.processes * each.threads, -abs(each.threads - THREADS)))
    return Readers(max(1, best.processes), best.threads)
