"""The number of forward passes that the typicality test needs, in the way of the course report and in ours.

The report computes every bootstrap set with the model, for every batch size M. This library scores every held-out image
once and draws sets of scores. Both draw the same sets here and must find the same thresholds. The passes are counted,
not timed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.contestants import images_and_noise
from benchmarks.row import Figure, Row, Setting, at_least, at_most
from glow import Glow, GlowConfig, TypicalityTest
from glow.dequantization import uniform_noise
from glow.scoring import score

__all__ = ["ROW", "Passes", "counted", "our_way", "report_way"]

BATCH_SIZES = (1, 2, 5, 10, 25)
IMAGES, BOOTSTRAPS = 5000, 1000
ALPHA = 0.99


@dataclass
class Passes:
    """The number of forward passes and of images that went through a model."""

    passes: int = 0
    images: int = 0


@contextlib.contextmanager
def counted(model: Glow) -> Iterator[Passes]:
    """Count what goes into the first level of a model during the block."""
    seen = Passes()

    def count(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        seen.passes += 1
        seen.images += len(inputs[0])

    hook = model.levels[0].register_forward_hook(count)
    try:
        yield seen
    finally:
        hook.remove()


def our_way(
    model: Glow, train: Tensor, held_out: Tensor, bootstraps: int, batch_sizes: Sequence[int] = BATCH_SIZES
) -> list[float]:
    """Return the threshold of each M from scores: every image goes through the model once."""
    train_N, held_out_N = (score(model, images).nll.to_numpy() for images in (train, held_out))
    tests = (
        TypicalityTest.fit(train_N, held_out_N, m, ALPHA, bootstraps, exact=False, interval=False) for m in batch_sizes
    )
    return [test.threshold.value for test in tests]


@torch.no_grad()
def report_way(
    model: Glow, train: Tensor, held_out: Tensor, bootstraps: int, batch_sizes: Sequence[int] = BATCH_SIZES
) -> list[float]:
    """Return the threshold of each M with one forward pass per set; training images are scored once."""
    entropy = score(model, train).nll.mean()
    return [_report_threshold(model, held_out, entropy, m, bootstraps) for m in batch_sizes]


def _report_threshold(model: Glow, held_out: Tensor, entropy: float, m: int, bootstraps: int) -> float:
    rng = np.random.default_rng([0, m])  # as in TypicalityTest.fit with seed 0, so that it draws the same sets
    distances = []
    for set_M in torch.from_numpy(rng.choice(len(held_out), (bootstraps, m))):
        noise = uniform_noise(set_M, model.config.image_shape, 0)
        mean_nll = -model.log_prob(held_out[set_M], noise_BCHW=noise).double().mean().item()
        distances.append(abs(mean_nll - entropy))
    return float(np.quantile(distances, ALPHA))


def compare(how: Setting) -> tuple[list[Figure], str]:
    """Count the passes of both ways, and compare their thresholds."""
    model = Glow(GlowConfig((1, 8, 8), levels=2, depth=2, width=8))
    train, held_out = images_and_noise(model.config, 2 * IMAGES)[0].split(IMAGES)
    model.initialize(train[:128])
    with counted(model) as ours:
        our_thresholds = np.array(our_way(model, train, held_out, BOOTSTRAPS))
    with counted(model) as theirs:
        their_thresholds = np.array(report_way(model, train, held_out, BOOTSTRAPS))
    differences = np.abs(our_thresholds / their_thresholds - 1)
    figures = [
        Figure("fewer forward passes", theirs.passes / ours.passes, "x"),
        Figure("largest difference of a threshold", float(differences.max())),
        Figure("fewer images through the model", theirs.images / ours.images, "x"),
        Figure("the report's way: forward passes", theirs.passes, "passes"),
        Figure("ours: forward passes", ours.passes, "passes"),
        Figure("the report's way: images", theirs.images, "images"),
        Figure("ours: images", ours.images, "images"),
    ]
    return figures, (
        f"{IMAGES:,} training and {IMAGES:,} held-out images, {BOOTSTRAPS:,} bootstraps, M in 1, 2, 5, 10, 25. "
        "Differences are relative. Ours takes no more passes for more bootstraps or another M."
    )


ROW = Row(
    "passes",
    "forward passes of the typicality test: the report's way against ours",
    compare,
    (
        at_least("fewer forward passes", 100, "x"),
        at_most("largest difference of a threshold", 1e-3, ""),
    ),
)
