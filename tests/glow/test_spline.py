"""Rational-quadratic splines: exact both ways, monotone, and the identity outside."""

import pytest
import torch

from glow import Glow, GlowConfig
from glow.layers import CouplingLayer
from glow.layers.coupling_maps import SplineMap
from glow.layers.spline import spline, spline_inverse
from tests.glow.flows import perturb, small_glow

BOUND = 4.0
BINS = 8


def raw(sd: float, points: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return the parameters of the same random spline for every point."""
    one = sd * torch.randn(3 * BINS - 1, 1, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return one.expand(-1, points)


def test_zeros_make_the_identity():
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    z, log_slope = spline(x, raw(0.0, len(x)), BOUND)
    torch.testing.assert_close(z, x, atol=1e-12, rtol=0)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("sd", [0.3, 3.0, 30.0])
def test_it_rises_is_smooth_at_its_ends_and_its_slope_is_the_derivative(sd):
    x = torch.linspace(-6, 6, 2001, dtype=torch.float64, requires_grad=True)
    z, log_slope = spline(x, raw(sd, len(x)), BOUND)
    assert (z.diff() > 0).all()
    (slope,) = torch.autograd.grad(z.sum(), x)
    torch.testing.assert_close(log_slope.exp(), slope, atol=1e-9, rtol=1e-9)
    outside = x.abs() >= BOUND
    assert z[outside].equal(x[outside])
    assert log_slope[outside].abs().max() == 0


@pytest.mark.parametrize("sd", [0.3, 3.0])
def test_its_inverse_is_exact(sd):
    x = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    z, _ = spline(x, raw(sd, len(x)), BOUND)
    torch.testing.assert_close(spline_inverse(z, raw(sd, len(x)), BOUND), x, atol=1e-10, rtol=0)


def test_its_inverse_in_float32_is_off_by_rounding_alone():
    """An error e of z is an error e / slope of x, and z is rounded to eps times its size, which is at most BOUND.

    The factor 16 allows for a few roundings in each.
    """
    x = torch.linspace(-6, 6, 2001)
    z, log_slope = spline(x, raw(1.0, len(x), torch.float32), BOUND)
    error = (spline_inverse(z, raw(1.0, len(x), torch.float32), BOUND) - x).abs()
    eps = torch.finfo(torch.float32).eps
    assert (error <= 16 * BOUND * eps * (1 + (-log_slope).exp())).all()


def test_a_coupling_of_splines_does_not_move_what_is_far_out():
    coupling = perturb(CouplingLayer(4, 8, "spline", "sigmoid"))
    x = torch.full((2, 4, 4, 4), 1e6)
    z, log_det = coupling(x)
    assert z.equal(x)
    assert log_det.abs().max() == 0


def test_parameters_are_in_channels_as_documented():
    raw_BCHW = torch.arange(float(SplineMap.parameters * 2)).view(1, -1, 1, 1)
    of_each = SplineMap()._of_each(raw_BCHW)
    assert of_each.shape == (SplineMap.parameters, 1, 2, 1, 1)
    assert of_each[3, 0, 1].item() == 3 * 2 + 1  # p * C + c


def test_an_image_unlike_all_others_has_finite_scores_and_comes_back():
    glow = small_glow(coupling="spline", depth=8, sd=0.05).double()
    x = torch.full((1, 1, 8, 8), 100.0, dtype=torch.float64)
    latents, log_det = glow(x)
    assert torch.isfinite(log_det).all()
    torch.testing.assert_close(glow.inverse(latents), x, rtol=1e-6, atol=1e-6)


def test_a_glow_of_splines_starts_as_one_of_nothing():
    torch.manual_seed(0)
    x = torch.rand(2, 1, 8, 8) - 0.5
    config = GlowConfig((1, 8, 8), levels=1, depth=1, width=8, coupling="spline", permutation="reverse")
    latents, log_det = Glow(config)(x)
    torch.testing.assert_close(torch.cat(latents).square().sum(), x.square().sum())
    torch.testing.assert_close(log_det, torch.zeros(2), atol=1e-4, rtol=0)
