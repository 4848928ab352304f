r"""The coupling network on CPUs: three convolutions and their gradient, written by hand for speed.

`CouplingNetwork` calls `three_convolutions` on CPUs, in place of three `conv2d` and autograd. The result is the same up
to rounding. Two things are faster; docs/performance.md has what they give:

- A convolution and the ReLU after it are one operator, and the gradient of a ReLU is taken in place.
- With few channels outside (C, at most `coupling.FEW_CHANNELS`), the outer convolutions are matrix products. A stock
  convolution pads those channels to a vector's length, 16 or 32 numbers, and so computes zeros for most of its time.

How a 3x3 convolution becomes products: the output at a position is the sum over the nine neighbours of a matrix for
that neighbour, a *tap*, times the hidden channels there. So for the last convolution one product gives all nine taps of
every position, (9 C, F) by (F, N), and each tap is then added to the position that it is for (`_shifted_sum`). The
gradients go the other way: they are products with the 3x3 neighbourhoods of all positions (`_neighbourhoods`, which
others call im2col).

Outside, a channel of all images is one run of memory, (C, B, H, W), so that shifts and neighbourhoods are copies of
long runs. Inside, the channels of a position are one run, (N, F), as products want them.

``GLOW_PRODUCTS=0`` in the environment turns all of this off: every convolution is then `conv2d`. The same happens by
itself where torch lacks an operator that this file needs (`glow.layers.operators`).

Shapes: C channels, B images, H height, W width, N = B * H * W positions, F hidden channels (the network's width).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from glow.layers import operators
from glow.layers.operators import conv_backward, conv_relu, matmul_transposed, relu_backward_

__all__ = ["enabled", "three_convolutions", "to_planes"]

SWITCH = "GLOW_PRODUCTS"
"""Environment variable: 0 turns this file off."""


def enabled() -> bool:
    """Whether coupling networks on CPUs are computed by `three_convolutions`."""
    return os.environ.get(SWITCH) != "0" and operators.available()


def three_convolutions(x_CBHW: Tensor, weights: Sequence[Tensor], by_products: bool) -> Tensor:
    """conv3x3(relu(conv1x1(relu(conv3x3(x))))), padded by zeros, computed in the type of the weights.

    It can be differentiated once.

    Args:
        weights: weight and bias of the three, as those of `torch.nn.Conv2d`.
        by_products: whether the last convolution and the gradients of both outer ones are matrix products, or stock.

    Returns:
        (C_out, B, H, W) in the type of `x_CBHW`.
    """
    if torch.is_grad_enabled():
        return _ThreeConvolutions.apply(x_CBHW, *weights, by_products)
    w1, b1, w2, b2, w3, b3 = weights
    hidden2 = conv_relu(conv_relu(_channels_last(x_CBHW, w1.dtype), w1, b1), w2, b2)  # one hidden layer at a time
    return _last(hidden2, w3, b3, x_CBHW, by_products)


class _ThreeConvolutions(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_CBHW: Tensor, *rest: Any) -> Tensor:
        w1, b1, w2, b2, w3, b3, by_products = rest
        hidden1 = conv_relu(_channels_last(x_CBHW, w1.dtype), w1, b1)
        hidden2 = conv_relu(hidden1, w2, b2)
        ctx.save_for_backward(x_CBHW, hidden1, hidden2, w1, w2, w3)
        ctx.by_products = by_products
        return _last(hidden2, w3, b3, x_CBHW, by_products)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_CBHW: Tensor) -> Any:
        x_CBHW, hidden1, hidden2, w1, w2, w3 = ctx.saved_tensors
        with_x = ctx.needs_input_grad[0]
        last = _last_backward_by_products if ctx.by_products else _last_backward
        d_hidden, d_w3, d_b3 = last(grad_CBHW, hidden2, w3)
        d_hidden, d_w2, d_b2 = conv_backward(relu_backward_(d_hidden, hidden2), hidden1, w2)
        first = _first_backward_by_products if ctx.by_products else _first_backward
        d_x, d_w1, d_b1 = first(relu_backward_(d_hidden, hidden1), x_CBHW, w1, with_x)
        return d_x, d_w1, d_b1, d_w2, d_b2, d_w3, d_b3, None


def _last(hidden2: Tensor, w3: Tensor, b3: Tensor, x_CBHW: Tensor, by_products: bool) -> Tensor:
    if by_products:
        z_CBHW = _shifted_sum(_matrix3(w3), _rows(hidden2), x_CBHW, flipped=False)
        return z_CBHW.add_(b3[:, None, None, None])
    return to_planes(F.conv2d(hidden2, w3, b3, padding=1), x_CBHW.dtype)


def _last_backward(grad_CBHW: Tensor, hidden2: Tensor, w3: Tensor) -> tuple[Tensor, ...]:
    return conv_backward(_channels_last(grad_CBHW, w3.dtype), hidden2, w3)


def _last_backward_by_products(grad_CBHW: Tensor, hidden2: Tensor, w3: Tensor) -> tuple[Tensor, ...]:
    # The gradient of a position's taps lies at the positions that they were added to, on the opposite side.
    grad_taps = _neighbourhoods(grad_CBHW, w3.dtype)[:-1]
    d_w3 = (grad_taps @ _rows(hidden2)).view(len(w3), 3, 3, -1).flip(1, 2).permute(0, 3, 1, 2)
    d_hidden2 = _images(grad_taps.T @ _matrix3(w3.flip(2, 3)), grad_CBHW)
    return d_hidden2, d_w3, grad_CBHW.sum((1, 2, 3)).to(w3.dtype)


def _first_backward(d_hidden1: Tensor, x_CBHW: Tensor, w1: Tensor, with_x: bool) -> tuple[Tensor | None, ...]:
    d_x, d_w1, d_b1 = conv_backward(d_hidden1, _channels_last(x_CBHW, w1.dtype), w1, with_x)
    return to_planes(d_x, x_CBHW.dtype) if with_x else None, d_w1, d_b1


def _first_backward_by_products(
    d_hidden1: Tensor, x_CBHW: Tensor, w1: Tensor, with_x: bool
) -> tuple[Tensor | None, ...]:
    d_rows_NF = _rows(d_hidden1)
    d_matrix1 = _neighbourhoods(x_CBHW, w1.dtype) @ d_rows_NF
    d_x = _shifted_sum(w1.flatten(1).T, d_rows_NF, x_CBHW, flipped=True) if with_x else None
    return d_x, d_matrix1[:-1].T.reshape(w1.shape), d_matrix1[-1]


def _channels_last(x_CBHW: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, C, H, W)"""
    return x_CBHW.transpose(0, 1).to(dtype, memory_format=torch.channels_last)


