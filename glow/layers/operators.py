"""Operators that torch does not promise to keep, each asked for before it is called.

`glow.layers.products` is fast by four operators beneath torch's public interface. A version of torch that drops one of
them, or changes its arguments, must cost speed and nothing else. So each is looked up with the types of its arguments,
once per process. Without one of oneDNN's the public function of the same result is called; without one of ATen's,
`available` is false, and coupling networks are computed by `torch.nn.functional.conv2d` as on a GPU.
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
"""Operator -> the types of the arguments that it is called with here."""


def available() -> bool:
    """Whether the operators that have no stand-in are there."""
    return exists(RELU_BACKWARD) and exists(CONV_BACKWARD)


@lru_cache
def exists(name: str) -> bool:
    """Whether this torch has the operator, with the arguments of `SIGNATURES`."""
    namespace, operator = name.split("::")
    packet, overload = operator.split(".")
    try:
        schema = getattr(getattr(getattr(torch.ops, namespace), packet), overload)._schema
        return " ".join(str(argument.type) for argument in schema.arguments) == SIGNATURES[name]
    except (AttributeError, RuntimeError):
        return False


def conv_relu(x_BCHW: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """relu(conv2d(x)), padded to the same size."""
    padding = [weight.shape[2] // 2] * 2
    if _onednn_takes(x_BCHW.dtype) and exists(CONV_RELU):
        return torch.ops.mkldnn._convolution_pointwise(x_BCHW, weight, bias, padding, [1, 1], [1, 1], 1, "relu", [], "")
    return F.relu(F.conv2d(x_BCHW, weight, bias, padding=padding), inplace=True)


def matmul_transposed(matrix: Tensor, rows_NF: Tensor) -> Tensor:
    """matrix @ rows.T"""
    if _onednn_takes(matrix.dtype) and exists(
        LINEAR
    ):  # on AMD's processors twice as fast in float32 as MKL, behind `@`
        return torch.ops.mkldnn._linear_pointwise(matrix, rows_NF, None, "none", [], "")
    return matrix @ rows_NF.T


def relu_backward_(grad: Tensor, output: Tensor) -> Tensor:
    """The gradient of a ReLU, in place: a fresh tensor of this size would cost as much again."""
    return torch.ops.aten.threshold_backward(grad, output, 0, grad_input=grad)


def conv_backward(grad: Tensor, x: Tensor, weight: Tensor, with_x: bool = True) -> tuple[Tensor, ...]:
    """The gradients of x (None without `with_x`), weight and bias of a convolution padded to the same size."""
    padding = [weight.shape[2] // 2] * 2
    return torch.ops.aten.convolution_backward(
        grad, x, weight, [len(weight)], [1, 1], padding, [1, 1], False, [0, 0], 1, [with_x, True, True]
    )


def _onednn_takes(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes in this type on this processor. Its operators refuse bf16 on those without AVX-512."""
    if dtype == torch.bfloat16:
        return _onednn_has_bf16()
    return dtype == torch.float32 and torch.backends.mkldnn.is_available()


@lru_cache
def _onednn_has_bf16() -> bool:
    try:
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except AttributeError:
        return False
