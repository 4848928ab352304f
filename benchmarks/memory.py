"""The memory of activations in training as the depth grows: reversible steps, stored activations, and normflows.

It is the peak of a process that trains on `BATCH` images minus the peak of one that trains on 2, since weights, their
gradients and the libraries are in both. `python -m benchmarks.memory CONTESTANT DEPTH BATCH PRECISION` runs one of
these processes. There the C library returns freed memory at once, so that the peak contains only memory in use.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.children import in_own_process
from benchmarks.contestants import images_and_noise, trained_by
from benchmarks.machine import setting
from benchmarks.peer import normflows_glow, real_valued
from benchmarks.row import Figure, Row, Setting, at_most
from benchmarks.speed import SMALL
from benchmarks.timing import round_robin
from glow import Glow, GlowConfig
from glow.model import Precision

__all__ = ["ROW", "gradient_difference"]

BATCH = 64
DEPTHS = (8, 64)
GRADIENT_CONFIG = GlowConfig(depth=8, width=32)


def compare(how: Setting) -> tuple[list[Figure], str]:
    """Measure the growth of memory, the time of reversible steps, and the difference of their gradients."""
    low, high = DEPTHS
    activations = {
        (contestant, depth): activation_bytes(contestant, depth, how)
        for contestant in ("reversible", "stored", "normflows")
        for depth in DEPTHS
    }
    figures = [
        Figure(
            f"{contestant}: growth from K={low} to K={high}",
            100 * (activations[contestant, high] / activations[contestant, low] - 1),
            "%",
        )
        for contestant in ("reversible", "stored", "normflows")
    ]
    figures.append(Figure("reversible: time of a training step, stored = 1", slowdown(how), "x"))
    for dtype, name in ((torch.float64, "float64"), (torch.float32, "float32")):
        figures.append(Figure(f"reversible: difference of gradients in {name}", gradient_difference(dtype)))
    figures += [Figure(f"{c}: activations at K={depth}", size / 1e6, "MB") for (c, depth), size in activations.items()]
    return figures, (
        f"Width {SMALL.width}, batch {BATCH}, glow in {how.fastest} and normflows in float32. The difference of "
        "gradients is the largest of any parameter tensor, as a share of the largest number in that tensor's gradient."
    )


def activation_bytes(contestant: str, depth: int, how: Setting) -> float:
    """Return the bytes of the activations, from two processes."""
    few, many = (in_own_process(__spec__.name, contestant, depth, batch, how.fastest) for batch in (2, BATCH))
    return many - few


def peak_bytes(contestant: str, depth: int, batch: int, precision: Precision) -> int:
    """Return the peak of this process's memory in bytes after two gradients."""
    ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: returns freed memory at once
    torch.set_num_threads(setting().threads)
    config = replace(SMALL, depth=depth)
    images, noise = images_and_noise(config, batch)
    if contestant == "normflows":
        peer, x_BCHW = normflows_glow(config), real_valued(images, noise)
        for _ in range(2):
            peer.zero_grad()
            peer.forward_kld(x_BCHW).backward()
    else:
        model = Glow(config).set_precision(precision).set_memory(contestant)  # type: ignore[arg-type]
        model.initialize(images, noise)
        for _ in range(2):
            model.zero_grad()
            model.bits_per_dim(images, noise_BCHW=noise).mean().backward()
    # getrusage would include the peak of the process from which this one was forked.
    (kilobytes,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024


def _mean_nll(model: Glow, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    return model.bits_per_dim(images, noise_BCHW=noise).mean()


def slowdown(how: Setting) -> float:
    """Return the time of a training step with reversible steps, divided by that with stored activations."""
    images, noise = images_and_noise(SMALL, BATCH)
    steps = {}
    for memory in ("stored", "reversible"):
        model = Glow(SMALL).set_precision(how.fastest).set_memory(memory)
        model.initialize(images, noise)
        steps[memory] = trained_by(partial(_mean_nll, model, images, noise), model.parameters())
    taken = round_robin(steps, how.times(9))
    return taken["reversible"] / taken["stored"]


def gradient_difference(dtype: torch.dtype, config: GlowConfig = GRADIENT_CONFIG) -> float:
    """Return the largest difference of the gradients with reversible steps and with stored activations.

    It is relative to the largest number of a tensor's gradient. The weights are moved away from those at the start,
    with which most of the model is the identity.
    """
    model = Glow(config).to(dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, dtype=dtype, generator=generator))
    images, noise = images_and_noise(config, 4)
    stored, reversible = (_gradients(model.set_memory(memory), images, noise) for memory in ("stored", "reversible"))
    pairs = zip(stored, reversible, strict=True)
    return max(float((before - after).abs().max() / before.abs().max()) for before, after in pairs)


def _gradients(model: Glow, images: torch.Tensor, noise: torch.Tensor) -> list[torch.Tensor]:
    bits = model.bits_per_dim(images, noise_BCHW=noise.to(model.dtype)).sum()
    return list(torch.autograd.grad(bits, list(model.parameters())))


ROW = Row(
    "memory",
    "activation memory with reversible steps",
    compare,
    (
        at_most(f"reversible: growth from K={DEPTHS[0]} to K={DEPTHS[1]}", 5, "%"),
        at_most("reversible: time of a training step, stored = 1", 1.6, "x"),
        at_most("reversible: difference of gradients in float64", 1e-9, ""),
    ),
)

if __name__ == "__main__":
    _, who, depth, batch, fastest = sys.argv
    print(json.dumps(peak_bytes(who, int(depth), int(batch), fastest)))  # type: ignore[arg-type]
