"""The growth of the cost of training with each size: one size is doubled twice while the others stay the same.

The exponent is log2 of the ratio of the times before and after a doubling: 1 if the cost is proportional to the size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

from benchmarks.contestants import Job, glow, images_and_noise
from benchmarks.row import Figure, Row, Setting
from benchmarks.timing import round_robin
from glow import FitConfig, Glow, GlowConfig
from glow.training import Trainer

__all__ = ["ROW", "exponents", "jobs"]

BASE = Job("training", GlowConfig(levels=2, depth=4, width=64), 64)
SIZES: Mapping[str, Sequence[int]] = {
    "K": (4, 8, 16),
    "L": (1, 2, 4),
    "width": (64, 128, 256),
    "image side": (32, 64, 128),
    "batch": (64, 128, 256),
}
DATA_SET = (1024, 2048, 4096)


def measure(how: Setting) -> tuple[list[Figure], str]:
    """Measure the times for every size, and compute the exponents."""
    figures = []
    for name, sizes in SIZES.items():
        runs = {str(size): glow(job, how.fastest) for size, job in zip(sizes, jobs(name), strict=True)}
        figures += _figures(name, sizes, round_robin(runs, how.times(9)), "a step")
    epochs = {str(size): epoch(size, how) for size in DATA_SET}
    figures += _figures("data set", DATA_SET, round_robin(epochs, how.times(3), warmups=1), "an epoch")
    return figures, (
        f"From K=4, L=2, width 64, 32x32x1 and a batch of 64, in {how.fastest}; L from 1, since four levels halve a "
        "side of 32 four times. What workers give is the row of data-parallel training."
    )


def jobs(name: str) -> list[Job]:
    """Return the base with each of the values of one size."""
    return [_sized(name, size) for size in SIZES[name]]


def _sized(name: str, size: int) -> Job:
    if name == "batch":
        return replace(BASE, batch=size)
    changes: dict[str, dict[str, Any]] = {
        "K": {"depth": size},
        "L": {"levels": size},
        "width": {"width": size},
        "image side": {"image_shape": (1, size, size)},
    }
    return replace(BASE, config=replace(BASE.config, **changes[name]))


def epoch(images: int, how: Setting) -> Callable[[], object]:
    """Return a function that trains one more epoch at each call."""
    data, _ = images_and_noise(BASE.config, images)
    config = FitConfig(epochs=1000, batch_size=BASE.batch, precision=how.fastest)
    return partial(next, Trainer(Glow(BASE.config), data, config=config).epochs())


def exponents(seconds: Sequence[float]) -> list[float]:
    """Return the exponent of each doubling.

    Example:
        >>> exponents([1.0, 2.0, 8.0])
        [1.0, 2.0]
    """
    return [math.log2(after / before) for before, after in pairwise(seconds)]


def _figures(name: str, sizes: Sequence[int], taken: Mapping[str, float], of_what: str) -> list[Figure]:
    seconds = list(taken.values())
    figures = [Figure(f"{name}={size}: {of_what}", s, "s") for size, s in zip(sizes, seconds, strict=True)]
    doublings = zip(sizes[:-1], sizes[1:], exponents(seconds), strict=True)
    return figures + [Figure(f"{name}={low} to {high}: exponent", slope) for low, high, slope in doublings]


ROW = Row("slopes", "how the time of training grows", measure)
