"""Channel permutations: a learned 1x1 convolution, a fixed shuffle, and reversal."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glow.config import Permutation
from glow.layers.base import Layer

__all__ = ["FixedPermutation", "InvertibleConv1x1", "lu_inverse", "lu_weight", "make_permutation"]


def make_permutation(kind: Permutation, channels: int, generator: torch.Generator) -> Layer:
    """The channel permutation of one step, drawn from `generator` where it is random."""
    if kind == "1x1":
        return InvertibleConv1x1(channels, generator)
    if kind == "shuffle":
        return FixedPermutation(torch.randperm(channels, generator=generator))
    return FixedPermutation(torch.arange(channels).flip(0))


class FixedPermutation(Layer):
    """z[:, i] = x[:, order[i]]; log-det 0. `order` (C,) is a buffer: it is saved with the weights and never trained."""

    order: Tensor

    def __init__(self, order_C: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order_C)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return x_BCHW[:, self.order], x_BCHW.new_zeros(len(x_BCHW))

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        return z_BCHW[:, self.order.argsort()]


class InvertibleConv1x1(Layer):
    r"""Invertible 1x1 convolution, LU-parametrised (Kingma & Dhariwal 2018, section 3.2, equations 10 and 11).

    .. math:: z_i = \sum_j W_{ij} x_j, \qquad W = P L (U + \mathrm{diag}(\sigma \exp(s))), \qquad
        \log |\det| = H W \sum_i s_i

    :math:`L` is unit lower and :math:`U` strictly upper triangular. The permutation :math:`P` and the signs
    :math:`\sigma` are buffers, fixed at a random rotation; ``lower``, ``upper`` (C, C) and ``log_s`` (C,) are learned,
    so :math:`W` stays invertible. No determinant is ever computed.
    """

    permutation: Tensor
    sign_s: Tensor

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        gaussian = torch.randn(channels, channels, dtype=torch.float64, generator=generator)
        rotation = torch.linalg.qr(gaussian)[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        s = upper.diagonal()
        self.register_buffer("permutation", permutation.float())
        self.register_buffer("sign_s", s.sign().float())
        self.lower = nn.Parameter(lower.tril(-1).float())
        self.upper = nn.Parameter(upper.triu(1).float())
        self.log_s = nn.Parameter(s.abs().log().float())

    def factors(self) -> tuple[Tensor, ...]:
        """What `lu_weight` takes."""
        return self.permutation, self.lower, self.upper, self.sign_s, self.log_s

    def weight(self) -> Tensor:
        """W, (C, C)."""
        return lu_weight(*self.factors())

    @torch.no_grad()
    def inverse_weight(self) -> Tensor:
        """The inverse of W, (C, C), made in float64."""
        return lu_inverse(*(factor.double() for factor in self.factors())).to(self.lower.dtype)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        _, _, height, width = x_BCHW.shape
        z_BCHW = F.conv2d(x_BCHW, self.weight()[:, :, None, None])
        return z_BCHW, (height * width * self.log_s.sum()).expand(len(x_BCHW))

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        return F.conv2d(z_BCHW, self.inverse_weight()[:, :, None, None])


def lu_weight(permutation: Tensor, lower: Tensor, upper: Tensor, sign_s: Tensor, log_s: Tensor) -> Tensor:
    """W, (..., C, C), of the parameters of one `InvertibleConv1x1`, or of several in a stack."""
    return permutation @ _unit_lower(lower) @ _upper(upper, sign_s, log_s)


def lu_inverse(permutation: Tensor, lower: Tensor, upper: Tensor, sign_s: Tensor, log_s: Tensor) -> Tensor:
    """The inverse of W, (..., C, C), by two triangular solves."""
    solved = torch.linalg.solve_triangular(_unit_lower(lower), permutation.mT, upper=False, unitriangular=True)
    return torch.linalg.solve_triangular(_upper(upper, sign_s, log_s), solved, upper=True)


def _unit_lower(lower: Tensor) -> Tensor:
    return lower.tril(-1) + torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)


def _upper(upper: Tensor, sign_s: Tensor, log_s: Tensor) -> Tensor:
    return upper.triu(1) + torch.diag_embed(sign_s * log_s.exp())
