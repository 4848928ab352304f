"""Monotone rational-quadratic splines, a separate one for each number (Durkan et al. 2019, section 3.1).

`glow.layers.coupling_maps.SplineMap` uses them in coupling layers. These splines are from Gregory & Delbourgo (1982). A
bin begins at a knot (x0, y0), and has width w, height h, slope d0 at its lower end and slope d1 at its upper end. With
q = (x - x0) / w and s = h / w, the spline in this bin is

    z = y0 + h (s q^2 + d0 q (1 - q)) / (s + (d1 + d0 - 2 s) q (1 - q))

Outside (-bound, bound) the spline is the identity. At x = -bound and at x = bound its slope is 1.

A spline of n bins has 3 n - 1 parameters, which can be any real numbers. They are the first axis of the tensor `raw`;
its other axes are those of x. In this order, the parameters give

- n widths of bins: 2 bound (0.02 + (1 - 0.02 n) softmax(raw)), with the softmax over these n parameters
- n heights of bins, by the same formula
- n - 1 slopes at the inner knots: exp(3 tanh(raw / 3))
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LEAST_SIZE = 0.02
"""Smallest width and height of a bin, as a share of 2 bound.

Together with LOG_SLOPE_BOUND it keeps a spline from being so flat that its inverse loses its digits.
"""

LOG_SLOPE_BOUND = 3.0
"""Bound of log-slopes: slopes at knots are in (exp(-LOG_SLOPE_BOUND), exp(LOG_SLOPE_BOUND))."""


class _Bin(NamedTuple):
    """The bin that each number is in: its lower left corner, its size, and the slopes at its ends."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor
    slope: Tensor
    next_slope: Tensor


def spline(x: Tensor, raw: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Apply a spline to each number.

    Args:
        x: float (...).
        raw: float (3 n - 1, ...), the parameters of each number's spline, as the module describes. If all are 0, the
            spline is the identity.
        bound: the spline is the identity outside (-bound, bound).

    Returns:
        z and the natural log of the slope at x, both of the shape of x.

    Examples:
        >>> x = torch.tensor([-1.0, 0.5, 9.0])
        >>> z, log_slope = spline(x, torch.zeros(23, 3), bound=4.0)
        >>> torch.allclose(z, x, atol=1e-6)
        True
        >>> raw = torch.zeros(23, 3)
        >>> raw[8] = 1.0  # the lowest bin is higher, so that all others start higher
        >>> (spline(x, raw, bound=4.0)[0] > x).tolist()
        [True, True, False]
    """
    inside = x.abs() < bound
    held = torch.where(inside, x, 0.0)
    bin_ = _bin_of(held, raw, bound, of_x=True)
    xi = (held - bin_.x) / bin_.width
    z, log_slope = _between(xi, bin_)
    return torch.where(inside, z, x), torch.where(inside, log_slope, 0.0)


def spline_inverse(z: Tensor, raw: Tensor, bound: float) -> Tensor:
    """Return the x whose `spline` is z.

    The function solves a quadratic equation by a numerically stable formula (Durkan et al. 2019, equations 25 to 29).
    Where the spline is flat, the formula takes the square root of a difference that has lost digits, so that the
    solution has only half of its digits. Therefore one step of Newton's method improves the solution.

    Args:
        z: float (...).
        raw: float (3 n - 1, ...), as for `spline`.
        bound: as for `spline`.

    Returns:
        x, of the shape of z.

    Examples:
        >>> x = torch.linspace(-5, 5, 101, dtype=torch.float64)
        >>> raw = torch.randn(23, 101, dtype=torch.float64)
        >>> z, _ = spline(x, raw, bound=4.0)
        >>> torch.allclose(spline_inverse(z, raw, bound=4.0), x)
        True
    """
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


def _between(xi: Tensor, bin_: _Bin) -> tuple[Tensor, Tensor]:
    s = bin_.height / bin_.width
    mixed = xi * (1 - xi)
    below = s + (bin_.next_slope + bin_.slope - 2 * s) * mixed
    z = bin_.y + bin_.height * (s * xi.square() + bin_.slope * mixed) / below
    slope = s.square() * (bin_.next_slope * xi.square() + 2 * s * mixed + bin_.slope * (1 - xi).square())
    return z, slope.log() - 2 * below.log()


def _bin_of(value: Tensor, raw: Tensor, bound: float, of_x: bool) -> _Bin:
    bins = (len(raw) + 1) // 3
    widths, heights, slopes = raw[:bins], raw[bins : 2 * bins], raw[2 * bins :]
    widths, heights = _sizes(widths, bound), _sizes(heights, bound)
    xs, ys = _knots(widths, bound), _knots(heights, bound)
    end = torch.ones_like(slopes[:1])
    slopes = torch.cat([end, (LOG_SLOPE_BOUND * torch.tanh(slopes / LOG_SLOPE_BOUND)).exp(), end])
    index = (value >= (xs if of_x else ys)[1:]).sum(0, keepdim=True)

    def pick(of_all: Tensor, at: Tensor) -> Tensor:
        return of_all.gather(0, at)[0]

    return _Bin(
        x=pick(xs, index),
        y=pick(ys, index),
        width=pick(widths, index),
        height=pick(heights, index),
        slope=pick(slopes, index),
        next_slope=pick(slopes, index + 1),
    )


def _sizes(raw: Tensor, bound: float) -> Tensor:
    """Return the sizes of the bins, which are positive and add up to 2 * bound."""
    return 2 * bound * (LEAST_SIZE + (1 - LEAST_SIZE * len(raw)) * raw.softmax(0))


def _knots(sizes: Tensor, bound: float) -> Tensor:
    """Return the lower ends of the bins."""
    return torch.cat([torch.zeros_like(sizes[:1]), sizes[:-1].cumsum(0)]) - bound
