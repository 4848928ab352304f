"""Squeeze: space to channels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from glow.layers.base import Layer

__all__ = ["Squeeze"]


class Squeeze(Layer):
    """Each 2x2 block of pixels becomes four channels: (B, C, H, W) -> (B, 4C, H/2, W/2).

    From Dinh et al. (2017), section 3.6. The channels are in the order of `torch.nn.functional.pixel_unshuffle`. A
    permutation: log-det 0.
    """

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return F.pixel_unshuffle(x_BCHW, 2), x_BCHW.new_zeros(len(x_BCHW))

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        return F.pixel_shuffle(z_BCHW, 2)
