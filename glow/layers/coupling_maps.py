"""The maps that a coupling layer applies to each number in half of its channels: additive, affine, or a spline.

Every map is monotone. The network of the coupling layer gives separate parameters of the map for each number.

Shapes: B images, C channels, H height, W width, P parameters per number.
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

LOG_BOUND = 2.0
"""Bounded scales are in (exp(-LOG_BOUND), exp(LOG_BOUND)), floored ones in (exp(-LOG_BOUND), 1)."""


class ElementwiseMap(ABC):
    """A map of each number of a tensor x, with P parameters for each.

    The parameters of x (B, C, H, W) are one tensor `raw` (B, P C, H, W), the output of a network: parameter p of
    channel c is in channel p C + c. With raw = 0, as at the start of training, the map is the identity or close to it.

    Examples:
        >>> class Stretch(ElementwiseMap):
        ...     parameters = 1
        ...     def forward(self, x, raw):
        ...         return x * raw.exp(), sum_per_image(raw)
        ...     def inverse(self, z, raw):
        ...         return z * (-raw).exp()
        >>> x, raw = torch.ones(1, 2, 1, 1), torch.tensor([0.0, 0.5]).view(1, 2, 1, 1)
        >>> z, log_det = Stretch().forward(x, raw)
        >>> z.flatten(), log_det
        (tensor([1.0000, 1.6487]), tensor([0.5000]))
    """

    parameters: int
    """P, the number of parameters per number of x."""

    @abstractmethod
    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Map x, and return the log-det of the map for each image.

        Args:
            x: float (B, C, H, W).
            raw: float (B, P C, H, W).

        Returns:
            z, (B, C, H, W), and the log-det, (B,) in nats.
        """

    @abstractmethod
    def inverse(self, z: Tensor, raw: Tensor) -> Tensor:
        """Return the x (B, C, H, W) whose `forward` with the same `raw` is `z`."""


class AdditiveMap(ElementwiseMap):
    """The map x + t, which preserves volume (Dinh et al. 2015). `raw` is t.

    Examples:
        >>> x, t = torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 3.0)
        >>> z, log_det = AdditiveMap().forward(x, t)
        >>> z.flatten(), log_det
        (tensor([4., 4., 4., 4.]), tensor([0.]))
    """

    parameters = 1

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return x + t, and zeros (B,)."""
        return x + raw, x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, raw: Tensor) -> Tensor:
        """Return z - t."""
        return z - raw


class AffineMap(ElementwiseMap):
    """The map (x + t) exp(r) (Dinh et al. 2017; Kingma & Dhariwal 2018, table 1).

    The first half of the channels of `raw` is t, the second half is s. The log-scale r is one of:

    - "sigmoid": log sigmoid(s + 2), as in the code of Kingma & Dhariwal. The map only shrinks. r has no lower bound, so
      that the inverse of an unusual input can overflow.
    - "bounded": 2 tanh(s / 2). A step multiplies by a factor between e^-2 and e^2, so that K steps together can
      multiply by up to e^(2 K). This can make deep models diverge.
    - "floored": log(e^-2 + (1 - e^-2) sigmoid(s + 2)). The map only shrinks, and its inverse multiplies by at most e^2.

    Args:
        scale: "sigmoid", "bounded" or "floored".

    Examples:
        >>> x, raw = torch.ones(1, 1, 1, 1), torch.zeros(1, 2, 1, 1)
        >>> for scale in ("sigmoid", "bounded", "floored"):
        ...     z, log_det = AffineMap(scale).forward(x, raw)
        ...     print(f"{scale}: {z.item():.3f}")
        sigmoid: 0.881
        bounded: 1.000
        floored: 0.897
    """

    parameters = 2

    def __init__(self, scale: Scale) -> None:
        self._log_scale = LOG_SCALES[scale]

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x + t) exp(r), and the sum of r over each image, (B,)."""
        shift, log_scale = self._shift_and_log_scale(raw)
        return (x + shift) * log_scale.exp(), sum_per_image(log_scale)

    def inverse(self, z: Tensor, raw: Tensor) -> Tensor:
        """Return z exp(-r) - t."""
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
    """A monotone rational-quadratic spline of x in (-4, 4), and x itself outside (Durkan et al. 2019).

    For each number, `raw` has 8 parameters for the widths of the bins, 8 for their heights, and 7 for the slopes at the
    knots between them, in this order. `glow.layers.spline` turns them into a spline.

    Attributes:
        BINS: number of bins.
        BOUND: the spline is the identity outside [-BOUND, BOUND].

    Examples:
        >>> spline_map = SplineMap()
        >>> x = torch.linspace(-5, 5, 3).view(1, 1, 1, 3)
        >>> raw = torch.linspace(-1, 1, spline_map.parameters).view(1, -1, 1, 1).expand(1, -1, 1, 3)
        >>> z, log_det = spline_map.forward(x, raw)
        >>> z[..., 0].item(), z[..., 2].item()  # outside
        (-5.0, 5.0)
        >>> torch.allclose(spline_map.inverse(z, raw), x, atol=1e-5)
        True
    """

    BINS = 8
    BOUND = 4.0
    parameters = 3 * BINS - 1

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return the spline of x, and the sum of the log-slopes over each image, (B,)."""
        z, log_slope = spline(x, self._of_each(raw), self.BOUND)
        return z, sum_per_image(log_slope)

    def inverse(self, z: Tensor, raw: Tensor) -> Tensor:
        """Return the x whose spline is z."""
        return spline_inverse(z, self._of_each(raw), self.BOUND)

    def _of_each(self, raw: Tensor) -> Tensor:
        """Return (B, P C, H, W) as (P, B, C, H, W); planes are not copied."""
        planes = raw.transpose(0, 1)
        return planes.unflatten(0, (self.parameters, -1)).transpose(1, 2)


def make_elementwise(coupling: Coupling, scale: Scale) -> ElementwiseMap:
    """Make the map of a coupling layer.

    Args:
        coupling: "additive", "affine" or "spline".
        scale: the scale of an affine map, "sigmoid", "bounded" or "floored"; the other maps ignore it.

    Returns:
        The map, which has no weights.

    Examples:
        >>> [make_elementwise(kind, "sigmoid").parameters for kind in ("additive", "affine", "spline")]
        [1, 2, 23]
    """
    if coupling == "additive":
        return AdditiveMap()
    return SplineMap() if coupling == "spline" else AffineMap(scale)
