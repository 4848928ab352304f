"""Compare every invertible layer with the autograd Jacobian in float64, with its weights perturbed away from zero."""

from collections.abc import Callable

import pytest
import torch

from glow.config import Scale
from glow.layers import (
    ActNorm,
    Checkerboard,
    CheckerboardCoupling,
    CouplingLayer,
    FixedPermutation,
    InvertibleConv1x1,
    Layer,
    Logit,
    Squeeze,
    Unchanged,
    make_permutation,
)
from glow.layers.actnorm import SD_FLOOR
from glow.layers.coupling_maps import LOG_BOUND
from glow.layers.networks import PlainNetwork, ResidualNetwork, network_kind, weight_and_bias
from tests.glow.flows import jacobian_log_det, perturb

SHAPE = (4, 4, 2)  # channels, height, width: small, and not square


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


LAYERS: dict[str, Callable[[], Layer]] = {
    "actnorm": lambda: ActNorm(4),
    "1x1": lambda: make_permutation("1x1", 4, generator()),
    "shuffle": lambda: make_permutation("shuffle", 4, generator()),
    "reverse": lambda: make_permutation("reverse", 4, generator()),
    "squeeze": Squeeze,
    "affine-sigmoid": lambda: CouplingLayer(4, 8, "affine", "sigmoid"),
    "affine-bounded": lambda: CouplingLayer(4, 8, "affine", "bounded"),
    "affine-floored": lambda: CouplingLayer(4, 8, "affine", "floored"),
    "additive": lambda: CouplingLayer(4, 8, "additive", "sigmoid"),
    "spline": lambda: CouplingLayer(4, 8, "spline", "sigmoid"),
    "affine-residual": lambda: CouplingLayer(4, 8, "affine", "floored", ResidualNetwork),
    "affine-attention": lambda: CouplingLayer(4, 8, "affine", "floored", network_kind("attention", SHAPE[1:], 2)),
    "checkerboard": lambda: Checkerboard(first=1),
    "checkerboard-affine": lambda: CheckerboardCoupling(2, 8, "affine", "bounded", seen=0),
    "checkerboard-spline": lambda: CheckerboardCoupling(2, 8, "spline", "sigmoid", seen=1, network=ResidualNetwork),
    "logit": lambda: Logit(0.05),
    "unchanged": Unchanged,
}


def within(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the point, moved into the domain of a logit."""
    return 0.98 * (x.sigmoid() - 0.5) if isinstance(layer, Logit) else x


@pytest.fixture(params=LAYERS, ids=str)
def layer(request):
    return perturb(LAYERS[request.param]().double())


def test_log_det_is_that_of_the_autograd_jacobian(layer):
    x = within(layer, torch.randn(3, *SHAPE, dtype=torch.float64, generator=generator(1)))
    _, log_det = layer(x)
    assert log_det.shape == (3,)
    for image, expected in zip(x, log_det, strict=True):
        torch.testing.assert_close(jacobian_log_det(lambda v: layer(v)[0], image), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    "x",
    [torch.randn(2, *SHAPE, generator=generator(2)), torch.zeros(2, *SHAPE), torch.full((2, *SHAPE), 50.0)],
    ids=["random", "constant", "extreme"],
)
def test_inverse_undoes_forward(layer, x):
    x = within(layer, x.double())
    torch.testing.assert_close(layer.inverse(layer(x)[0]), x, atol=1e-9, rtol=1e-9)


def test_perturbation_reaches_the_coupling_network():
    """Without perturbation, the tests above would test the identity."""
    coupling = perturb(CouplingLayer(4, 8, "affine", "sigmoid").double())
    x = torch.randn(2, *SHAPE, dtype=torch.float64, generator=generator(3))
    log_det = coupling(x)[1]
    assert (log_det - log_det[0]).abs().max() > 1e-3


def test_actnorm_initialisation_gives_zero_mean_and_unit_variance():
    actnorm = ActNorm(3).double()
    x = torch.randn(8, 3, 5, 5, dtype=torch.float64, generator=generator()) * 7 - 4
    z = actnorm.initialize(x)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(z.var((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64))


def test_actnorm_survives_a_channel_with_no_variance():
    actnorm = ActNorm(2)
    z = actnorm.initialize(torch.full((4, 2, 3, 3), 0.25))
    assert torch.isfinite(z).all()
    torch.testing.assert_close(actnorm.log_scale.exp(), torch.full((2,), 1 / SD_FLOOR))


def test_1x1_starts_as_a_rotation_and_its_weight_mixes_as_documented():
    conv = InvertibleConv1x1(6, generator())
    weight = conv.affine().matrix.detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(6), atol=1e-5, rtol=0)
    x = torch.randn(2, 6, 3, 3, generator=generator(1))
    torch.testing.assert_close(conv(x)[0], torch.einsum("ij,bjhw->bihw", weight, x), atol=1e-5, rtol=1e-5)


def test_1x1_trains_only_what_keeps_it_invertible():
    names = {name for name, _ in InvertibleConv1x1(4, generator()).named_parameters()}
    assert names == {"lower", "upper", "log_s"}


def test_fixed_permutations_move_channels_as_documented():
    x = torch.arange(4.0).view(1, 4, 1, 1)
    assert FixedPermutation(torch.tensor([2, 0, 3, 1]))(x)[0].flatten().tolist() == [2, 0, 3, 1]
    assert make_permutation("reverse", 4, generator())(x)[0].flatten().tolist() == [3, 2, 1, 0]


def of_biases(scale: Scale, shift: float, raw: float) -> CouplingLayer:
    """Make an affine coupling whose network returns a constant shift and raw scale."""
    coupling = CouplingLayer(2, 4, "affine", scale)
    assert isinstance(coupling.network, PlainNetwork)
    _, bias = weight_and_bias(coupling.network.conv3.conv)
    with torch.no_grad():
        bias.copy_(torch.tensor([shift, raw]))
    return coupling


def test_coupling_transforms_the_first_half_from_the_second_with_shift_channels_first():
    coupling = of_biases("sigmoid", shift=0.5, raw=1.0)
    x = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1)
    z, log_det = coupling(x)
    scale = torch.sigmoid(torch.tensor(3.0))
    torch.testing.assert_close(z.flatten(), torch.stack([(3.0 + 0.5) * scale, torch.tensor(-2.0)]))
    torch.testing.assert_close(log_det, scale.log()[None])


@pytest.mark.parametrize("raw", [-1e6, -30.0, 30.0, 1e6])
def test_bounded_scale_never_stretches_by_more_than_its_bound(raw):
    coupling = of_biases("bounded", shift=0.0, raw=raw)
    x = torch.tensor([1.0, 1.0]).view(1, 2, 1, 1)
    back = coupling.inverse(x)
    assert back.abs().max() <= torch.tensor(LOG_BOUND).exp() * (1 + 1e-6)
    assert torch.isfinite(coupling(x)[0]).all()


def test_autocast_touches_the_network_alone():
    coupling = perturb(CouplingLayer(4, 16, "affine", "sigmoid"), 0.2)
    x = torch.randn(2, *SHAPE, generator=generator(5))
    exact, exact_log_det = coupling(x)
    coupling.network.compute_dtype = torch.bfloat16
    z, log_det = coupling(x)
    assert z.dtype == log_det.dtype == torch.float32
    assert not torch.equal(z, exact)  # bf16 was used
    torch.testing.assert_close(log_det, exact_log_det, atol=0.3, rtol=0.02)
    torch.testing.assert_close(z[:, 2:], exact[:, 2:], rtol=0, atol=0)  # the second half is not transformed
