"""The interface of an invertible layer, and the tensor operations that several layers share.

Read `Layer` first to write a layer or to use one alone.

Shapes: B images in a batch, C channels, H height, W width. *Planes* are a tensor of shape (B, C, H, W) whose memory is
in the order (C, B, H, W), so that one channel of all images is contiguous. To take half of the channels, to concatenate
channels, or to multiply the channels by a matrix then copies long runs of memory or nothing at all, on CPUs and GPUs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Layer(nn.Module, ABC):
    """An invertible map z = f(x) whose Jacobian determinant is cheap to compute.

    A flow computes densities by the change of variables: log p(x) = log p(z) + log |det df(x)/dx|. A subclass defines
    `forward` and `inverse`, and `initialize` if a batch of data sets some of its parameters before training.

    Examples:
        >>> import math
        >>> class Double(Layer):
        ...     def forward(self, x_BCHW):
        ...         log_det = x_BCHW[0].numel() * math.log(2)
        ...         return 2 * x_BCHW, torch.full((len(x_BCHW),), log_det)
        ...     def inverse(self, z_BCHW):
        ...         return z_BCHW / 2
        >>> z, log_det = Double()(torch.ones(3, 1, 4, 4))
        >>> log_det
        tensor([11.0904, 11.0904, 11.0904])
    """

    @abstractmethod
    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Map images, and return the log-det of the map at each image.

        Args:
            x_BCHW: float (B, C, H, W).

        Returns:
            z, of the layer's output shape, and log_det, float (B,): log |det df(x)/dx| of each image in nats.
        """

    @abstractmethod
    def inverse(self, z_BCHW: Tensor) -> Tensor:
        """Return the x (B, C, H, W) whose `forward` is `z_BCHW`."""

    def initialize(self, x_BCHW: Tensor) -> Tensor:
        """Set parameters from one batch of data, and return the output for this batch.

        Most layers have no such parameters, and only return the output. `Glow.initialize` calls this method of every
        layer, in the order in which an image passes through them.
        """
        return self(x_BCHW)[0]


def as_planes(x_BCHW: Tensor) -> Tensor:
    """Return the same tensor with memory in the order (C, B, H, W).

    Args:
        x_BCHW: (B, C, H, W) in any memory order; copied unless its memory is in that order already.

    Returns:
        (B, C, H, W), equal to the input.

    Examples:
        >>> x = as_planes(torch.rand(2, 3, 4, 4))
        >>> x.shape, x.stride()
        (torch.Size([2, 3, 4, 4]), (16, 32, 4, 1))
    """
    return x_BCHW.transpose(0, 1).contiguous().transpose(0, 1)


def halves(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the second half of the channels.

    Args:
        x_BCHW: (B, C, H, W); if C is odd, the first half has one channel more.

    Returns:
        Two views (B, C/2, H, W). If `x_BCHW` is stored as planes, the views are too.

    Examples:
        >>> first, second = halves(torch.arange(4).view(1, 4, 1, 1))
        >>> first.flatten().tolist(), second.flatten().tolist()
        ([0, 1], [2, 3])
    """
    first, second = x_BCHW.transpose(0, 1).chunk(2)
    return first.transpose(0, 1), second.transpose(0, 1)


def join(first: Tensor, second: Tensor) -> Tensor:
    """Concatenate the channels of two tensors into planes; the opposite of `halves`.

    Args:
        first: (B, C1, H, W).
        second: (B, C2, H, W).

    Returns:
        (B, C1 + C2, H, W), as planes.

    Examples:
        >>> x = torch.rand(2, 4, 3, 3)
        >>> torch.equal(join(*halves(x)), x)
        True
    """
    return torch.cat([first.transpose(0, 1), second.transpose(0, 1)]).transpose(0, 1)


def sum_per_image(x: Tensor) -> Tensor:
    """Sum over all axes but the first: (B, ...) -> (B,).

    Examples:
        >>> sum_per_image(torch.ones(2, 3, 4, 4))
        tensor([48., 48.])
    """
    return x.sum(tuple(range(1, x.dim())))
