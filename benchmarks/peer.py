"""The peer: a Glow by normflows, as its documentation builds one.

https://vincentstimper.github.io/normalizing-flows/examples/glow/
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from glow import GlowConfig

__all__ = ["normflows_glow", "real_valued"]


def normflows_glow(config: GlowConfig) -> Any:
    """The architecture of `config`: L levels of K steps (ActNorm, 1x1 convolution by LU, affine coupling by a 3x3, 1x1
    and 3x3 convolution of that width)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it uses of torch
        return _built(config)


def _built(config: GlowConfig) -> Any:
    import normflows as nf

    priors, flows, merges = [], [], []
    for index, shape in enumerate(reversed(config.latent_shapes)):  # from the top level on
        channels = shape[0] if index == 0 else 2 * shape[0]
        blocks = [
            nf.flows.GlowBlock(channels, config.width, split_mode="channel", scale=True) for _ in range(config.depth)
        ]
        flows.append([*blocks, nf.flows.Squeeze()])
        priors.append(nf.distributions.DiagGaussian(shape))
        if index > 0:
            merges.append(nf.flows.Merge())
    return nf.MultiscaleFlow(priors, flows, merges, class_cond=False)


def real_valued(images_BCHW: Tensor, noise_BCHW: Tensor) -> Tensor:
    """Images as it takes them."""
    return (images_BCHW.to(torch.float32) + noise_BCHW) / 256 - 0.5
