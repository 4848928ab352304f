"""The squeeze at the beginning of each level: it trades resolution for channels.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from glow.layers.base import Layer

__all__ = ["Squeeze"]


class Squeeze(Layer):
    """The squeeze of Dinh et al. (2017), section 3.6: (B, C, H, W) -> (B, 4 C, H/2, W/2).

    Each 2x2 block of a channel becomes four channels, in the order of `torch.nn.functional.pixel_unshuffle`:
    z[4 c + 2 i + j, h, w] = x[c, 2 h + i, 2 w + j]. It only reorders numbers, so its log-det is 0.

    Example:
        >>> import torch
        >>> z, log_det = Squeeze()(torch.arange(8.0).view(1, 1, 2, 4))
        >>> z.shape
        torch.Size([1, 4, 1, 2])
        >>> z[0, :, 0, 0]  # the left block, row by row
        tensor([0., 1., 4., 5.])
    """

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the squeezed images, (B, 4 C, H/2, W/2), and zeros (B,); H and W must be even."""
        return F.pixel_unshuffle(x_BCHW, 2), x_BCHW.new_zeros(len(x_BCHW))

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        """Return the images before the squeeze: (B, 4 C, H, W) -> (B, C, 2 H, 2 W)."""
        return F.pixel_shuffle(z_BCHW, 2)
