"""Activation normalization: one learned scale and shift per channel, initialized from data.

It is the first layer of every flow step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from glow.distributed import all_reduce_sum
from glow.layers.channel_mixing import Affine, AffineLayer

# Smallest standard deviation that `initialize` divides by. It is less than a tenth of what dequantization noise alone
# has, 1 / (256 sqrt 12) = 1.1e-3, so no channel of real images is affected.
SD_FLOOR = 1e-4


class ActNorm(AffineLayer):
    """Activation normalization (Kingma & Dhariwal 2018, section 3.1).

    z[c] = (x[c] + bias[c]) exp(log_scale[c]) at every position, and log |det| = H W sum_c log_scale[c].

    A new layer is the identity. `initialize` sets it from one batch so that each channel of the output has mean 0 and
    standard deviation 1; from then on both parameters are trained like any other.

    Attributes:
        bias: parameter (C,), added to the input. `initialize` sets it to the negative mean of each channel.
        log_scale: parameter (C,). `initialize` sets it to the negative log of the standard deviation of each channel.

    Examples:
        >>> actnorm = ActNorm(channels=3)
        >>> x = 7 * torch.randn(16, 3, 8, 8) - 4
        >>> z = actnorm.initialize(x)
        >>> z.mean((0, 2, 3)).abs().max().item() < 1e-5
        True
        >>> (z.std((0, 2, 3), correction=0) - 1).abs().max().item() < 1e-5
        True
        >>> torch.allclose(actnorm.inverse(z), x, atol=1e-4)
        True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def factors(self) -> tuple[Tensor, ...]:
        """Return bias and log_scale, (C,) each."""
        return self.bias, self.log_scale

    @classmethod
    def affine_of(cls, factors: Sequence[Tensor]) -> Affine:
        """Return the diagonal map x exp(log_scale) + bias exp(log_scale), for the factors (bias, log_scale)."""
        bias, log_scale = factors
        scale = log_scale.exp()
        return Affine(scale, scale * bias, log_scale.sum(-1))

    @classmethod
    def inverse_affine_of(cls, factors: Sequence[Tensor]) -> Affine:
        """Return the inverse diagonal map z exp(-log_scale) - bias, for the factors (bias, log_scale)."""
        bias, log_scale = factors
        return Affine((-log_scale).exp(), -bias, -log_scale.sum(-1))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x + bias) exp(log_scale), (B, C, H, W), and the log-det (B,) in nats."""
        z_BCHW = (x_BCHW + self.bias[:, None, None]) * self.log_scale.exp()[:, None, None]
        _, _, height, width = x_BCHW.shape
        return z_BCHW, (height * width * self.log_scale.sum()).expand(x_BCHW.shape[0])

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        """Return z exp(-log_scale) - bias, (B, C, H, W)."""
        return z_BCHW * (-self.log_scale).exp()[:, None, None] - self.bias[:, None, None]

    @torch.no_grad()
    def initialize(self, x_BCHW: Tensor) -> Tensor:
        """Set bias and log_scale so that each channel of this batch gets mean 0 and standard deviation 1.

        In a process group, the mean and standard deviation are those of the shares of all processes together, so that
        every process sets the same values. A channel whose standard deviation is below 1e-4 (`SD_FLOOR`) is divided by
        1e-4.

        Args:
            x_BCHW: float (B, C, H, W), this process's share of the batch.

        Returns:
            (B, C, H, W), the normalized batch.
        """
        mean_C = _mean_per_channel(x_BCHW)
        variance_C = _mean_per_channel((x_BCHW - mean_C[:, None, None]).square())
        self.bias.copy_(-mean_C)
        self.log_scale.copy_(-variance_C.sqrt().clamp(min=SD_FLOOR).log())
        return self(x_BCHW)[0]


def _mean_per_channel(x_BCHW: Tensor) -> Tensor:
    batch, _, height, width = x_BCHW.shape
    total = x_BCHW.sum((0, 2, 3), dtype=torch.float64)
    count = total.new_tensor([batch * height * width])
    sums = all_reduce_sum(torch.cat([total, count]))
    return (sums[:-1] / sums[-1]).to(x_BCHW.dtype)
