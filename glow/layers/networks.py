"""The networks in couplings, which have nearly all weights of a Glow and take nearly all of its time.

`GlowConfig.network` names the kind, and `network_kind` returns what makes it.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glow.config import Network
from glow.layers import products
from glow.layers.products import three_convolutions, to_planes

FEW_CHANNELS = {torch.bfloat16: 4, torch.float32: 2}
"""For each compute type, the most input channels with which matrix products outrun the stock convolutions on CPUs."""


def weight_and_bias(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of a convolution that has a bias.

    In torch's type hints the bias of every convolution may be None; here it is always a tensor.

    Examples:
        >>> [part.shape for part in weight_and_bias(nn.Conv2d(2, 4, 3))]
        [torch.Size([4, 2, 3, 3]), torch.Size([4])]
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

    Examples:
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
    """Base class of the networks: (B, C_in, H, W) -> (B, C_out, H, W).

    Their last convolution is a `ZeroConv2d`. The weights of the others are initialized as in He et al. (2015), so that
    the signal keeps its variance at every width. Kingma & Dhariwal draw them with a standard deviation of 0.05, which
    keeps the variance only for units with about 800 inputs.

    Attributes:
        compute_dtype: type that the convolutions are computed in; None for the type of the input. The output always has
            the type of the input, so that scales, log-dets and priors keep their precision.

    Examples:
        >>> network = ResidualNetwork(in_channels=2, out_channels=4, width=16)
        >>> network.compute_dtype = torch.bfloat16
        >>> z = network(torch.randn(3, 2, 8, 8))
        >>> z.shape, z.dtype
        (torch.Size([3, 4, 8, 8]), torch.float32)
    """

    def __init__(self) -> None:
        super().__init__()
        self.compute_dtype: torch.dtype | None = None

    def weights(self, dtype: torch.dtype, *convs: nn.Conv2d, last: ZeroConv2d) -> list[Tensor]:
        """Return weight and bias of each convolution in turn, in the given type; those of `last` with its factors."""
        parts = [part for conv in convs for part in weight_and_bias(conv)]
        return [part.to(dtype) for part in (*parts, *last.scaled())]


class PlainNetwork(CouplingNetwork):
    """3x3, 1x1 and 3x3 convolutions with ReLU between (Kingma & Dhariwal 2018, section 3.3).

    On CPUs `glow.layers.products` computes the convolutions, if it is enabled and the network is not compiled by
    torch.compile.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        width: channels of both hidden layers.

    Examples:
        >>> network = PlainNetwork(in_channels=2, out_channels=4, width=16)
        >>> network(torch.randn(3, 2, 8, 8)).shape
        torch.Size([3, 4, 8, 8])
    """

    def __init__(self, in_channels: int, out_channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 1)
        self.conv3 = ZeroConv2d(width, out_channels)
        _keep_variance(self.conv1, self.conv2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the network's output, (B, C_out, H, W), as planes (see `glow.layers.base`)."""
        dtype = self.compute_dtype or x_BCHW.dtype
        weights = self.weights(dtype, self.conv1, self.conv2, last=self.conv3)
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


