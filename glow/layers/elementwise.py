"""What a coupling does to each number of its first half: a monotone map, whose parameters a network gives.

Shapes: B images, C channels, H height, W width, P parameters of a map.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from glow.config import Coupling, Scale
from glow.layers.base import halves, sum_per_image
from glow.layers.spline import spline, spline_inverse

__all__ = ["LOG_BOUND", "AdditiveMap", "AffineMap", "ElementwiseMap", "SplineMap", "make_elementwise"]

LOG_BOUND = 2.0
"""The bounded scale lies in (exp(-LOG_BOUND), exp(LOG_BOUND)), the floored one in (exp(-LOG_BOUND), 1)."""


class ElementwiseMap(ABC):
    """A map of each number x of a tensor by P parameters of its own.

    ``raw`` (B, P * C, H, W) is what a network gives for ``x`` (B, C, H, W): parameter p of channel c is in channel
    p * C + c. With ``raw`` = 0, as at the start of a training, the map is the identity or close to it.
    """

    parameters: int
    """P."""

    @abstractmethod
    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """x -> (z of the same shape, log-det (B,) in nats)."""

    @abstractmethod
    def inverse(self, z: Tensor, raw: Tensor) -> Tensor:
        """The x whose `forward` is `z`."""


class AdditiveMap(ElementwiseMap):
    """x + t: volume preserving (Dinh et al. 2015)."""

    parameters = 1

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        return x + raw, x.new_zeros(len(x))

    def inverse(self, z: Tensor, raw: Tensor) -> Tensor:
        return z - raw


class AffineMap(ElementwiseMap):
    r"""(x + t) exp(r) (Dinh et al. 2017; Kingma & Dhariwal 2018, table 1). `raw` is t, then s, from which r is

    - ``"sigmoid"``: :math:`\log \mathrm{sigmoid}(s + 2)`, the paper's. It has no lower bound, so the inverse of an
      unusual input can overflow;
    - ``"bounded"``: :math:`2 \tanh(s / 2)`, so that a step stretches by at most :math:`e^2` either way. Deep models
      can diverge by it, since K steps may stretch by :math:`e^{2 K}`;
    - ``"floored"``: :math:`\log(e^{-2} + (1 - e^{-2}) \mathrm{sigmoid}(s + 2))`: forward it only shrinks, as the
      paper's does, and its inverse stretches by at most :math:`e^2`.
    """

    parameters = 2

    def __init__(self, scale: Scale) -> None:
        self._log_scale = LOG_SCALES[scale]

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._shift_and_log_scale(raw)
        return (x + shift) * log_scale.exp(), sum_per_image(log_scale)

    def inverse(self, z: Tensor, raw: Tensor) -> Tensor:
        shift, log_scale = self._shift_and_log_scale(raw)
        return z * (-log_scale).exp() - shift

    def _shift_and_log_scale(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        shift, s = halves(raw)
        return shift, self._log_scale(s)


def _sigmoid(s: Tensor) -> Tensor:
    return F.logsigmoid(s + 2)


def _bounded(s: Tensor) -> Tensor:
    return LOG_BOUND * torch.tanh(s / LOG_BOUND)


def _floored(s: Tensor) -> Tensor:
    return torch.log(_FLOOR + (1 - _FLOOR) * torch.sigmoid(s + 2))


_FLOOR = math.exp(-LOG_BOUND)

LOG_SCALES = {"sigmoid": _sigmoid, "bounded": _bounded, "floored": _floored}


class SplineMap(ElementwiseMap):
    """A rational-quadratic spline of x in [-BOUND, BOUND], and x itself outside (Durkan et al. 2019).

    `raw` is the BINS widths of the bins, their BINS heights, and the BINS - 1 slopes at the knots between.
    """

    BINS = 8
    BOUND = 4.0
    parameters = 3 * BINS - 1

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        z, log_slope = spline(x, self._of_each(raw), self.BOUND)
        return z, sum_per_image(log_slope)

    def inverse(self, z: Tensor, raw: Tensor) -> Tensor:
        return spline_inverse(z, self._of_each(raw), self.BOUND)

    def _of_each(self, raw: Tensor) -> Tensor:
        """(B, P * C, H, W) -> (P, B, C, H, W), without a copy from planes."""
        planes = raw.transpose(0, 1)
        return planes.unflatten(0, (self.parameters, -1)).transpose(1, 2)


def make_elementwise(coupling: Coupling, scale: Scale) -> ElementwiseMap:
    """The map of a coupling of this kind; `scale` is of an affine one."""
    if coupling == "additive":
        return AdditiveMap()
    return SplineMap() if coupling == "spline" else AffineMap(scale)
