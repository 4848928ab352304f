"""Fair measurements of time: contestants take turns in one process, so that a busy machine slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

__all__ = ["round_robin", "seconds"]

Contestant = Callable[[], object]


def seconds(run: Contestant) -> float:
    """Return the seconds that one call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def round_robin(contestants: Mapping[str, Contestant], rounds: int, warmups: int = 2) -> dict[str, float]:
    """Return the median seconds of each contestant over some rounds, after some calls that are not timed."""
    for run in contestants.values():
        for _ in range(warmups):
            run()
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            taken[name].append(seconds(run))
    return {name: statistics.median(times) for name, times in taken.items()}
