"""Plain coupling networks on CPUs: three convolutions and their gradient, written by hand for speed.

On CPUs, `PlainNetwork` calls `three_convolutions` in place of three calls of `conv2d`, and this file computes the
gradient in place of autograd. The result is the same up to rounding. Two things make it faster (docs/performance.md has
measurements):

- A convolution and the ReLU after it are one operator, and the gradient of a ReLU is computed in place.
- If the network's input has few channels (at most `networks.FEW_CHANNELS`), the last convolution and the gradients of
  both 3x3 convolutions are matrix products. A stock convolution pads so few channels to the length of a vector
  register, 16 or 32 numbers, and spends most of its time on zeros.

How the last convolution becomes a matrix product: its weight consists of nine matrices (C, F), one for each place in
the 3x3 neighbourhood of a position. The output at a position is the sum of nine *taps*: each matrix times the hidden
channels at its place in the neighbourhood. One matrix product, (9 C, F) times (F, N), multiplies the hidden channels of
every position by all nine matrices, and `_shifted_sum` then adds each tap to the output at the position that the tap
belongs to. The gradient with respect to the network's input is computed in the same way. The other gradients of both
3x3 convolutions are products with the 3x3 neighbourhoods of all positions (`_neighbourhoods`, also known as im2col).

The input and output of the network are in the memory order (C, B, H, W), so that shifts and neighbourhoods are copies
of long runs. Hidden layers are in the order (N, F), as matrix products need them.

``GLOW_PRODUCTS=0`` in the environment turns this file off: every convolution is then `conv2d`. The same happens
automatically if torch lacks an ATen operator that this file needs.

The four operators in `SIGNATURES` are private ones, which torch does not promise to keep. If a version of torch drops
one of them or changes its arguments, results must stay correct, only slower. Therefore this file looks up each operator
and the types of its arguments once per process. If a oneDNN operator is missing, this file calls the public function
with the same result. If an ATen operator is missing, `available` returns False, and all coupling networks use
`torch.nn.functional.conv2d`, as on a GPU.

Shapes: C channels, B images, H height, W width, N = B * H * W positions, F hidden channels (the network's width).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CONV_RELU = "mkldnn::_convolution_pointwise.default"
LINEAR = "mkldnn::_linear_pointwise.default"
RELU_BACKWARD = "aten::threshold_backward.grad_input"
CONV_BACKWARD = "aten::convolution_backward.default"

SIGNATURES = {
    CONV_RELU: "Tensor Tensor Optional[Tensor] List[int] List[int] List[int] int "
    "str List[Optional[number]] Optional[str]",
    LINEAR: "Tensor Tensor Optional[Tensor] str List[Optional[number]] Optional[str]",
    RELU_BACKWARD: "Tensor Tensor number Tensor",
    CONV_BACKWARD: "Tensor Tensor Tensor Optional[List[int]] List[int] List[int] List[int] "
    "bool List[int] int List[bool]",
}
"""For each operator, the types of the arguments that this file calls it with."""


def available() -> bool:
    """Return whether the installed torch has `RELU_BACKWARD` and `CONV_BACKWARD`, which have no substitute.

    Examples:
        >>> available()
        True
    """
    return exists(RELU_BACKWARD) and exists(CONV_BACKWARD)


@lru_cache
def exists(name: str) -> bool:
    """Return whether the installed torch has this operator, with the argument types that `SIGNATURES` lists.

    Examples:
        >>> exists(CONV_BACKWARD)
        True
    """
    namespace, operator = name.split("::")
    packet, overload = operator.split(".")
    try:
        schema = getattr(getattr(getattr(torch.ops, namespace), packet), overload)._schema
        return " ".join(str(argument.type) for argument in schema.arguments) == SIGNATURES[name]
    except (AttributeError, RuntimeError):
        return False


def conv_relu(x_BCHW: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return relu(conv2d(x) + bias), padded with zeros to the same size.

    Args:
        x_BCHW: float (B, C, H, W), on the CPU.
        weight: (F, C, k, k), of the same type, with k odd.
        bias: (F,), of the same type.

    Returns:
        (B, F, H, W). oneDNN's operator has no gradient, so call this function only where autograd is off.

    Examples:
        >>> x = torch.tensor([-2.0, 3.0]).view(2, 1, 1, 1)
        >>> conv_relu(x, torch.ones(1, 1, 3, 3), torch.ones(1)).flatten()
        tensor([0., 4.])
    """
    padding = [weight.shape[2] // 2] * 2
    if _onednn_takes(x_BCHW.dtype) and exists(CONV_RELU):
        return torch.ops.mkldnn._convolution_pointwise(x_BCHW, weight, bias, padding, [1, 1], [1, 1], 1, "relu", [], "")
    return F.relu(F.conv2d(x_BCHW, weight, bias, padding=padding), inplace=True)


def matmul_transposed(matrix: Tensor, rows_NF: Tensor) -> Tensor:
    """Return matrix @ rows.T.

    Args:
        matrix: float (M, F), on the CPU.
        rows_NF: (N, F), of the same type.

    Returns:
        (M, N).

    Examples:
        >>> matmul_transposed(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        tensor([[1., 3.]])
    """
    # On AMD's processors, oneDNN is twice as fast in float32 as MKL, which `@` calls.
    if _onednn_takes(matrix.dtype) and exists(LINEAR):
        return torch.ops.mkldnn._linear_pointwise(matrix, rows_NF, None, "none", [], "")
    return matrix @ rows_NF.T


def relu_backward_(grad: Tensor, output: Tensor) -> Tensor:
    """Turn the gradient with respect to a ReLU's output into the one with respect to its input, in place.

    To write the result to a new tensor would take twice the time.

    Args:
        grad: gradient with respect to the output; it is overwritten.
        output: the ReLU's output, of the same shape.

    Returns:
        `grad`, with zeros where `output` is 0.

    Examples:
        >>> relu_backward_(torch.tensor([5.0, 5.0]), torch.tensor([0.0, 2.0]))
        tensor([0., 5.])
    """
    return torch.ops.aten.threshold_backward(grad, output, 0, grad_input=grad)


def conv_backward(grad: Tensor, x: Tensor, weight: Tensor, with_x: bool = True) -> tuple[Tensor, ...]:
    """Return the gradients of a convolution that is padded with zeros to the same size.

    Args:
        grad: gradient with respect to the output, (B, F, H, W).
        x: the input, (B, C, H, W).
        weight: (F, C, k, k), with k odd.
        with_x: whether to compute the gradient with respect to the input.

    Returns:
        The gradients with respect to x (None if not `with_x`), the weight, and the bias.

    Examples:
        >>> x, weight = torch.ones(1, 2, 4, 4), torch.ones(3, 2, 3, 3)
        >>> d_x, d_weight, d_bias = conv_backward(torch.ones(1, 3, 4, 4), x, weight)
        >>> d_x.shape == x.shape, d_weight.shape == weight.shape, d_bias
        (True, True, tensor([16., 16., 16.]))
    """
    padding = [weight.shape[2] // 2] * 2
    return torch.ops.aten.convolution_backward(
        grad, x, weight, [len(weight)], [1, 1], padding, [1, 1], False, [0, 0], 1, [with_x, True, True]
    )


def _onednn_takes(dtype: torch.dtype) -> bool:
    """Return whether oneDNN computes in this type on this processor; it refuses bf16 on those without AVX-512."""
    if dtype == torch.bfloat16:
        return _onednn_has_bf16()
    return dtype == torch.float32 and torch.backends.mkldnn.is_available()


@lru_cache
def _onednn_has_bf16() -> bool:
    try:
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except AttributeError:
        return False


SWITCH = "GLOW_PRODUCTS"
"""Name of the environment variable whose value 0 turns this file off."""


def enabled() -> bool:
    """Return whether plain coupling networks on CPUs are computed by `three_convolutions`.

    Examples:
        >>> from unittest import mock
        >>> with mock.patch.dict(os.environ, {"GLOW_PRODUCTS": "0"}):
        ...     enabled()
        False
    """
    return os.environ.get(SWITCH) != "0" and available()


def three_convolutions(x_CBHW: Tensor, weights: Sequence[Tensor], by_products: bool) -> Tensor:
    """Return conv3x3(relu(conv1x1(relu(conv3x3(x))))), padded with zeros to the same size.

    The result is computed in the type of the weights. It has a gradient, but no second derivatives.

    Args:
        x_CBHW: float (C, B, H, W), on the CPU.
        weights: weight and bias of each convolution in turn, six tensors with the shapes of `torch.nn.Conv2d`.
        by_products: True computes the last convolution and the gradients of both 3x3 convolutions by matrix products,
            False by stock operators.

    Returns:
        (C_out, B, H, W), in the type of `x_CBHW`.

    Examples:
        >>> shapes = [(8, 2, 3, 3), (8,), (8, 8, 1, 1), (8,), (4, 8, 3, 3), (4,)]
        >>> weights = [torch.randn(shape) / 3 for shape in shapes]
        >>> x = torch.randn(2, 5, 6, 6)
        >>> z = three_convolutions(x, weights, by_products=True)
        >>> z.shape
        torch.Size([4, 5, 6, 6])
        >>> torch.allclose(z, three_convolutions(x, weights, by_products=False), atol=1e-3)
        True
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
    # A tap was added to the neighbour on the opposite side, so its gradient is that neighbour's.
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
    """Return (B, C, H, W), channels last."""
    return x_CBHW.transpose(0, 1).to(dtype, memory_format=torch.channels_last)


def to_planes(x_BCHW: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a contiguous copy of the given type, with the first two axes swapped.

    Args:
        x_BCHW: (B, C, H, W) in any memory order.
        dtype: type of the result.

    Returns:
        (C, B, H, W), contiguous.

    Examples:
        >>> to_planes(torch.rand(2, 3, 4, 4), torch.bfloat16).shape
        torch.Size([3, 2, 4, 4])
    """
    # Without `copy`, a tensor that has this type already would be returned unchanged, channels last.
    return x_BCHW.transpose(0, 1).to(dtype, copy=True, memory_format=torch.contiguous_format)


def _matrix3(weight: Tensor) -> Tensor:
    """Return a weight (C, F, 3, 3) as the matrix (9 C, F) that computes the nine taps of a position."""
    return weight.permute(0, 2, 3, 1).reshape(-1, weight.shape[1])


def _images(rows_NF: Tensor, like_CBHW: Tensor) -> Tensor:
    """Return a view (B, F, H, W), channels last."""
    return rows_NF.view(*like_CBHW.shape[1:], -1).permute(0, 3, 1, 2)


def _rows(x_BFHW: Tensor) -> Tensor:
    """Return (N, F), as a view if channels are last."""
    return x_BFHW.permute(0, 2, 3, 1).reshape(-1, x_BFHW.shape[1])


def _neighbourhoods(x_CBHW: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (9 C + 1, N): each position's 3x3 neighbourhood, zeros beyond the edges, and a row of ones for a bias."""
    channels, *shape = x_CBHW.shape
    padded = F.pad(x_CBHW, (1, 1, 1, 1))
    c, b, h, w = padded.stride()
    columns = torch.empty(9 * channels + 1, *shape, dtype=dtype)
    columns[:-1].view(channels, 3, 3, *shape).copy_(padded.as_strided((channels, 3, 3, *shape), (c, h, w, b, h, w)))
    columns[-1] = 1
    return columns.view(len(columns), -1)


def _shifted_sum(matrix: Tensor, rows_NF: Tensor, like_CBHW: Tensor, flipped: bool) -> Tensor:
    """Compute the nine taps of every position, and add each to the position that it belongs to.

    The taps of a position are `matrix` (9 C, F) times its row. Tap (i, j) belongs to the neighbour at the offset
    (1 - i, 1 - j), or (i - 1, j - 1) if `flipped`. Taps that would leave the image are set to zero; then each shift is
    an offset in memory.

    Returns:
        (C, B, H, W).
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
    # The copy comes first because a sum over overlapping memory is many times slower.
    return (
        shifted.to(like_CBHW.dtype, copy=True, memory_format=torch.contiguous_format)
        .sum((1, 2))
        .view(-1, *shape, height, width)
    )
