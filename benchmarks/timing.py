"""Fair measurements of time: contestants take turns in one process, so that a busy machine slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

__all__ = ["ratio", "round_robin", "seconds"]

Contestant = Callable[[], object]


def seconds(run: Contestant, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that one call takes by a clock."""
    started = clock()
    run()
    return clock() - started


def round_robin(contestants: Mapping[str, Contestant], rounds: int, warmups: int = 2) -> dict[str, float]:
    """Return the median seconds of each contestant over some rounds, after some calls that are not timed."""
    return {name: statistics.median(times) for name, times in _in_turns(contestants, rounds, warmups).items()}


def ratio(run: Contestant, to: Contestant, rounds: int, warmups: int = 2) -> float:
    """Return the median over some rounds of the processor time of `run` divided by that of `to` in the same round.

    Each round has both, and other programs take no processor time of this process, so that the ratio is measured well
    on a busy machine, too.
    """
    taken = _in_turns({"run": run, "to": to}, rounds, warmups, time.process_time)
    return statistics.median(ours / theirs for ours, theirs in zip(taken["run"], taken["to"], strict=True))


def _in_turns(
    contestants: Mapping[str, Contestant],
    rounds: int,
    warmups: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of each contestant in each round."""
    for run in contestants.values():
        for _ in range(warmups):
            run()
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            taken[name].append(seconds(run, clock))
    return taken
