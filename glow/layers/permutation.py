"""Channel permutations: a learned 1x1 convolution, a fixed shuffle, and reversal.

To add one: a class of `AffineLayer`, its name in `glow.config.Permutation`, and a line in `PERMUTATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glow.config import Permutation
from glow.layers.affine import Affine, AffineLayer

__all__ = ["PERMUTATIONS", "FixedPermutation", "InvertibleConv1x1", "make_permutation"]


def make_permutation(kind: Permutation, channels: int, generator: torch.Generator) -> AffineLayer:
    """The channel permutation of one step, drawn from `generator` where it is random.

    Raises:
        ValueError: for a kind that is not in `PERMUTATIONS`.
        TypeError: for an entry of `PERMUTATIONS` that makes another layer than an `AffineLayer`.
    """
    if kind not in PERMUTATIONS:
        raise ValueError(f"permutation must be one of {', '.join(PERMUTATIONS)}, not {kind!r}")
    layer = PERMUTATIONS[kind](channels, generator)
    if not isinstance(layer, AffineLayer):
        raise TypeError(f"the permutation {kind!r} made a {type(layer).__name__}, which is no AffineLayer")
    return layer


class FixedPermutation(AffineLayer):
    """z[:, i] = x[:, order[i]]; log-det 0. `order` (C,) is a buffer: it is saved with the weights and never trained."""

    order: Tensor

    def __init__(self, order_C: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order_C)

    @classmethod
    def shuffle(cls, channels: int, generator: torch.Generator) -> FixedPermutation:
        return cls(torch.randperm(channels, generator=generator))

    @classmethod
    def reverse(cls, channels: int, generator: torch.Generator) -> FixedPermutation:
        """Takes nothing from the generator."""
        return cls(torch.arange(channels).flip(0))

    def factors(self) -> tuple[Tensor, ...]:
        return (self.order,)

    @classmethod
    def affine_of(cls, factors: Sequence[Tensor]) -> Affine:
        (order,) = factors
        matrix = F.one_hot(order, order.shape[-1]).float()
        offset = torch.zeros_like(matrix[..., 0])
        return Affine(matrix, offset, offset[..., 0])

    @classmethod
    def inverse_affine_of(cls, factors: Sequence[Tensor]) -> Affine:
        matrix, offset, log_det = cls.affine_of(factors)
        return Affine(matrix.mT, offset, log_det)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return x_BCHW[:, self.order], x_BCHW.new_zeros(len(x_BCHW))

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        return z_BCHW[:, self.order.argsort()]


class InvertibleConv1x1(AffineLayer):
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
        return self.permutation, self.lower, self.upper, self.sign_s, self.log_s

    @classmethod
    def affine_of(cls, factors: Sequence[Tensor]) -> Affine:
        permutation, lower, upper, sign_s, log_s = factors
        weight = permutation @ _unit_lower(lower) @ _upper(upper, sign_s, log_s)
        return Affine(weight, torch.zeros_like(log_s), log_s.sum(-1))

    @classmethod
    def inverse_affine_of(cls, factors: Sequence[Tensor]) -> Affine:
        """By two triangular solves."""
        permutation, lower, upper, sign_s, log_s = factors
        solved = torch.linalg.solve_triangular(_unit_lower(lower), permutation.mT, upper=False, unitriangular=True)
        inverse = torch.linalg.solve_triangular(_upper(upper, sign_s, log_s), solved, upper=True)
        return Affine(inverse, torch.zeros_like(log_s), -log_s.sum(-1))


PERMUTATIONS: dict[str, Callable[[int, torch.Generator], AffineLayer]] = {
    "1x1": InvertibleConv1x1,
    "shuffle": FixedPermutation.shuffle,
    "reverse": FixedPermutation.reverse,
}
"""`GlowConfig.permutation` -> the layer of so many channels, drawn from a generator."""


def _unit_lower(lower: Tensor) -> Tensor:
    return lower.tril(-1) + torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)


def _upper(upper: Tensor, sign_s: Tensor, log_s: Tensor) -> Tensor:
    return upper.triu(1) + torch.diag_embed(sign_s * log_s.exp())
