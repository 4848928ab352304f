"""The contract of an invertible layer, and what several layers share."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

__all__ = ["Layer", "sum_per_image"]


class Layer(nn.Module, ABC):
    r"""An invertible map :math:`z = f(x)` with a tractable Jacobian determinant.

    ``forward(x)`` gives ``(z, log_det)``, where ``log_det`` has shape (B,) and holds
    :math:`\log |\det \partial f(x) / \partial x|` of each image in nats; ``inverse(z)`` gives ``x``.
    """

    @abstractmethod
    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def inverse(self, z_BCHW: Tensor) -> Tensor: ...

    def initialize(self, x_BCHW: Tensor) -> Tensor:
        """Sets what depends on data from one batch, and gives the batch's output.

        Called once, by `Glow.initialize`. Most layers have nothing to set.
        """
        return self(x_BCHW)[0]


def sum_per_image(x: Tensor) -> Tensor:
    """(B, ...) -> (B,)"""
    return x.flatten(1).sum(1)
