"""The number of processes that read images at the same time, and of threads in each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jobs.ray_runtime.machines import Machine

__all__ = ["Readers", "readers_for"]

CORES = 4
"""Number of cores per process, if the numbers of cores and of shards allow it."""

MOST_CORES = 8
"""Largest number of cores per process: more would wait for each other, because Python runs one thread at a time."""


class Readers(NamedTuple):
    """The processes that read images at the same time.

    Attributes:
        processes: their number.
        cores: number of cores of each.
    """

    processes: int
    cores: int

    @property
    def threads(self) -> int:
        """The number of threads of each: one more than cores, since one of them usually waits for Python's lock."""
        return self.cores + 1


def readers_for(machines: Sequence[Machine], most: int | None, shards: int) -> Readers:
    """Return the processes that use the most cores.

    A process reads one shard at a time. Of two numbers of cores per process that use equally many cores, the one closer
    to `CORES` is taken. Fewer processes import fewer libraries; fewer threads wait less for each other.

    Args:
        machines: the machines, of which each process uses one.
        most: the largest number of cores to use; None for all.
        shards: number of shards to write.

    Example:
        >>> readers_for([{"CPU": 2.0}], most=None, shards=10)
        Readers(processes=1, cores=2)
        >>> readers_for([{"CPU": 64.0}], most=None, shards=100)
        Readers(processes=16, cores=4)
    """
    there = [int(machine.get("CPU", 0)) for machine in machines]
    most = min(most or sum(there), sum(there))

    def with_cores(cores: int) -> Readers:
        return Readers(min(shards, most // cores, sum(each // cores for each in there)), cores)

    choices = [with_cores(cores) for cores in range(1, max(1, min(MOST_CORES, max(there, default=1), most)) + 1)]
    best = max(choices, key=lambda each: (each.processes * each.cores, -abs(each.cores - CORES)))
    return Readers(max(1, best.processes), best.cores)
