"""The list of all rows of the benchmark, in the order in which they run and are shown."""

from __future__ import annotations

from benchmarks import (
    allocator,
    commands,
    memory,
    ood_cost,
    optimisations,
    parallel,
    passes,
    precision,
    slopes,
    speed,
    step_profile,
    time_to_nll,
    typicality,
)
from benchmarks.row import Row

__all__ = ["ROWS"]

ROWS: tuple[Row, ...] = (
    *speed.ROWS,
    precision.ROW,
    memory.ROW,
    parallel.ROW,
    time_to_nll.ROW,
    commands.ROW,
    typicality.ROW,
    passes.ROW,
    ood_cost.ROW,
    allocator.ROW,
    optimisations.ROW,
    slopes.ROW,
    step_profile.ROW,
)
