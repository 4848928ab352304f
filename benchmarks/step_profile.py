"""The shares of groups of operators in the time of a training step, measured by torch's profiler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.contestants import images_and_noise
from benchmarks.row import Figure, Row, Setting
from benchmarks.speed import SMALL
from glow import Glow

__all__ = ["GROUPS", "ROW", "group"]

GROUPS = (
    "convolutions and products",
    "their gradients",
    "ReLU and its gradient",
    "copies and casts",
    "element-wise operations and sums",
    "clipping and optimizer",
    "everything else: Python, autograd, dispatch",
)
CONVOLUTIONS, GRADIENTS, RELU, COPIES, ELEMENTWISE, OPTIMIZER, ELSE = GROUPS

BACKWARD = "autograd::engine::evaluate_function"
PARTS = {
    CONVOLUTIONS: ("convolution", "linear_pointwise", "mm", "bmm", "conv2d", "mkldnn"),
    RELU: ("relu", "threshold"),
    COPIES: ("copy_", "cat", "clone", "fill_", "zero_", "pad", "stack", "_to_copy", "contiguous", "flip", "index"),
    ELEMENTWISE: (
        *("add", "sub", "mul", "div", "exp", "neg", "sum", "sigmoid", "square", "pow", "tril", "triu", "where", "mean"),
        *("bitwise", "remainder", "rand", "tanh", "sign", "rsqrt"),
    ),
}
STEPS = 5


def measure(how: Setting) -> tuple[list[Figure], str]:
    """Measure the share of every group."""
    step = training_step(how)
    for _ in range(3):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(STEPS):
            with record_function("step"):
                step()
    taken = by_group(seen.events())
    total = sum(taken.values())
    figures = [Figure(name, 100 * taken[name] / total, "%") for name in GROUPS]
    figures.append(Figure("a step, with the profiler's own time", total / STEPS / 1e6, "s"))
    return (
        figures,
        f"K=8 width 128, batch 128, {how.fastest}, {STEPS} steps. Convolutions that end in a ReLU count as such.",
    )


def training_step(how: Setting) -> Any:
    """Return a function that takes a training step as `Trainer` does, with the clipping of gradients."""
    model = Glow(SMALL).set_precision(how.fastest)
    images, noise = images_and_noise(SMALL, 128)
    model.initialize(images, noise)
    optimizer = torch.optim.Adam(model.parameters(), 1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model.bits_per_dim(images, noise_BCHW=noise).mean().backward()
        with record_function("optimizer"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
            optimizer.step()

    return step


def by_group(events: Iterable[Any]) -> Counter[str]:
    """Return the microseconds of each group; the time of an event does not include that of the events inside it."""
    taken: Counter[str] = Counter()
    for event in events:
        above = _names(event)
        if above[-1] == "step":
            taken[group(event.name, above)] += event.self_cpu_time_total
    return taken


def _names(event: Any) -> list[str]:
    """Return the names of an event and of the events that contain it, the outermost last."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names


def group(name: str, within: Iterable[str] = ()) -> str:
    """Return the group of an operator, by its name and by the names of its callers.

    Example:
        >>> group("aten::copy_")
        'copies and casts'
    """
    within = list(within)
    if "optimizer" in within:
        return OPTIMIZER
    if not name.startswith(("aten::", "mkldnn::")):
        return ELSE
    for part, words in PARTS.items():
        if any(word in name.removeprefix("aten::") for word in words):
            in_backward = "backward" in name or any(above.startswith(BACKWARD) for above in within)
            return GRADIENTS if part == CONVOLUTIONS and in_backward else part
    return ELSE


ROW = Row("profile", "where the time of a training step goes", measure)
