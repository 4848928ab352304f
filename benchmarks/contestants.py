"""The contestants, normflows, Glow and the bare convolutions, each as a function that does a piece of work once.

The work is a training step (loss, gradients and a step of Adam), the scoring of a batch, or the sampling of a batch.
ActNorm has already been initialised from data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.bare import BareConvolutions
from benchmarks.peer import normflows_glow, real_valued
from glow import Glow, GlowConfig
from glow.model import Precision

__all__ = ["Job", "Work", "convolutions", "glow", "images_and_noise", "normflows", "trained_by"]

Work = Literal["training", "scoring", "sampling"]
LEARNING_RATE = 1e-5


@dataclass(frozen=True)
class Job:
    """A kind of work on a batch of images by a model of a certain architecture."""

    work: Work
    config: GlowConfig
    batch: int


def normflows(job: Job) -> Callable[[], object]:
    """Return a function that does the work once with the Glow of normflows, in float32."""
    model = normflows_glow(job.config)
    x_BCHW = real_valued(*images_and_noise(job.config, job.batch))
    with torch.no_grad():
        model.log_prob(x_BCHW, None)  # initialises ActNorm
    if job.work == "training":
        return trained_by(lambda: model.forward_kld(x_BCHW), model.parameters())
    return torch.no_grad()((lambda: model.log_prob(x_BCHW, None)) if job.work == "scoring" else _sample(model, job))


def glow(job: Job, precision: Precision) -> Callable[[], object]:
    """Return a function that does the work once with a Glow of this library."""
    model = Glow(job.config).set_precision(precision)
    images, noise = images_and_noise(job.config, job.batch)
    model.initialize(images, noise)
    if job.work == "training":
        return trained_by(lambda: model.bits_per_dim(images, noise_BCHW=noise).mean(), model.parameters())
    if job.work == "scoring":
        return torch.no_grad()(lambda: model.log_prob(images, noise_BCHW=noise))
    return _sample(model, job)


def convolutions(job: Job, precision: Precision) -> Callable[[], object]:
    """Return a function that computes the bare convolutions of the work once."""
    bare = BareConvolutions(job.config, precision, job.batch)
    return bare.train_step if job.work == "training" else bare.score


def images_and_noise(config: GlowConfig, batch: int) -> tuple[Tensor, Tensor]:
    """Return random uint8 images and noise in [0, 1), both (B, C, H, W) and always the same."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, *config.image_shape)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator), torch.rand(shape, generator=generator)


def trained_by(loss: Callable[[], Tensor], parameters: Iterable[nn.Parameter]) -> Callable[[], object]:
    """Return a function that takes a training step on a loss, with the fused implementation of Adam."""
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def _sample(model: nn.Module, job: Job) -> Callable[[], object]:
    return lambda: model.sample(job.batch)  # type: ignore[operator]