class ResidualNetwork(CouplingNetwork):
    """A 3x3 convolution, a residual block of a 3x3 and a 1x1 convolution, and a 3x3 convolution.

    The output is conv4(relu(h + conv3(relu(conv2(relu(h)))))) with h = conv1(x). Dinh et al. (2017, section 4.1) use
    such networks, with blocks as in He et al. (2016). The weights of conv3 are initially a tenth of those that keep the
    variance, so that a new block is nearly the identity.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        width: channels of the hidden layers.

    Examples:
        >>> network = ResidualNetwork(in_channels=2, out_channels=4, width=16)
        >>> network(torch.randn(3, 2, 8, 8)).shape
        torch.Size([3, 4, 8, 8])
    """

    def __init__(self, in_channels: int, out_channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, width, 1)
        self.conv4 = ZeroConv2d(width, out_channels)
        _keep_variance(self.conv1, self.conv2, self.conv3)
        with torch.no_grad():
            self.conv3.weight *= 0.1

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the network's output, (B, C_out, H, W), as planes (see `glow.layers.base`)."""
        dtype = self.compute_dtype or x_BCHW.dtype
        weights = self.weights(dtype, self.conv1, self.conv2, self.conv3, last=self.conv4)
        weight1, bias1, weight2, bias2, weight3, bias3, weight4, bias4 = weights
        h = F.conv2d(x_BCHW.to(dtype, memory_format=torch.channels_last), weight1, bias1, padding=1)
        hidden = F.relu(F.conv2d(F.relu(h), weight2, bias2, padding=1), inplace=True)
        hidden = F.relu(h + F.conv2d(hidden, weight3, bias3), inplace=True)
        return to_planes(F.conv2d(hidden, weight4, bias4, padding=1), x_BCHW.dtype).transpose(0, 1)


class AttentionNetwork(CouplingNetwork):
    """A 3x3 convolution, a block of a vision transformer whose tokens are the positions, and a 3x3 convolution.

    The output is conv2(block(conv1(x) + positions)), with a learned vector for each position. The block is torch's:
    self-attention over all positions, then an MLP of four times the width, each after a LayerNorm and with a residual
    connection (Dosovitskiy et al. 2021, section 3.1). Kolesnikov et al. (2024) use such blocks in couplings.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        width: channels of the hidden layers.
        size: (H, W) of the input.
        heads: number of attention heads, which must divide the width.

    Examples:
        >>> network = AttentionNetwork(in_channels=2, out_channels=4, width=16, size=(8, 8), heads=4)
        >>> network(torch.randn(3, 2, 8, 8)).shape
        torch.Size([3, 4, 8, 8])
    """

    def __init__(self, in_channels: int, out_channels: int, width: int, size: tuple[int, int], heads: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1)
        self.positions = nn.Parameter(torch.empty(width, *size).normal_(std=0.02))
        self.block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.conv2 = ZeroConv2d(width, out_channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the network's output, (B, C_out, H, W)."""
        dtype = self.compute_dtype or x_BCHW.dtype
        kind = x_BCHW.device.type
        mixed = dtype == torch.bfloat16 and torch.amp.is_autocast_available(kind)  # a meta tensor has no autocast
        with torch.autocast(kind, torch.bfloat16) if mixed else nullcontext():  # norms and softmax stay in float32
            hidden_BWHW = self.conv1(x_BCHW) + self.positions
            tokens_BNW = self.block(hidden_BWHW.flatten(2).transpose(1, 2))
        return self.conv2(tokens_BNW.transpose(1, 2).unflatten(2, x_BCHW.shape[2:]).to(x_BCHW.dtype))


def _keep_variance(*convs: nn.Conv2d) -> None:
    """Initialize convolutions before a ReLU as in He et al. (2015), and their biases with 0."""
    for conv in convs:
        weight, bias = weight_and_bias(conv)
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
        nn.init.zeros_(bias)


MakeNetwork = Callable[[int, int, int], CouplingNetwork]
"""What makes a network with new weights: C_in, C_out, width -> the network. The classes of networks are such functions.
"""


def network_kind(network: Network, size: tuple[int, int], heads: int) -> MakeNetwork:
    """Return what makes the networks of a kind.

    Args:
        network: "plain", "residual" or "attention".
        size: (H, W) of the input, which only networks with attention depend on.
        heads: number of their attention heads.

    Examples:
        >>> make_network = network_kind("attention", size=(8, 8), heads=4)
        >>> type(make_network(2, 4, 16)).__name__
        'AttentionNetwork'
    """
    kinds: dict[Network, MakeNetwork] = {
        "plain": PlainNetwork,
        "residual": ResidualNetwork,
        "attention": partial(AttentionNetwork, size=size, heads=heads),
    }
    return kinds[network]
