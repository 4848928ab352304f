"""Coupling layers, the third layer of every flow step, and the convolutional network inside them.

These networks have nearly all weights of a Glow, and take nearly all of its computing time.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glow.config import Coupling, Scale
from glow.layers import products
from glow.layers.base import Layer, halves, join
from glow.layers.elementwise import make_elementwise
from glow.layers.products import three_convolutions, to_planes

__all__ = ["CouplingLayer", "CouplingNetwork", "ZeroConv2d"]

FEW_CHANNELS = {torch.bfloat16: 4, torch.float32: 2}
"""For each compute type, the most input channels with which matrix products outrun the stock convolutions on CPUs."""


def weight_and_bias(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of a convolution that has a bias.

    In torch's type hints the bias of every convolution may be None; here it is always a tensor.
    """
    assert conv.bias is not None
    return conv.weight, conv.bias


class ZeroConv2d(nn.Module):
    """A 3x3 convolution whose output is zero at first, with a learned factor per output channel.

    The output is (weight * x + bias) exp(3 logs), where * is the convolution and x is padded with zeros, so that height
    and width do not change. All three parameters are 0 at first, so that a new coupling is nearly the identity (Kingma
    & Dhariwal 2018, section 3.3; the factor exp(3 logs) is from their code).

    Attributes:
        conv: the `torch.nn.Conv2d` that holds weight and bias.
        logs: parameter (C_out,), a third of the log of each output channel's factor.

    Example:
        >>> conv = ZeroConv2d(in_channels=3, out_channels=6)
        >>> z = conv(torch.randn(2, 3, 8, 8))
        >>> z.shape, z.abs().max().item()
        (torch.Size([2, 6, 8, 8]), 0.0)
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.logs = nn.Parameter(torch.zeros(out_channels))
        for parameter in weight_and_bias(self.conv):
            nn.init.zeros_(parameter)

    def scaled(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias times exp(3 logs); to multiply the output instead would be more work."""
        weight, bias = weight_and_bias(self.conv)
        scale = (3 * self.logs).exp()
        return weight * scale[:, None, None, None], bias * scale

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (weight * x + bias) exp(3 logs), (B, C_out, H, W)."""
        return F.conv2d(x_BCHW, *self.scaled(), padding=1)


class CouplingNetwork(nn.Module):
    """The network of a coupling: 3x3, 1x1 and 3x3 convolutions with ReLU between (Kingma & Dhariwal 2018, section 3.3).

    The last convolution is a `ZeroConv2d`. The weights of the first two are initialized as in He et al. (2015), so that
    the signal keeps its variance at every width. Kingma & Dhariwal draw them with a standard deviation of 0.05, which
    keeps the variance only for units with about 800 inputs. On CPUs `glow.layers.products` computes the convolutions,
    if it is enabled and the network is not compiled by torch.compile.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        width: channels of both hidden layers.

    Attributes:
        compute_dtype: type that the convolutions are computed in; None for the type of the input. The output always has
            the type of the input, so that scales, log-dets and priors keep their precision.

    Example:
        >>> network = CouplingNetwork(in_channels=2, out_channels=4, width=16)
        >>> network.compute_dtype = torch.bfloat16
        >>> z = network(torch.randn(3, 2, 8, 8))
        >>> z.shape, z.dtype
        (torch.Size([3, 4, 8, 8]), torch.float32)
    """

    def __init__(self, in_channels: int, out_channels: int, width: int) -> None:
        super().__init__()
        self.compute_dtype: torch.dtype | None = None
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 1)
        self.conv3 = ZeroConv2d(width, out_channels)
        for conv in (self.conv1, self.conv2):
            weight, bias = weight_and_bias(conv)
            nn.init.kaiming_normal_(weight, nonlinearity="relu")
            nn.init.zeros_(bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the network's output, (B, C_out, H, W), as planes (see `glow.layers.base`)."""
        dtype = self.compute_dtype or x_BCHW.dtype
        parts = (*weight_and_bias(self.conv1), *weight_and_bias(self.conv2), *self.conv3.scaled())
        weights = [part.to(dtype) for part in parts]
        # The compiler fuses operations around stock convolutions, so it gets those.
        on_cpu = x_BCHW.device.type == "cpu" and not torch.compiler.is_compiling()
        if on_cpu and products.enabled():
            by_products = x_BCHW.shape[1] <= FEW_CHANNELS.get(dtype, 0)
            return three_convolutions(x_BCHW.transpose(0, 1), weights, by_products).transpose(0, 1)
        weight1, bias1, weight2, bias2, weight3, bias3 = weights
        hidden = x_BCHW.to(dtype, memory_format=torch.channels_last)
        hidden = F.relu(F.conv2d(hidden, weight1, bias1, padding=1), inplace=True)
        hidden = F.relu(F.conv2d(hidden, weight2, bias2), inplace=True)
        return to_planes(F.conv2d(hidden, weight3, bias3, padding=1), x_BCHW.dtype).transpose(0, 1)


class CouplingLayer(Layer):
    """A coupling layer (Dinh et al. 2017, section 3.3; Kingma & Dhariwal 2018, table 1).

    With x_a and x_b the first and the second half of the channels, z_a = f(x_a; network(x_b)) and z_b = x_b. The map f
    transforms each number separately, with the parameters that the network gives for it. `glow.layers.elementwise`
    defines the kinds of f, and the order of the network's output channels.

    Args:
        channels: C; must be even.
        width: hidden channels of the network.
        coupling: "affine", "additive" or "spline".
        scale: the scale of an affine coupling, "sigmoid", "bounded" or "floored"; the other couplings ignore it.

    Example:
        >>> layer = CouplingLayer(channels=4, width=16, coupling="affine", scale="sigmoid")
        >>> x = torch.randn(2, 4, 8, 8)
        >>> z, log_det = layer(x)
        >>> torch.equal(z[:, 2:], x[:, 2:])
        True
        >>> torch.allclose(layer.inverse(z), x, atol=1e-5)
        True
        >>> [round(value, 2) for value in log_det.tolist()]  # a new layer multiplies 2 * 8 * 8 numbers by sigmoid(2)
        [-16.25, -16.25]
    """

    def __init__(self, channels: int, width: int, coupling: Coupling, scale: Scale) -> None:
        super().__init__()
        half = channels // 2
        self.map = make_elementwise(coupling, scale)
        self.network = CouplingNetwork(channels - half, self.map.parameters * half, width)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return z, (B, C, H, W) as planes, and the log-det (B,) in nats."""
        x_a, x_b = halves(x_BCHW)
        z_a, log_det_B = self.map.forward(x_a, self.network(x_b))
        return join(z_a, x_b), log_det_B

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        """Return x, (B, C, H, W) as planes."""
        z_a, x_b = halves(z_BCHW)
        return join(self.map.inverse(z_a, self.network(x_b)), x_b)

    def again(self, z_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the input from an output, and the output again with an autograd graph, in one pass of the network.

        `glow.reversible` calls this method in the backward pass.

        Args:
            z_BCHW: (B, C, H, W), an output of `forward`.

        Returns:
            x_a and x_b, the halves (B, C/2, H, W) of the input, as leaves of an autograd graph; then z and the log-det
            (B,), as the results of that graph.
        """
        z_a, x_b = (half.detach() for half in halves(z_BCHW))
        x_b.requires_grad_()
        raw = self.network(x_b)
        with torch.no_grad():
            x_a = self.map.inverse(z_a, raw)
        x_a.requires_grad_()
        z_a, log_det_B = self.map.forward(x_a, raw)
        return x_a, x_b, join(z_a, x_b), log_det_B
