"""Variational dequantization: the flow of the noise, and the bound that it gives."""

import math

import pytest
import torch

from glow import Glow, GlowConfig, load_checkpoint, save_checkpoint, uniform_noise
from glow.layers import NoiseFlow
from glow.scoring import importance_weighted, score
from tests.glow.flows import jacobian_log_det, perturb, random_images, small_glow

SHAPE = (2, 4, 4)


@pytest.fixture
def flow():
    return perturb(NoiseFlow(2, 8).double())


def images(n: int = 3) -> torch.Tensor:
    return torch.rand(n, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 0.5


def noise(n: int = 3) -> torch.Tensor:
    return 0.05 + 0.9 * torch.rand(n, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_log_det_is_that_of_the_autograd_jacobian(flow):
    image, v = images(), noise()
    u, log_det = flow(image, v)
    assert ((u > 0) & (u < 1)).all()
    assert log_det.abs().min() > 1e-3
    for index in range(3):

        def of_image(w, one=image[index]):
            return flow(one.expand(len(w), *SHAPE), w)[0]

        torch.testing.assert_close(jacobian_log_det(of_image, v[index]), log_det[index], atol=1e-8, rtol=1e-8)


def test_at_the_start_noise_is_uniform():
    flow = NoiseFlow(2, 8)
    u, log_det = flow(images().float(), noise().float())
    torch.testing.assert_close(u, noise().float(), atol=1e-6, rtol=0)
    torch.testing.assert_close(log_det, torch.zeros(3), atol=1e-5, rtol=0)


def test_noise_at_the_ends_stays_finite(flow):
    for end in (0.0, 1.0 - 2**-24):
        u, log_det = flow.float()(images().float(), torch.full((3, *SHAPE), end))
        assert torch.isfinite(u).all()
        assert torch.isfinite(log_det).all()
        assert ((u >= 0) & (u < 1)).all()


def test_the_density_of_the_noise_integrates_to_one():
    """The mean of |du/dv| over uniform v is the volume of all u, 1, within 5 standard errors."""
    flow = perturb(NoiseFlow(1, 4).double(), 0.1)
    v = torch.rand(200_000, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    image = torch.tensor([0.1, -0.4, 0.3, 0.0], dtype=torch.float64).view(1, 1, 2, 2)
    with torch.no_grad():
        slopes = flow(image.expand(len(v), -1, -1, -1), v)[1].exp()
    assert slopes.std() > 0.02
    assert (slopes.mean() - 1).abs() < 5 * slopes.std() / len(v) ** 0.5


def test_a_uniform_glow_has_the_weights_that_it_always_had():
    uniform = Glow(GlowConfig((1, 8, 8), levels=2, depth=2, width=8))
    variational = Glow(GlowConfig((1, 8, 8), levels=2, depth=2, width=8, dequantization="variational"))
    weights = variational.state_dict()
    assert all(weights[name].equal(tensor) for name, tensor in uniform.state_dict().items())
    assert {name.split(".")[0] for name in set(weights) - set(uniform.state_dict())} == {"noise"}
    batch, v = random_images(4), uniform_noise(torch.arange(4), (1, 8, 8))
    torch.testing.assert_close(
        variational.log_prob(batch, noise_BCHW=v), uniform.log_prob(batch, noise_BCHW=v), rtol=1e-5, atol=1e-2
    )


def test_the_bound_counts_the_noise():
    """`log_prob` is the bound log P >= log p(x + u) - log q(u | x), term by term."""
    glow = small_glow(dequantization="variational").double()
    batch, v = random_images(4), uniform_noise(torch.arange(4), (1, 8, 8)).double()
    x, noise_log_det = glow.dequantize(batch, v)
    latents, log_det = glow(x)
    terms = glow.log_prob_terms(batch, noise_BCHW=v)
    torch.testing.assert_close(terms.log_det(), noise_log_det + log_det)
    assert torch.equal(((x + 0.5) * 256).floor().to(torch.uint8), batch)
    assert len(latents) == terms.log_prior_BL.shape[1]


def test_an_empty_batch_is_an_empty_tensor():
    glow = small_glow(dequantization="variational")
    assert glow.log_prob(random_images(0)).shape == (0,)


def test_a_checkpoint_keeps_the_noise(tmp_path):
    glow = small_glow(dequantization="variational")
    save_checkpoint(glow, tmp_path)
    batch, v = random_images(4), uniform_noise(torch.arange(4), (1, 8, 8))
    assert load_checkpoint(tmp_path).log_prob(batch, noise_BCHW=v).equal(glow.log_prob(batch, noise_BCHW=v))


@pytest.mark.slow
def test_learned_noise_makes_a_better_bound():
    """Learned noise saves most of what uniform noise costs a Gaussian model of images of one grey level.

    Such a model fits Gaussian noise best. Uniform noise costs it log2(sqrt(2 pi e / 12)) = 0.254 bits per dimension.
    """
    bits = {}
    for dequantization in ("uniform", "variational"):
        torch.manual_seed(0)
        glow = Glow(GlowConfig((1, 4, 4), levels=1, depth=1, width=8, dequantization=dequantization))
        batch = torch.full((256, 1, 4, 4), 100, dtype=torch.uint8)
        glow.initialize(batch)
        optimizer = torch.optim.Adam(glow.parameters(), lr=1e-2)
        for _ in range(300):
            optimizer.zero_grad()
            glow.bits_per_dim(batch).mean().backward()
            optimizer.step()
        bits[dequantization] = score(glow, batch)["bits_per_dim"].mean()
    assert 0.2 < bits["uniform"] < 0.4
    assert 0 < bits["variational"] < bits["uniform"] - 0.1  # the images are certain, so 0 bits at best


def test_one_noise_sample_is_the_bound_of_one():
    glow = small_glow()
    table = score(glow, random_images(5))
    assert "nll_bound" not in table
    assert importance_weighted(table[["nll"]].to_numpy()).tolist() == pytest.approx(table["nll"].tolist())


@pytest.mark.parametrize("dequantization", ["uniform", "variational"])
def test_more_noise_samples_make_a_tighter_bound(dequantization):
    glow = small_glow(dequantization=dequantization)
    batch = random_images(50)
    one = score(glow, batch, seed=3)
    many = score(glow, batch, seed=3, noise_samples=8, batch_size=7)
    # All columns but the two last ones are those of the first noise sample.
    assert many[list(one)].equals(score(glow, batch, seed=3, batch_size=7)[list(one)])
    assert (many["nll_bound"] < many["nll_of_all"]).all()
    nll = torch.stack([torch.tensor(score(glow, batch, seed=s)["nll"].to_numpy()) for s in _streams(3, 8)], 1)
    expected = -(torch.logsumexp(-nll, 1) - math.log(8))
    assert many["nll_bound"].tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def _streams(seed: int, samples: int) -> list[int]:
    return [seed + (k << 52) for k in range(samples)]


def test_the_bound_goes_to_the_probability_of_an_image():
    """With many noise samples the bound approaches -log P.

    P is the integral of the density over an image's bins, here by a grid over four pixels of two grey levels.
    """
    glow = perturb(Glow(GlowConfig((1, 2, 2), levels=1, depth=1, width=4, bits=1)), 0.4).double()
    batch = torch.tensor([0, 255, 255, 0], dtype=torch.uint8).view(1, 1, 2, 2)
    table = score(glow, batch, noise_samples=1000)
    grid = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    points = torch.cartesian_prod(grid, grid, grid, grid).view(-1, 1, 2, 2)
    log_p = glow.log_prob(batch.expand(len(points), -1, -1, -1), noise_BCHW=points)
    exact = -(torch.logsumexp(log_p, 0) - math.log(len(points))).item()
    assert table["nll_bound"].item() == pytest.approx(exact, abs=0.1)  # about 4 standard errors
    assert table["nll_of_all"].item() > exact + 0.2


@pytest.mark.parametrize("samples", [0, 1001])
def test_too_few_and_too_many_noise_samples_are_refused(samples):
    with pytest.raises(ValueError, match=f"noise_samples.*not {samples}"):
        score(small_glow(), random_images(1), noise_samples=samples)
