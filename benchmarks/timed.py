"""Training by the clock: what a model comes to in so many seconds of a processor, and how fast it gets there.

Seconds are of this process's own CPU time divided by its threads, so that what else the machine does does not count.
The learning rate warms up, and falls along half a cosine to 0 as the time runs out.
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
"""uint8 images and noise in [0, 1), (B, C, H, W) each -> bits/dim (B,)."""

CLIP_NORM = 100.0


@dataclass(frozen=True)
class Budget:
    """How a model is trained."""

    seconds: float
    threads: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 100
    seed: int = 0


@dataclass
class Curve:
    """Test bits/dim after seconds of training; what the test took is not counted."""

    seconds: list[float] = field(default_factory=list)
    bits_per_dim: list[float] = field(default_factory=list)
    images: int = 0
    """That were trained on."""

    def reached(self, bits_per_dim: float) -> float:
        """When the curve was first so low; infinity if it never was."""
        times = (t for t, bits in zip(self.seconds, self.bits_per_dim, strict=True) if bits <= bits_per_dim)
        return next(times, math.inf)

    @property
    def best(self) -> float:
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
    """Trains with Adam, and looks at the test images at `looks` even times, the last at the end; it ends early once
    they cost at most `enough` bits/dim."""
    generator = torch.Generator().manual_seed(budget.seed)
    optimizer = torch.optim.Adam(model.parameters(), budget.learning_rate, fused=True)
    curve, used, step = Curve(), 0.0, 0
    while used < budget.seconds and (not curve.seconds or curve.best > enough):
        started = time.process_time()
        rate = min(1.0, (step + 1) / budget.warmup_steps) * 0.5 * (1 + math.cos(math.pi * used / budget.seconds))
        for group in optimizer.param_groups:
            group["lr"] = rate * budget.learning_rate
        images = train[torch.randint(len(train), (budget.batch_size,), generator=generator)]
        optimizer.zero_grad(set_to_none=True)
        loss(images, torch.rand(images.shape, generator=generator)).mean().backward()
        if nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM).isfinite():
            optimizer.step()
        step, curve.images = step + 1, curve.images + len(images)
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
