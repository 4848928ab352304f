"""Steps of flow that store no activations for the gradient, because each computes its input again from its output.

The backward pass begins with the output of the last step. Each step computes its input from its output, differentiates
its map, and passes its input on to the step before it, as the output of that step. Gomez et al. (2017, "The
Reversible Residual Network") do this for residual networks. So the memory of training does not grow with the depth. The
cost is one more pass through each coupling network, which serves both the inverse and the gradient.

Shapes: B images, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from glow.layers import CouplingLayer, join, mix

Mixer = tuple[Tensor, Tensor]
"""A matrix (C, C) and an offset (C,) for `glow.layers.mix`."""


class _Tape:
    """The only activation that is stored for the steps of a level: the output of one step.

    After the forward pass it is the output of the last step. In the backward pass, each step replaces it by the output
    of the step before. Each forward pass has a separate tape.
    """

    def __init__(self) -> None:
        self._step = -1
        self._output_BCHW: Tensor | None = None

    def put(self, step: int, output_BCHW: Tensor) -> None:
        """Store the output of a step in place of the output that is stored."""
        self._step, self._output_BCHW = step, output_BCHW.detach()

    def take(self, step: int) -> Tensor:
        """Return the output of a step, and forget it.

        Raises:
            RuntimeError: if the tape does not hold the output of this step, such as after a first backward pass.
        """
        if self._output_BCHW is None or self._step != step:
            raise RuntimeError(
                "the result of a reversible Glow can be differentiated once, since that consumes its activations: "
                "compute it again, or use memory stored"
            )
        output_BCHW, self._output_BCHW = self._output_BCHW, None
        return output_BCHW


def reversible_steps(
    x_BCHW: Tensor, log_det_B: Tensor, steps: Iterable[tuple[CouplingLayer, Mixer, Mixer]]
) -> tuple[Tensor, Tensor]:
    """Apply the steps of a level so that the gradient needs no stored activations.

    In float32 the gradients differ from those of stored activations by the rounding errors of the inverses.

    Args:
        x_BCHW: float (B, C, H, W), the input of the first step.
        log_det_B: float (B,), in nats, to which the log-dets of the couplings are added. Those of the mixers are not:
            they depend on no image, so the caller adds them.
        steps: per step the coupling; the mixer before it, a matrix and an offset that combine ActNorm and permutation;
            and the inverse of that mixer.

    Returns:
        The output of the last step, (B, C, H, W), and the sum of `log_det_B` and the log-dets of the couplings, (B,).
        `backward` can run through them once (no `retain_graph`), and they have no second derivatives.

    Examples:
        >>> coupling = CouplingLayer(channels=4, width=8, coupling="affine", scale="sigmoid")
        >>> identity = (torch.eye(4), torch.zeros(4))
        >>> x, zero = torch.ones(2, 4, 3, 3, requires_grad=True), torch.zeros(2)
        >>> z, log_det = reversible_steps(x, zero, [(coupling, identity, identity)])
        >>> torch.allclose(z, coupling(x)[0])
        True
        >>> z.sum().backward()
        >>> x.grad.shape
        torch.Size([2, 4, 3, 3])
    """
    tape = _Tape()
    for index, (coupling, mixer, unmixer) in enumerate(steps):
        x_BCHW, step_log_det_B = _ReversibleStep.apply(
            tape, index, coupling, unmixer, x_BCHW, *mixer, *coupling.parameters()
        )
        log_det_B = log_det_B + step_log_det_B
    return x_BCHW, log_det_B


class _ReversibleStep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tape: _Tape, index: int, coupling: CouplingLayer, unmixer: Mixer, x_BCHW: Tensor, *weights: Tensor
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
        outputs = {z_BCHW: grad_z}
        if log_det_B.requires_grad:  # that of an additive coupling is constant
            outputs[log_det_B] = grad_log_det
        d_a, d_b, *d_parameters = torch.autograd.grad(tuple(outputs), inputs, tuple(outputs.values()))
        y_BCHW, d_y = join(y_a.detach(), y_b.detach()), join(d_a, d_b)
        x_BCHW = mix(y_BCHW, *ctx.unmixer)
        ctx.tape.put(ctx.index - 1, x_BCHW)
        d_y_CN, x_CN = (t.transpose(0, 1).flatten(1) for t in (d_y, x_BCHW))
        d_x = (matrix.T @ d_y_CN).view(x_BCHW.transpose(0, 1).shape).transpose(0, 1)
        return None, None, None, None, d_x, d_y_CN @ x_CN.T, d_y_CN.sum(1), *d_parameters
