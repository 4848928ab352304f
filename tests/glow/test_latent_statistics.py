import numpy as np
import pytest
import torch
from scipy import stats

from glow.latent_statistics import anderson_darling, second_moments, spectrum_variation


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x + 0.5, lambda x: 2 * x, lambda x: x.abs(), lambda x: x**3])
def test_anderson_darling_is_that_of_scipy(change):
    numbers = change(normal(3, 200))
    expected = [
        stats.goodness_of_fit(
            stats.norm, row, known_params={"loc": 0, "scale": 1}, statistic="ad", n_mc_samples=1
        ).statistic
        for row in numbers.double().numpy()
    ]
    np.testing.assert_allclose(anderson_darling(numbers).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("d", [1, 10, 300])
def test_of_noise_the_mean_is_one(d):
    """The limiting distribution has the variance 2 pi^2 / 3 - 6 = 0.58 (Anderson & Darling 1954)."""
    found = anderson_darling(normal(20_000, d)).numpy()
    assert abs(found.mean() - 1) < 5 * found.std() / 20_000**0.5


def test_anderson_darling_does_not_depend_on_the_order():
    numbers = normal(2, 100)
    torch.testing.assert_close(anderson_darling(numbers), anderson_darling(numbers.flip(1)), rtol=1e-12, atol=0)


def test_far_numbers_keep_the_statistic_finite():
    assert torch.isfinite(anderson_darling(torch.tensor([[1e30, -1e30], [0.0, 1e30]]))).all()


def test_the_spectrum_of_noise_varies_by_one():
    """A power follows an exponential distribution, whose standard deviation equals its mean."""
    found = spectrum_variation(normal(2000, 1024)).numpy()
    assert abs(found.mean() - 1) < 0.01


def test_the_spectrum_is_of_the_definition():
    numbers = normal(3, 50).double()
    power = np.abs(np.fft.fft(numbers.numpy())[:, 1:26]) ** 2
    expected = power.std(1) / power.mean(1)
    np.testing.assert_allclose(spectrum_variation(numbers).numpy(), expected, rtol=1e-9)


def test_the_spectrum_does_not_depend_on_location_and_scale():
    numbers = normal(3, 128).double()
    torch.testing.assert_close(spectrum_variation(3 * numbers + 7), spectrum_variation(numbers), rtol=1e-9, atol=0)


def test_a_pattern_that_repeats_varies_more_and_is_told_from_noise():
    wave = (torch.arange(256) / 3).sin()
    assert spectrum_variation(wave + normal(20, 256)).min() > spectrum_variation(normal(200, 256)).max()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_gives_no_number_for_that_image_alone(bad):
    numbers = normal(3, 64)
    numbers[1, 5] = bad
    for statistic in (anderson_darling, spectrum_variation):
        assert torch.isfinite(statistic(numbers)).tolist() == [True, False, True]


def test_no_images_give_no_statistics():
    for statistic in (anderson_darling, spectrum_variation):
        assert statistic(torch.empty(0, 8)).shape == (0,)


def test_of_noise_the_correlation_of_neighbours_is_chi_squared():
    """There is one degree of freedom per level and direction, except along axes of a single number."""
    levels = [normal(4000, 2, 8, 8), normal(4000, 4, 4, 4, seed=1), normal(4000, 8, 1, 1, seed=2)]
    found = second_moments(levels).portmanteau().numpy()
    assert abs(found.mean() - 4) < 5 * found.std() / 4000**0.5 + 0.05
    assert abs((found > stats.chi2(4).ppf(0.95)).mean() - 0.05) < 0.02


def test_neighbours_that_are_alike_are_told_from_noise_in_either_direction_at_any_scale():
    noise = normal(200, 3, 8, 8)
    own = second_moments([noise]).portmanteau()
    for axis in (2, 3):
        alike = noise + 0.7 * noise.roll(1, axis)
        assert second_moments([alike]).portmanteau().median() > own.quantile(0.99)
        torch.testing.assert_close(second_moments([5 * alike]).rows_BL, second_moments([alike]).rows_BL)


def test_one_pair_is_counted_by_its_definition():
    level = torch.tensor([[[[1.0, 2.0], [3.0, -1.0]]]])
    power = (1 + 4 + 9 + 1) / 4
    rows, columns = (1 * 2 + 3 * -1) / 2 / power, (1 * 3 + 2 * -1) / 2 / power
    found = second_moments([level])
    assert (found.power_BL.item(), found.rows_BL.item()) == pytest.approx((power, rows))
    assert found.columns_BL.item() == pytest.approx(columns)
    assert second_moments([level]).portmanteau().item() == pytest.approx(2 * (rows**2 + columns**2))


def test_an_image_that_is_not_finite_leaves_the_others_their_correlation():
    level = normal(3, 2, 4, 4)
    level[1, 0, 0, 0] = float("inf")
    assert torch.isfinite(second_moments([level]).portmanteau()).tolist() == [True, False, True]
