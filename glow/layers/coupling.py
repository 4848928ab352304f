"""Coupling layers: the third layer of every flow step, and couplings at full resolution.

A `CheckerboardCoupling` transforms one colour of a checkerboard of pixels, given the other colour. These couplings come
before the first squeeze, so that their networks see each pixel next to its neighbours. A squeeze spreads the neighbours
over channels. `GlowConfig.checkerboard` is the number of these couplings.

Shapes: B images, C channels, H height, W width, P parameters per number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glow.config import Coupling, Scale
from glow.layers.base import Layer, halves, join
from glow.layers.coupling_maps import make_elementwise
from glow.layers.networks import MakeNetwork, PlainNetwork


class CouplingLayer(Layer):
    """A coupling layer (Dinh et al. 2017, section 3.3; Kingma & Dhariwal 2018, table 1).

    With x_a and x_b the first and the second half of the channels, z_a = f(x_a; network(x_b)) and z_b = x_b. The map f
    transforms each number separately, with the parameters that the network gives for it. `glow.layers.coupling_maps`
    defines the kinds of f, and the order of the network's output channels.

    Args:
        channels: C; must be even.
        width: hidden channels of the network.
        coupling: "affine", "additive" or "spline".
        scale: the scale of an affine coupling, "sigmoid", "bounded" or "floored"; the other couplings ignore it.
        network: makes the network (`glow.layers.networks`).

    Examples:
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

    def __init__(
        self,
        channels: int,
        width: int,
        coupling: Coupling,
        scale: Scale,
        network: MakeNetwork = PlainNetwork,
    ) -> None:
        super().__init__()
        half = channels // 2
        self.map = make_elementwise(coupling, scale)
        self.network = network(channels - half, self.map.parameters * half, width)

    def parameters_given(self, x_b: Tensor) -> Tensor:
        """Return the parameters of the map, (B, P C/2, H, W), given the half that does not change, (B, C/2, H, W)."""
        return self.network(x_b)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return z, (B, C, H, W) as planes, and the log-det (B,) in nats."""
        x_a, x_b = halves(x_BCHW)
        z_a, log_det_B = self.map.forward(x_a, self.parameters_given(x_b))
        return join(z_a, x_b), log_det_B

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        """Return x, (B, C, H, W) as planes."""
        z_a, x_b = halves(z_BCHW)
        return join(self.map.inverse(z_a, self.parameters_given(x_b)), x_b)

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
        raw = self.parameters_given(x_b)
        with torch.no_grad():
            x_a = self.map.inverse(z_a, raw)
        x_a.requires_grad_()
        z_a, log_det_B = self.map.forward(x_a, raw)
        return x_a, x_b, join(z_a, x_b), log_det_B


class Checkerboard(Layer):
    """The separation of the two colours of a checkerboard: (B, C, H, W) -> (B, 2 C, H, W/2).

    A pixel is of colour 0 if its row plus its column is even, else of colour 1. It only reorders numbers, so its
    log-det is 0.

    Args:
        first: the colour, 0 or 1, of the first C channels.

    Examples:
        >>> z, log_det = Checkerboard(first=0)(torch.arange(8.0).view(1, 1, 2, 4))
        >>> z[0, 0]
        tensor([[0., 2.],
                [5., 7.]])
        >>> z[0, 1]
        tensor([[1., 3.],
                [4., 6.]])
    """

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the separated colours, (B, 2 C, H, W/2), and zeros (B,); H and W must be even."""
        rows = x_BCHW.unflatten(2, (-1, 2)).unflatten(4, (-1, 2))  # (B, C, H/2, 2, W/2, 2)
        colours = [
            torch.stack([rows[:, :, :, row, :, (row + colour) % 2] for row in range(2)], 3).flatten(2, 3)
            for colour in (self.first, 1 - self.first)
        ]
        return torch.cat(colours, 1), x_BCHW.new_zeros(x_BCHW.shape[0])

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        """Return the images: (B, 2 C, H, W) -> (B, C, H, 2 W)."""
        ordered = z_BCHW.chunk(2, 1)[:: -1 if self.first else 1]
        colours = [colour.unflatten(2, (-1, 2)) for colour in ordered]  # (B, C, H/2, 2, W)
        rows = [torch.stack([colours[(row + column) % 2][:, :, :, row] for column in range(2)], 4) for row in range(2)]
        return torch.stack(rows, 3).flatten(4, 5).flatten(2, 3)


class CheckerboardCoupling(CouplingLayer):
    """A coupling layer of the colours of a checkerboard (Dinh et al. 2017, section 3.4).

    Its input and output (B, 2 C, H, W/2) have the layout of `Checkerboard`. The first half of the channels is one
    colour, which is transformed, and the second half is the other. The network sees the pixels of the second half in
    their places, and 0 in the places of the first. An additional input channel is 1 where a pixel is seen, and 0
    elsewhere.

    Args:
        channels: C, of the images.
        width: hidden channels of the network.
        coupling: "affine", "additive" or "spline".
        scale: the scale of an affine coupling.
        seen: the colour, 0 or 1, of the second half.
        network: makes the network (`glow.layers.networks`).

    Examples:
        >>> layer = CheckerboardCoupling(channels=1, width=8, coupling="affine", scale="bounded", seen=1)
        >>> board = Checkerboard(first=0)
        >>> x, _ = board(torch.randn(2, 1, 4, 4))
        >>> z, log_det = layer(x)
        >>> z.shape, torch.allclose(layer.inverse(z), x, atol=1e-5)
        (torch.Size([2, 2, 4, 2]), True)
    """

    def __init__(
        self,
        channels: int,
        width: int,
        coupling: Coupling,
        scale: Scale,
        seen: int,
        network: MakeNetwork = PlainNetwork,
    ) -> None:
        super().__init__(2 * channels, width, coupling, scale, network)
        self.network = network(channels + 1, self.map.parameters * channels, width)
        self.board = Checkerboard(first=1 - seen)

    def parameters_given(self, x_b: Tensor) -> Tensor:
        """Return the parameters of the map, (B, P C, H, W/2), given the pixels of the colour that does not change."""
        known = torch.cat([x_b, torch.ones_like(x_b[:, :1])], 1)
        output_BCHW = self.network(self.board.inverse(torch.cat([torch.zeros_like(known), known], 1)))
        return halves(self.board(output_BCHW)[0])[0]
