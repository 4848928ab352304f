"""The gain from each optimisation of the code: Glow with it against Glow without it.

The gain from keeping freed memory is in `allocator`, that from bf16 in `speed`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from unittest import mock

from torch import Tensor

import glow.layers.coupling
from benchmarks.contestants import Job
from benchmarks.contestants import glow as glow_contestant
from benchmarks.row import Figure, Row, Setting
from benchmarks.speed import SMALL
from benchmarks.timing import round_robin
from glow.layers import as_planes
from glow.levels import Level

__all__ = ["ROW", "WITHOUT", "layer_by_layer"]


def layer_by_layer(level: Level, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `Level.forward` with each layer separately."""
    x_BCHW, log_det_B = level.squeeze(x_BCHW)
    x_BCHW = as_planes(x_BCHW)
    for step in level.steps:
        for layer in (step.actnorm, step.permutation, step.coupling):
            x_BCHW, layer_log_det_B = layer(x_BCHW)
            log_det_B = log_det_B + layer_log_det_B
    return x_BCHW, log_det_B


WITHOUT: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "outer convolutions by products": lambda: mock.patch.dict(glow.layers.networks.FEW_CHANNELS, clear=True),
    "ActNorm folded, small matrices of a level at once": lambda: mock.patch.object(Level, "forward", layer_by_layer),
}
"""For each optimisation, a context manager that switches it off."""


def compare(how: Setting) -> tuple[list[Figure], str]:
    """Measure the times without each optimisation, divided by the time with all of them."""
    figures = []
    for precision in reversed(how.precisions):
        for job in (Job("training", SMALL, 128), Job("scoring", SMALL, 128)):
            contestants = {"": glow_contestant(job, precision)}
            contestants |= {name: _within(take_away, contestants[""]) for name, take_away in WITHOUT.items()}
            taken = round_robin(contestants, how.times(9))
            figures += [Figure(f"{name}: {job.work}, {precision}", taken[name] / taken[""], "x") for name in WITHOUT]
    return figures, "K=8 width 128, batch 128. Times without the optimisation, with it = 1."


def _within(context: Callable[[], contextlib.AbstractContextManager[object]], run: Callable[[], object]) -> Callable:
    def inside() -> None:
        with context():
            run()

    return inside


ROW = Row("optimisations", "what each optimisation gives", compare)