def to_planes(x_BCHW: Tensor, dtype: torch.dtype) -> Tensor:
    """(C, B, H, W)"""
    # Without `copy` a tensor of this type already would come back as it is, channels last.
    return x_BCHW.transpose(0, 1).to(dtype, copy=True, memory_format=torch.contiguous_format)


def _matrix3(weight: Tensor) -> Tensor:
    """(9 C, F)"""
    return weight.permute(0, 2, 3, 1).reshape(-1, weight.shape[1])


def _images(rows_NF: Tensor, like_CBHW: Tensor) -> Tensor:
    """(B, F, H, W), channels last: no copy."""
    return rows_NF.view(*like_CBHW.shape[1:], -1).permute(0, 3, 1, 2)


def _rows(x_BFHW: Tensor) -> Tensor:
    """(N, F): no copy where channels are last."""
    return x_BFHW.permute(0, 2, 3, 1).reshape(-1, x_BFHW.shape[1])


def _neighbourhoods(x_CBHW: Tensor, dtype: torch.dtype) -> Tensor:
    """(9 C + 1, N): the 3x3 neighbourhood of every position, zeros beyond the edges, and a row of ones for a bias."""
    channels, *shape = x_CBHW.shape
    padded = F.pad(x_CBHW, (1, 1, 1, 1))
    c, b, h, w = padded.stride()
    columns = torch.empty(9 * channels + 1, *shape, dtype=dtype)
    columns[:-1].view(channels, 3, 3, *shape).copy_(padded.as_strided((channels, 3, 3, *shape), (c, h, w, b, h, w)))
    columns[-1] = 1
    return columns.view(len(columns), -1)


def _shifted_sum(matrix: Tensor, rows_NF: Tensor, like_CBHW: Tensor, flipped: bool) -> Tensor:
    """The nine taps of every position, `matrix` (9 C, F) times its row, each added to the position that it is for:
    (C, B, H, W). Tap (i, j) is for the neighbour (1 - i, 1 - j) further on, `flipped` for (i - 1, j - 1).

    A shift is an offset in memory, once the taps that would come out at the other side of an image are zero.
    """
    _, *shape, height, width = like_CBHW.shape
    n, edge = len(rows_NF), width + 1
    memory = torch.empty(len(matrix) * (n + edge) + edge, dtype=matrix.dtype)
    memory.as_strided((len(matrix) + 1, edge), (n + edge, 1)).zero_()
    taps = memory.as_strided((len(matrix), n), (n + edge, 1), edge)
    taps.copy_(matmul_transposed(matrix, rows_NF))
    taps = taps.view(-1, 3, 3, *shape, height, width)
    first, last = (2, 0) if flipped else (0, 2)
    taps[:, first, :, ..., -1, :] = 0
    taps[:, last, :, ..., 0, :] = 0
    taps[:, :, first, ..., -1] = 0
    taps[:, :, last, ..., 0] = 0
    down, right = (-width, -1) if flipped else (width, 1)
    strides = (9 * (n + edge), 3 * (n + edge) + down, n + edge + right, 1)
    shifted = memory.as_strided((len(matrix) // 9, 3, 3, n), strides, edge - down - right)
    # A sum over overlapping memory is many times slower than one over a copy.
    return (
        shifted.to(like_CBHW.dtype, copy=True, memory_format=torch.contiguous_format)
        .sum((1, 2))
        .view(-1, *shape, height, width)
    )
