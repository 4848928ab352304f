"""Coupling layers and the network inside them."""

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
"""With so many or fewer, products outrun the stock convolutions on CPUs."""


def weight_and_bias(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Of a convolution that has a bias, which torch's types leave open."""
    assert conv.bias is not None
    return conv.weight, conv.bias


class ZeroConv2d(nn.Module):
    r"""A 3x3 convolution that starts at zero: :math:`(w * x + b) \exp(3 l)` with :math:`w = b = l = 0` at first
    (Kingma & Dhariwal 2018, section 3.3, and the authors' code for the learned per-channel factor)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.logs = nn.Parameter(torch.zeros(out_channels))
        for parameter in weight_and_bias(self.conv):
            nn.init.zeros_(parameter)

    def scaled(self) -> tuple[Tensor, Tensor]:
        """Weight and bias with the factor in them, which is less work than in the output."""
        weight, bias = weight_and_bias(self.conv)
        scale = (3 * self.logs).exp()
        return weight * scale[:, None, None, None], bias * scale

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.conv2d(x_BCHW, *self.scaled(), padding=1)


class CouplingNetwork(nn.Module):
    """3x3 -> 1x1 -> 3x3 convolutions with ReLU between, `width` hidden channels, the last one a `ZeroConv2d`.

    The hidden layers start as in He et al. (2015), which keeps the signal's variance at every width; the authors'
    N(0, 0.05) does so only where a unit has about 800 inputs.

    (B, C_in, H, W) -> (B, C_out, H, W), planes. With `compute_dtype` set it computes in that type; the output is in the
    input's type all the same, so that scales, log-dets and priors never lose precision. On CPUs the convolutions are
    those of `glow.layers.products`.
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
        dtype = self.compute_dtype or x_BCHW.dtype
        parts = (*weight_and_bias(self.conv1), *weight_and_bias(self.conv2), *self.conv3.scaled())
        weights = [part.to(dtype) for part in parts]
        on_cpu = x_BCHW.device.type == "cpu" and not torch.compiler.is_compiling()  # which fuses around stock ones
        if on_cpu and products.enabled():
            by_products = x_BCHW.shape[1] <= FEW_CHANNELS.get(dtype, 0)
            return three_convolutions(x_BCHW.transpose(0, 1), weights, by_products).transpose(0, 1)
        weight1, bias1, weight2, bias2, weight3, bias3 = weights
        hidden = x_BCHW.to(dtype, memory_format=torch.channels_last)
        hidden = F.relu(F.conv2d(hidden, weight1, bias1, padding=1), inplace=True)
        hidden = F.relu(F.conv2d(hidden, weight2, bias2), inplace=True)
        return to_planes(F.conv2d(hidden, weight3, bias3, padding=1), x_BCHW.dtype).transpose(0, 1)


class CouplingLayer(Layer):
    r"""A coupling (Dinh et al. 2017, section 3.3; Kingma & Dhariwal 2018, table 1).

    With :math:`x_a, x_b` the first and second half of the channels,

    .. math:: z_a = f(x_a; \mathrm{NN}(x_b)), \quad z_b = x_b

    where f maps each number by parameters of its own: see `glow.layers.elementwise` for the kinds of f, and the order
    of the network's output channels.
    """

    def __init__(self, channels: int, width: int, coupling: Coupling, scale: Scale) -> None:
        super().__init__()
        half = channels // 2
        self.map = make_elementwise(coupling, scale)
        self.network = CouplingNetwork(channels - half, self.map.parameters * half, width)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        x_a, x_b = halves(x_BCHW)
        z_a, log_det_B = self.map.forward(x_a, self.network(x_b))
        return join(z_a, x_b), log_det_B

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        z_a, x_b = halves(z_BCHW)
        return join(self.map.inverse(z_a, self.network(x_b)), x_b)

    def again(self, z_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The halves of the input that gave `z_BCHW`, as leaves of a graph, and the output and log-det that it gives:
        all by one pass through the network."""
        z_a, x_b = (half.detach() for half in halves(z_BCHW))
        x_b.requires_grad_()
        raw = self.network(x_b)
        with torch.no_grad():
            x_a = self.map.inverse(z_a, raw)
        x_a.requires_grad_()
        z_a, log_det_B = self.map.forward(x_a, raw)
        return x_a, x_b, join(z_a, x_b), log_det_B
