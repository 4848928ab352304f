r"""What ActNorm and channel permutation of a step come to together, for all steps of a level at once.

Both are affine in the channels of a position, so a step's pair is :math:`x \mapsto A x + c` with
:math:`A = W \mathrm{diag}(\exp s)` and :math:`c = A b` (`ActNorm`'s b and s, the permutation's W). The matrices are
small and there are many of them: made for a level in one go they cost next to nothing, made a step at a time as much as
a coupling of a narrow network.

Shapes: K steps, C channels, B images, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glow.layers.actnorm import ActNorm
from glow.layers.base import Layer
from glow.layers.permutation import FixedPermutation, InvertibleConv1x1, lu_inverse, lu_weight

__all__ = ["mix", "mixing", "unmixing"]


def mixing(actnorms: Sequence[ActNorm], permutations: Sequence[Layer]) -> tuple[Tensor, Tensor, Tensor]:
    """A (K, C, C), c (K, C), and the log-det of all steps together at one position, a scalar in nats."""
    log_scale_KC, bias_KC = _actnorm_parameters(actnorms)
    log_det = log_scale_KC.sum()
    if (lu := _lu_parameters(permutations)) is not None:
        weight_KCC, log_det = lu_weight(*lu), log_det + lu[-1].sum()
    else:
        weight_KCC = _one_hot(permutations).to(bias_KC.dtype)
    matrix_KCC = weight_KCC * log_scale_KC.exp()[:, None]
    return matrix_KCC, (matrix_KCC @ bias_KC[:, :, None])[:, :, 0], log_det


@torch.no_grad()
def unmixing(actnorms: Sequence[ActNorm], permutations: Sequence[Layer]) -> tuple[Tensor, Tensor]:
    """The A (K, C, C) and c (K, C) of the inverses: made in float64, since samples pass through all of them."""
    log_scale_KC, bias_KC = _actnorm_parameters(actnorms)
    if (lu := _lu_parameters(permutations)) is not None:
        inverse_KCC = lu_inverse(*(parameter.double() for parameter in lu))
    else:
        inverse_KCC = _one_hot(permutations).double().mT
    matrix_KCC = (-log_scale_KC.double()).exp()[:, :, None] * inverse_KCC
    return matrix_KCC.to(bias_KC.dtype), -bias_KC


def mix(x_BCHW: Tensor, matrix_CC: Tensor, offset_C: Tensor) -> Tensor:
    """A x + c at every position: planes, made without a copy from planes."""
    x_CBHW = x_BCHW.transpose(0, 1)
    mixed_CN = torch.addmm(offset_C[:, None], matrix_CC, x_CBHW.flatten(1))
    return mixed_CN.view(x_CBHW.shape).transpose(0, 1)


def _actnorm_parameters(actnorms: Sequence[ActNorm]) -> tuple[Tensor, Tensor]:
    return torch.stack([layer.log_scale for layer in actnorms]), torch.stack([layer.bias for layer in actnorms])


def _lu_parameters(permutations: Sequence[Layer]) -> list[Tensor] | None:
    """Those of 1x1 convolutions, in stacks; None for fixed permutations."""
    convolutions = [layer for layer in permutations if isinstance(layer, InvertibleConv1x1)]
    if not convolutions:
        return None
    return [torch.stack(parameters) for parameters in zip(*(layer.factors() for layer in convolutions), strict=True)]


def _one_hot(permutations: Sequence[Layer]) -> Tensor:
    """(K, C, C)"""
    orders_KC = torch.stack([layer.order for layer in permutations if isinstance(layer, FixedPermutation)])
    return torch.nn.functional.one_hot(orders_KC, orders_KC.shape[1])
