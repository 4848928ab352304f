"""Variational dequantization: noise that a small flow adapts to the image (Ho et al. 2019).

The noise spreads each pixel over the interval of its grey level. `GlowConfig.dequantization = "variational"` replaces
uniform noise by this noise; docs/models.md says what it gains.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glow.layers.base import as_planes, halves, sum_per_image
from glow.layers.networks import MakeNetwork, PlainNetwork
from glow.layers.split import Squeeze

LOG_BOUND = 2.0
"""Bound of the log-scale of the noise: each number is scaled by between exp(-LOG_BOUND) and exp(LOG_BOUND)."""

SMALLEST = 2.0**-25
"""Smallest value of v. At 0 the inverse of the normal distribution function is infinite."""

LARGEST = 1 - 2.0**-24
"""Largest value of v and of u: the float32 number below 1, where that inverse is infinite too."""


class NoiseFlow(nn.Module):
    """A distribution q(u | k) of dequantization noise u in [0, 1) given the image k (Ho et al. 2019, section 3.1).

    The flow turns uniform noise v into u:

        e = Phi^-1(v),  (t, s) = network(image),  y = e exp(2 tanh(s / 2)) + t,  u = Phi(y)

        -log q(u | k) = log |det du/dv| = the sum of (2 tanh(s / 2) + (e^2 - y^2) / 2) over all numbers

    Phi is the standard normal distribution function. `network` is a `CouplingNetwork`; its input, e and y are squeezed
    (`Squeeze`). In a new flow t = s = 0, and u = v.

    Args:
        channels: C, of the images.
        width: hidden channels of the network.
        network: makes the network (`glow.layers.networks`).

    Examples:
        >>> noise_flow = NoiseFlow(channels=1, width=16)
        >>> image, v = torch.zeros(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
        >>> u, log_det = noise_flow(image, v)
        >>> torch.allclose(u, v, atol=1e-5)
        True
        >>> log_det.shape
        torch.Size([2])
    """

    def __init__(
        self,
        channels: int,
        width: int,
        network: MakeNetwork = PlainNetwork,
    ) -> None:
        super().__init__()
        self.squeeze = Squeeze()
        self.network = network(4 * channels, 8 * channels, width)

    def forward(self, image_BCHW: Tensor, v_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Turn uniform noise into noise that depends on the image.

        Args:
            image_BCHW: float (B, C, H, W) in (-0.5, 0.5), the image with each value in the middle of the interval of
                its grey level; H and W are even.
            v_BCHW: float (B, C, H, W), uniform noise in [0, 1).

        Returns:
            u (B, C, H, W) in [0, 1), and log |det du/dv| = -log q(u | image), (B,) in nats.
        """
        image = as_planes(self.squeeze(image_BCHW)[0])
        eps = as_planes(self.squeeze(torch.special.ndtri(v_BCHW.clamp(SMALLEST, LARGEST)))[0])
        shift, raw = halves(self.network(image))
        log_scale = LOG_BOUND * torch.tanh(raw / LOG_BOUND)
        y = eps * log_scale.exp() + shift
        log_det_B = sum_per_image(log_scale + 0.5 * (eps.square() - y.square()))
        return self.squeeze.inverse(torch.special.ndtr(y)).clamp(max=LARGEST), log_det_B
