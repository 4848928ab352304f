"""What the first level sees of a pixel: its value, or a number without a bound."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from glow.layers.base import Layer, sum_per_image

__all__ = ["Logit", "Unchanged"]


class Unchanged(Layer):
    """Pixels as they are: the identity."""

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return x_BCHW, x_BCHW.new_zeros(len(x_BCHW))

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        return z_BCHW


class Logit(Layer):
    r"""Pixels x in [-0.5, 0.5] to their logits (Dinh et al. 2017, section 4.1):

    .. math:: p = \alpha + (1 - 2 \alpha) (x + \tfrac12), \qquad z = \log p - \log (1 - p)

    where :math:`\alpha` keeps the logits of black and white finite. (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        p = self.alpha + (1 - 2 * self.alpha) * (x_BCHW + 0.5)
        z_BCHW = p.log() - (1 - p).log()
        # log dz/dx = log(1 - 2 alpha) - log p - log(1 - p)
        log_slope = math.log(1 - 2 * self.alpha) + F.softplus(z_BCHW) + F.softplus(-z_BCHW)
        return z_BCHW, sum_per_image(log_slope)

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        return (torch.sigmoid(z_BCHW) - self.alpha) / (1 - 2 * self.alpha) - 0.5
