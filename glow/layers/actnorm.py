"""ActNorm: a per-channel affine map, initialised from data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from glow.distributed import all_reduce_sum
from glow.layers.affine import Affine, AffineLayer

__all__ = ["ActNorm"]

# Under a tenth of the sd of the dequantisation noise alone, 1 / (256 sqrt 12) = 1.1e-3: real images never reach it.
SD_FLOOR = 1e-4


class ActNorm(AffineLayer):
    r"""Activation normalisation (Kingma & Dhariwal 2018, section 3.1).

    .. math:: z_c = (x_c + b_c) \exp(s_c), \qquad \log |\det| = H W \sum_c s_c

    ``bias`` :math:`b` and ``log_scale`` :math:`s` have shape (C,). `initialize` sets them so that each channel of
    one batch has mean 0 and standard deviation 1; a channel with no variance gets that of `SD_FLOOR`. Until then the
    layer is the identity. In several processes the statistics are those of all their batches together.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def factors(self) -> tuple[Tensor, ...]:
        return self.bias, self.log_scale

    @classmethod
    def affine_of(cls, factors: Sequence[Tensor]) -> Affine:
        bias, log_scale = factors
        scale = log_scale.exp()
        return Affine(scale, scale * bias, log_scale.sum(-1))

    @classmethod
    def inverse_affine_of(cls, factors: Sequence[Tensor]) -> Affine:
        bias, log_scale = factors
        return Affine((-log_scale).exp(), -bias, -log_scale.sum(-1))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        z_BCHW = (x_BCHW + self.bias[:, None, None]) * self.log_scale.exp()[:, None, None]
        _, _, height, width = x_BCHW.shape
        return z_BCHW, (height * width * self.log_scale.sum()).expand(len(x_BCHW))

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        return z_BCHW * (-self.log_scale).exp()[:, None, None] - self.bias[:, None, None]

    @torch.no_grad()
    def initialize(self, x_BCHW: Tensor) -> Tensor:
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
