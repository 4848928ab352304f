"""The models that are trained for a fixed time: a Glow of this library, and one of normflows."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmarks.peer import normflows_glow, real_valued
from benchmarks.timed import Loss
from glow import Glow, GlowConfig

__all__ = ["Racer", "glow_racer", "normflows_racer"]

Racer = tuple[nn.Module, Loss]
"""A model, and its loss as a function of images and noise."""


def glow_racer(config: GlowConfig, first: Tensor) -> Racer:
    """Make a Glow that is initialised from the images `first`."""
    model = Glow(config)
    model.initialize(first, torch.rand(first.shape, generator=torch.Generator().manual_seed(config.seed)))
    return model, lambda images, noise: model.bits_per_dim(images, noise_BCHW=noise)


def normflows_racer(config: GlowConfig, first: Tensor) -> Racer:
    """Make a Glow of normflows that is initialised from the images `first`."""
    torch.manual_seed(config.seed)
    model = normflows_glow(config)
    nats = config.dimensions * math.log(256)

    def loss(images: Tensor, noise: Tensor) -> Tensor:
        log_prob = model.log_prob(real_valued(images, noise), None)
        return (nats - log_prob) / (config.dimensions * math.log(2))

    with torch.no_grad():
        loss(first, torch.rand(first.shape))  # initialises ActNorm
    return model, loss
