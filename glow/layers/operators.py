"""The private operators of torch that make `glow.layers.products` fast, and what replaces them if they are missing.

Torch does not promise to keep these four operators. If a version of torch drops one of them or changes its arguments,
results must stay correct, only slower. Therefore this file looks up each operator and the types of its arguments once
per process. If a oneDNN operator is missing, this file calls the public function with the same result. If an ATen
operator is missing, `available` returns False, and all coupling networks use `torch.nn.functional.conv2d`, as on a GPU.

Shapes: B images, C channels, H height, W width, N = B * H * W positions, F hidden channels.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["available", "conv_backward", "conv_relu", "matmul_transposed", "relu_backward_"]

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

    Example:
        >>> available()
        True
    """
    return exists(RELU_BACKWARD) and exists(CONV_BACKWARD)


@lru_cache
def exists(name: str) -> bool:
    """Return whether the installed torch has this operator, with the argument types that `SIGNATURES` lists."""
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

    Example:
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

    Example:
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

    Example:
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

    Example:
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
