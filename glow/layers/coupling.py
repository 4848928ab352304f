"""Coupling layers, the third layer of every flow step.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glow.config import Coupling, Network, Scale
from glow.layers.base import Layer, halves, join
from glow.layers.elementwise import make_elementwise
from glow.layers.networks import make_network

__all__ = ["CouplingLayer"]


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
        network: the kind of the network, "plain" or "residual".

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

    def __init__(self, channels: int, width: int, coupling: Coupling, scale: Scale, network: Network = "plain") -> None:
        super().__init__()
        half = channels // 2
        self.map = make_elementwise(coupling, scale)
        self.network = make_network(network, channels - half, self.map.parameters * half, width)

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
