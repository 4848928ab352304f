"""Training for a fixed time: the test score that a model reaches in some seconds, and how fast it reaches others.

Seconds are the CPU time of this process divided by its threads, so that other programs on the machine do not count. The
learning rate grows linearly during the warm-up, and falls along half a cosine to 0 at the end of the time. It depends
on the time alone, not on the number of steps, so that a slow model has the same learning rate as a fast one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

__all__ = ["Budget", "Curve", "train_for"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""A function of uint8 images and noise in [0, 1), both (B, C, H, W), that returns bits/dim (B,)."""

CLIP_NORM = 100.0
"""Norm to which gradients are clipped."""


@dataclass(frozen=True)
class Budget:
    """The settings of a training for a fixed time.

    Attributes:
        seconds: the time.
        threads: number of threads of this process.
        batch_size: number of images per step.
        learning_rate: the largest learning rate.
        warmup: share of the time over which the learning rate grows linearly from 0.
        seed: the seed of batches and noise.
    """

    seconds: float
    threads: int
    batch_size: int
    learning_rate: float
    warmup: float = 0.05
    seed: int = 0

    def learning_rate_at(self, used: float) -> float:
        """Return the learning rate of a step that begins after `used` seconds."""
        share = used / self.seconds
        grown = min(1.0, share / self.warmup) if self.warmup else 1.0
        return self.learning_rate * grown * 0.5 * (1 + math.cos(math.pi * share))


@dataclass
class Curve:
    """The test scores during a training.

    Attributes:
        seconds: the times of the scores, without the time of the tests themselves.
        bits_per_dim: the scores.
        images: number of images trained on.
    """

    seconds: list[float] = field(default_factory=list)
    bits_per_dim: list[float] = field(default_factory=list)
    images: int = 0

    def reached(self, bits_per_dim: float) -> float:
        """Return the first time at which the score was at most `bits_per_dim`; infinity if it never was."""
        times = (t for t, bits in zip(self.seconds, self.bits_per_dim, strict=True) if bits <= bits_per_dim)
        return next(times, math.inf)

    @property
    def best(self) -> float:
        """The lowest score."""
        return min(self.bits_per_dim)


def train_for(
    budget: Budget,
    model: nn.Module,
    loss: Loss,
    train: Tensor,
    test: Tensor,
    looks: int = 1,
    enough: float = -math.inf,
) -> Curve:
    """Train a model with Adam for a fixed time, and score the test images at regular times.

    Args:
        budget: the settings.
        model: the model.
        loss: its loss.
        train: uint8 (N, C, H, W), the training images.
        test: uint8 (n, C, H, W), the test images.
        looks: number of scores, the last at the end of the time.
        enough: the training ends early when a score is at most this, in bits/dim.
    """
    generator = torch.Generator().manual_seed(budget.seed)
    optimizer = torch.optim.Adam(model.parameters(), budget.learning_rate, fused=True)
    curve, used = Curve(), 0.0
    while used < budget.seconds and (not curve.seconds or curve.best > enough):
        started = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = budget.learning_rate_at(used)
        images = train[torch.randint(len(train), (budget.batch_size,), generator=generator)]
        optimizer.zero_grad(set_to_none=True)
        loss(images, torch.rand(images.shape, generator=generator)).mean().backward()
        if nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM).isfinite():
            optimizer.step()
        curve.images += len(images)
        used += (time.process_time() - started) / budget.threads
        if used >= budget.seconds * (len(curve.seconds) + 1) / looks:
            curve.seconds.append(used)
            curve.bits_per_dim.append(_mean(loss, test))
    return curve


@torch.no_grad()
def _mean(loss: Loss, images: Tensor) -> float:
    generator = torch.Generator().manual_seed(0)
    parts = [loss(part, torch.rand(part.shape, generator=generator)) for part in images.split(250)]
    return torch.cat(parts).double().mean().item()
