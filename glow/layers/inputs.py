"""What the first level sees of each pixel: its value (`Unchanged`) or its logit (`Logit`), as `GlowConfig.input` says.

docs/models.md says what the logit is good for.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from glow.layers.base import Layer, sum_per_image


class Unchanged(Layer):
    """The identity: the first level sees pixels in [-0.5, 0.5] as they are.

    Examples:
        >>> x = torch.tensor([-0.5, 0.25]).view(1, 1, 1, 2)
        >>> z, log_det = Unchanged()(x)
        >>> torch.equal(z, x), log_det
        (True, tensor([0.]))
    """

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input, and zeros (B,)."""
        return x_BCHW, x_BCHW.new_zeros(x_BCHW.shape[0])

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        """Return the input."""
        return z_BCHW


class Logit(Layer):
    """The logit of each pixel x in [-0.5, 0.5] (Dinh et al. 2017, section 4.1).

    p = alpha + (1 - 2 alpha) (x + 1/2),  z = log p - log(1 - p),
    log |det| = the sum of (log(1 - 2 alpha) - log p - log(1 - p)) over the pixels.

    Args:
        alpha: between 0 and 1/2. It keeps p within [alpha, 1 - alpha], so that the logits of black and white are
            finite. `Glow` uses 0.001.

    Examples:
        >>> logit = Logit(alpha=0.001)
        >>> black_and_white = torch.tensor([-0.5, 0.5]).view(1, 1, 1, 2)
        >>> z, log_det = logit(black_and_white)
        >>> z.flatten()
        tensor([-6.9068,  6.9068])
        >>> torch.allclose(logit.inverse(z), black_and_white, atol=1e-5)
        True
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, (B, C, H, W), and the log-det (B,) in nats."""
        p = self.alpha + (1 - 2 * self.alpha) * (x_BCHW + 0.5)
        z_BCHW = p.log() - (1 - p).log()
        # softplus(z) = -log(1 - p) and softplus(-z) = -log p
        log_slope = math.log(1 - 2 * self.alpha) + F.softplus(z_BCHW) + F.softplus(-z_BCHW)
        return z_BCHW, sum_per_image(log_slope)

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        """Return the pixels x = (sigmoid(z) - alpha) / (1 - 2 alpha) - 1/2.

        If z is not the logit of any pixel, x is outside [-0.5, 0.5].
        """
        return (torch.sigmoid(z_BCHW) - self.alpha) / (1 - 2 * self.alpha) - 0.5
