"""How the time of training grows with each size: `python -m benchmarks.growth [--quick]`.

One size at a time is doubled twice. The exponent is log2 of the ratio of the times before and after a doubling: 1 if
the time is proportional to the size, 2 if it is quadratic.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

from benchmarks.common import Job, glow_work, images_and_noise, medians, parse, precisions
from glow import FitConfig, Glow, GlowConfig, Trainer
from glow.memory import keep_freed_memory

BASE = GlowConfig(levels=2, depth=4, width=64)
TINY = GlowConfig((1, 16, 16), levels=2, depth=1, width=8)


def sized(base: GlowConfig) -> dict[str, Callable[[int], Job]]:
    """Return for each size a function from a factor 1, 2 or 4 to the training step of a model of that size."""
    (channels, side, _), depth, width = base.image_shape, base.depth, base.width
    return {
        "K": lambda factor: Job("training", replace(base, depth=depth * factor), 64),
        "L": lambda factor: Job("training", replace(base, levels=factor), 64),
        "width": lambda factor: Job("training", replace(base, width=width * factor), 64),
        "side": lambda factor: Job("training", replace(base, image_shape=(channels, side * factor, side * factor)), 64),
        "batch": lambda factor: Job("training", base, 64 * factor),
    }


def epoch(base: GlowConfig, images: int) -> Callable[[], object]:
    """Return a function that trains one more epoch of so many images at each call."""
    data, _ = images_and_noise(base, images)
    config = FitConfig(epochs=1000, batch_size=64, precision=precisions()[-1])
    return partial(next, Trainer(Glow(base), data, config=config).epochs())


def show(name: str, taken: dict[str, float], unit: str) -> None:
    """Print the times of a size and of its doubles, and the exponents between them."""
    exponents = ", ".join(f"{math.log2(after / before):.2f}" for before, after in pairwise(taken.values()))
    print(f"{name:18} {', '.join(f'{seconds:.3f}' for seconds in taken.values())} s {unit}; {exponents}", flush=True)


def main() -> None:
    """Print the times and the exponents."""
    keep_freed_memory()
    asked = parse(argparse.ArgumentParser(description=__doc__))
    base, rounds = (TINY, 1) if asked.quick else (BASE, 9)
    for name, job in sized(base).items():
        show(
            f"{name} x 1, 2, 4",
            medians({str(n): glow_work(job(n), precisions()[-1]) for n in (1, 2, 4)}, rounds),
            "per step",
        )
    first = 64 if asked.quick else 1024
    epochs = {str(n): epoch(base, n * first) for n in (1, 2, 4)}
    show("images x 1, 2, 4", medians(epochs, 1 if asked.quick else 3, warmups=1), "per epoch")


if __name__ == "__main__":
    main()
