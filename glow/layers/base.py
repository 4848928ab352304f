"""The contract of an invertible layer, and what several layers share."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

__all__ = ["Layer", "as_planes", "halves", "join", "sum_per_image"]


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


def as_planes(x_BCHW: Tensor) -> Tensor:
    """The same with (C, B, H, W) in memory, so that a channel of all images is one run: halves of the channels, their
    concatenation and their mixture by a matrix then need no copy of single numbers, on CPUs and GPUs."""
    return x_BCHW.transpose(0, 1).contiguous().transpose(0, 1)


def halves(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second half of the channels: views, planes if `x_BCHW` is."""
    first, second = x_BCHW.transpose(0, 1).chunk(2)
    return first.transpose(0, 1), second.transpose(0, 1)


def join(first: Tensor, second: Tensor) -> Tensor:
    """The channels of both, as planes."""
    return torch.cat([first.transpose(0, 1), second.transpose(0, 1)]).transpose(0, 1)


def sum_per_image(x: Tensor) -> Tensor:
    """(B, ...) -> (B,)"""
    return x.sum(tuple(range(1, x.dim())))
