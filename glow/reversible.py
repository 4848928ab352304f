"""Steps of flow that keep no activations for their gradient: each makes its input again from its output.

In the backward pass the last step has its output at hand. It inverts itself, differentiates what it computed, and
leaves its input to the step before it (Gomez et al. 2017 do so for residual networks). So the memory of a training does
not grow with the depth; the price is one more pass through each coupling network, which the inverse and the gradient
share.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from glow.layers import CouplingLayer, join, mix

__all__ = ["reversible_steps"]

Mixer = tuple[Tensor, Tensor]


class Tape:
    """The one activation that the steps of a level keep between them: the output of the last one that has not been
    differentiated. Every forward pass has its own."""

    def __init__(self) -> None:
        self._step = -1
        self._output_BCHW: Tensor | None = None

    def put(self, step: int, output_BCHW: Tensor) -> None:
        self._step, self._output_BCHW = step, output_BCHW.detach()

    def take(self, step: int) -> Tensor:
        """The output of this step. Raises RuntimeError if it is not there any more."""
        if self._output_BCHW is None or self._step != step:
            raise RuntimeError("a reversible Glow can be differentiated once: its activations are gone afterwards")
        output_BCHW, self._output_BCHW = self._output_BCHW, None
        return output_BCHW


def reversible_steps(
    x_BCHW: Tensor, log_det_B: Tensor, steps: Iterable[tuple[CouplingLayer, Mixer, Mixer]]
) -> tuple[Tensor, Tensor]:
    """What `Level` computes: each coupling of what its mixer made, and the sum of the log-dets (B,).

    A step is a coupling, and the matrix and offset of `mix` before it, there and back. In float32 gradients differ from
    those of kept activations by what the inversion of the steps behind loses.
    """
    tape = Tape()
    for index, (coupling, mixer, unmixer) in enumerate(steps):
        x_BCHW, step_log_det_B = _ReversibleStep.apply(
            tape, index, coupling, unmixer, x_BCHW, *mixer, *coupling.parameters()
        )
        log_det_B = log_det_B + step_log_det_B
    return x_BCHW, log_det_B


class _ReversibleStep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tape: Tape, index: int, coupling: CouplingLayer, unmixer: Mixer, x_BCHW: Tensor, *weights: Tensor
    ) -> Any:
        z_BCHW, log_det_B = coupling(mix(x_BCHW, *weights[:2]))
        tape.put(index, z_BCHW)
        ctx.tape, ctx.index, ctx.coupling, ctx.unmixer = tape, index, coupling, unmixer
        ctx.save_for_backward(weights[0])
        return z_BCHW, log_det_B

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_z: Tensor, grad_log_det: Tensor) -> Any:
        (matrix,) = ctx.saved_tensors
        with torch.enable_grad():
            y_a, y_b, z_BCHW, log_det_B = ctx.coupling.again(ctx.tape.take(ctx.index))
        inputs = (y_a, y_b, *ctx.coupling.parameters())
        outputs = {z_BCHW: grad_z} | ({log_det_B: grad_log_det} if log_det_B.requires_grad else {})  # additive: 0
        d_a, d_b, *d_parameters = torch.autograd.grad(tuple(outputs), inputs, tuple(outputs.values()))
        y_BCHW, d_y = join(y_a.detach(), y_b.detach()), join(d_a, d_b)
        x_BCHW = mix(y_BCHW, *ctx.unmixer)
        ctx.tape.put(ctx.index - 1, x_BCHW)
        d_y_CN, x_CN = (t.transpose(0, 1).flatten(1) for t in (d_y, x_BCHW))
        d_x = (matrix.T @ d_y_CN).view(x_BCHW.transpose(0, 1).shape).transpose(0, 1)
        return None, None, None, None, d_x, d_y_CN @ x_CN.T, d_y_CN.sum(1), *d_parameters
