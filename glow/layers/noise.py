"""The noise of variational dequantisation: a flow over it, given the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glow.layers.base import as_planes, halves, sum_per_image
from glow.layers.coupling import CouplingNetwork
from glow.layers.squeeze import Squeeze

__all__ = ["NoiseFlow"]

LOG_BOUND = 2.0
"""The affine map of the noise scales by a factor in (exp(-LOG_BOUND), exp(LOG_BOUND))."""

SMALLEST = 2.0**-25
LARGEST = 1 - 2.0**-24
"""The numbers next to 0 and 1 that noise is moved to, where the inverse of the normal distribution is infinite."""


class NoiseFlow(nn.Module):
    r"""Noise :math:`u \sim q(u | k)` for an image k out of uniform noise v (Ho et al. 2019, section 3.1).

    With :math:`\Phi` the standard normal distribution function,

    .. math:: u = \Phi(g_k(\Phi^{-1}(v))), \qquad \log q(u | k) = -\log |\det \partial u / \partial v|

    where :math:`g_k` is affine in each number, with shift and scale from a `CouplingNetwork` that sees the image. At
    the start :math:`g_k` is the identity, and u = v.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.squeeze = Squeeze()
        self.network = CouplingNetwork(4 * channels, 8 * channels, width)

    def forward(self, image_BCHW: Tensor, v_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        image = as_planes(self.squeeze(image_BCHW)[0])
        eps = as_planes(self.squeeze(torch.special.ndtri(v_BCHW.clamp(SMALLEST, LARGEST)))[0])
        shift, raw = halves(self.network(image))
        log_scale = LOG_BOUND * torch.tanh(raw / LOG_BOUND)
        y = eps * log_scale.exp() + shift
        log_det_B = sum_per_image(log_scale + 0.5 * (eps.square() - y.square()))
        return self.squeeze.inverse(torch.special.ndtr(y)).clamp(max=LARGEST), log_det_B
