"""What happens to an image before the first level: learned dequantization noise, and the transform of the pixels.

The first level sees either the value of each pixel (`Unchanged`) or its logit (`Logit`), as `GlowConfig.input` says.
`NoiseFlow` is variational dequantization: a small flow adapts the noise, which spreads each pixel over the interval of
its grey level, to the image. `GlowConfig.dequantization = "variational"` replaces uniform noise by this noise.
docs/models.md says what the logit is good for, and what the noise gains.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glow.config import Network
from glow.layers.base import Layer, as_planes, halves, sum_per_image
from glow.layers.networks import make_network
from glow.layers.split import Squeeze


class Unchanged(Layer):
    """The identity: the first level sees pixels in [-0.5, 0.5] as they are.

    Example:
        >>> x = torch.tensor([-0.5, 0.25]).view(1, 1, 1, 2)
        >>> z, log_det = Unchanged()(x)
        >>> torch.equal(z, x), log_det
        (True, tensor([0.]))
    """

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input, and zeros (B,)."""
        return x_BCHW, x_BCHW.new_zeros(len(x_BCHW))

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        """Return the input."""
        return z_BCHW


class Logit(Layer):
    """The logit of each pixel x in [-0.5, 0.5] (Dinh et al. 2017, section 4.1).

    p = alpha + (1 - 2 alpha) (x + 1/2),  z = log p - log(1 - p),
    log |det| = the sum of (log(1 - 2 alpha) - log p - log(1 - p)) over the pixels.

    Args:
        alpha: between 0 and 1/2. It keeps p within [alpha, 1 - alpha], so that the logits of black and white are
            finite. `Glow` uses 0.001.

    Example:
        >>> logit = Logit(alpha=0.001)
        >>> black_and_white = torch.tensor([-0.5, 0.5]).view(1, 1, 1, 2)
        >>> z, log_det = logit(black_and_white)
        >>> z.flatten()
        tensor([-6.9068,  6.9068])
        >>> torch.allclose(logit.inverse(z), black_and_white, atol=1e-5)
        True
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, (B, C, H, W), and the log-det (B,) in nats."""
        p = self.alpha + (1 - 2 * self.alpha) * (x_BCHW + 0.5)
        z_BCHW = p.log() - (1 - p).log()
        # softplus(z) = -log(1 - p) and softplus(-z) = -log p
        log_slope = math.log(1 - 2 * self.alpha) + F.softplus(z_BCHW) + F.softplus(-z_BCHW)
        return z_BCHW, sum_per_image(log_slope)

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        """Return the pixels x = (sigmoid(z) - alpha) / (1 - 2 alpha) - 1/2.

        If z is not the logit of any pixel, x is outside [-0.5, 0.5].
        """
        return (torch.sigmoid(z_BCHW) - self.alpha) / (1 - 2 * self.alpha) - 0.5


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
        network: the kind of the network, "plain" or "residual".

    Example:
        >>> noise_flow = NoiseFlow(channels=1, width=16)
        >>> image, v = torch.zeros(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
        >>> u, log_det = noise_flow(image, v)
        >>> torch.allclose(u, v, atol=1e-5)
        True
        >>> log_det.shape
        torch.Size([2])
    """

    def __init__(self, channels: int, width: int, network: Network = "plain") -> None:
        super().__init__()
        self.squeeze = Squeeze()
        self.network = make_network(network, 4 * channels, 8 * channels, width)

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
