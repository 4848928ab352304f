r"""Monotone rational-quadratic splines, of which each number has one of its own (Durkan et al. 2019, section 3.1;
Gregory & Delbourgo 1982).

Between two knots :math:`(x_k, y_k)` and :math:`(x_{k+1}, y_{k+1})` with slopes :math:`d_k, d_{k+1}`, with
:math:`\xi = (x - x_k) / w`, :math:`w = x_{k+1} - x_k`, :math:`h = y_{k+1} - y_k` and :math:`s = h / w`,

.. math:: z = y_k + \frac{h (s \xi^2 + d_k \xi (1 - \xi))}{s + (d_{k+1} + d_k - 2 s) \xi (1 - \xi)}

Outside [-bound, bound] the spline is the identity, and its slope at both ends is 1.

Shapes: n bins, 3 n - 1 parameters of a spline, which are the first dimension; the others are those of x.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["spline", "spline_inverse"]

LEAST_SIZE = 0.02
"""Of a bin's width and height, as a share of the whole. With the next bound it keeps a spline from being so flat that
its inverse loses its digits."""

LOG_SLOPE_BOUND = 3.0
"""Slopes at knots lie in (exp(-LOG_SLOPE_BOUND), exp(LOG_SLOPE_BOUND))."""


class Bin(NamedTuple):
    """The bin that a number is in: its lower left corner, its size, and the slopes at its ends."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor
    slope: Tensor
    next_slope: Tensor


def spline(x: Tensor, raw: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """x -> (z, log of the slope there), elementwise. `raw` (3 n - 1, ...) is the widths, the heights and the inner
    slopes, of any real values; zeros make the identity."""
    inside = x.abs() < bound
    held = torch.where(inside, x, 0.0)
    bin_ = _bin_of(held, raw, bound, of_x=True)
    xi = (held - bin_.x) / bin_.width
    z, log_slope = _between(xi, bin_)
    return torch.where(inside, z, x), torch.where(inside, log_slope, 0.0)


def spline_inverse(z: Tensor, raw: Tensor, bound: float) -> Tensor:
    """The x for which `spline` gives z: the root of a quadratic in its stable form (equations 25 to 29), and a step of
    Newton's method from there, since the root of a difference loses half of the digits where the spline is flat."""
    inside = z.abs() < bound
    held = torch.where(inside, z, 0.0)
    bin_ = _bin_of(held, raw, bound, of_x=False)
    s = bin_.height / bin_.width
    above = held - bin_.y
    bend = bin_.next_slope + bin_.slope - 2 * s
    a = bin_.height * (s - bin_.slope) + above * bend
    b = bin_.height * bin_.slope - above * bend
    c = -s * above
    xi = (2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())).clamp(0, 1)
    found, log_slope = _between(xi, bin_)
    x = bin_.x + xi * bin_.width - (found - held) * (-log_slope).exp()
    return torch.where(inside, x, z)


def _between(xi: Tensor, bin_: Bin) -> tuple[Tensor, Tensor]:
    s = bin_.height / bin_.width
    mixed = xi * (1 - xi)
    below = s + (bin_.next_slope + bin_.slope - 2 * s) * mixed
    z = bin_.y + bin_.height * (s * xi.square() + bin_.slope * mixed) / below
    slope = s.square() * (bin_.next_slope * xi.square() + 2 * s * mixed + bin_.slope * (1 - xi).square())
    return z, slope.log() - 2 * below.log()


def _bin_of(value: Tensor, raw: Tensor, bound: float, of_x: bool) -> Bin:
    bins = (len(raw) + 1) // 3
    widths, heights, slopes = raw[:bins], raw[bins : 2 * bins], raw[2 * bins :]
    widths, heights = _sizes(widths, bound), _sizes(heights, bound)
    xs, ys = _knots(widths, bound), _knots(heights, bound)
    end = torch.ones_like(slopes[:1])
    slopes = torch.cat([end, (LOG_SLOPE_BOUND * torch.tanh(slopes / LOG_SLOPE_BOUND)).exp(), end])
    index = (value >= (xs if of_x else ys)[1:]).sum(0, keepdim=True)

    def pick(of_all: Tensor, at: Tensor) -> Tensor:
        return of_all.gather(0, at)[0]

    return Bin(
        x=pick(xs, index),
        y=pick(ys, index),
        width=pick(widths, index),
        height=pick(heights, index),
        slope=pick(slopes, index),
        next_slope=pick(slopes, index + 1),
    )


def _sizes(raw: Tensor, bound: float) -> Tensor:
    """Positive sizes of bins, which together are 2 * bound."""
    return 2 * bound * (LEAST_SIZE + (1 - LEAST_SIZE * len(raw)) * raw.softmax(0))


def _knots(sizes: Tensor, bound: float) -> Tensor:
    """The lower ends of the bins."""
    return torch.cat([torch.zeros_like(sizes[:1]), sizes[:-1].cumsum(0)]) - bound
