"""The Glow of normflows, built as in its documentation.

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
    """Build a Glow of normflows with the architecture of `config`.

    It has L levels of K steps. A step is ActNorm, a 1x1 convolution by its LU decomposition, and an affine coupling
    whose network has a 3x3, a 1x1 and a 3x3 convolution of the configured width.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # normflows uses deprecated functions of torch
        return _built(config)


def _built(config: GlowConfig) -> Any:
    import normflows as nf

    priors, flows, merges = [], [], []
    for index, shape in enumerate(reversed(config.latent_shapes)):  # the top level first
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
    """Return images with noise as normflows takes them: real values in [-0.5, 0.5)."""
    return (images_BCHW.to(torch.float32) + noise_BCHW) / 256 - 0.5
