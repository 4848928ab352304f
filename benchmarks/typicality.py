"""The cost of the typicality test itself, without a model: thresholds with intervals, and decisions, on one core."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks.row import Figure, Row, Setting, at_most
from benchmarks.timing import seconds
from glow import TypicalityTest

__all__ = ["ROW"]

BATCH_SIZES = (1, 2, 5, 10, 25)
SCORES, BOOTSTRAPS = 25_000, 10_000


def measure(how: Setting) -> tuple[list[Figure], str]:
    """Measure the test for every batch size M, and for all of them together."""
    train, held_out, tested = np.random.default_rng(0).gamma(50, 30, (3, SCORES))
    with one_core():
        every = [[seconds(partial(decide, train, held_out, tested, m)) for m in BATCH_SIZES] for _ in range(3)]
    figures = [Figure("all M together", statistics.median(sum(times) for times in every), "s")]
    figures += [
        Figure(f"M={m}", statistics.median(times), "s")
        for m, times in zip(BATCH_SIZES, zip(*every, strict=True), strict=True)
    ]
    return figures, (
        f"{SCORES:,} scores each of training, held-out and tested images, {BOOTSTRAPS:,} bootstraps, every threshold "
        "with its interval, and a decision for every batch of tested images."
    )


def decide(train: np.ndarray, held_out: np.ndarray, tested: np.ndarray, batch_size: int) -> np.ndarray:
    """Fit a test with its threshold and interval, and decide for every batch of tested images."""
    test = TypicalityTest.fit(train, held_out, batch_size, bootstraps=BOOTSTRAPS)
    return test.is_ood(tested.reshape(-1, batch_size))


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Let this process use only one core during the block."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


ROW = Row(
    "typicality",
    "typicality over M in 1, 2, 5, 10, 25 on one core",
    measure,
    (at_most("all M together", 2, "s"),),
)
