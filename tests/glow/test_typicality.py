"""The typicality test on simulated scores, whose truth is known."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

from glow.ood import TypicalityTest, calibration

# Distributions of the mean of M scores, which are standard normal, or gamma of shape 2 and mean 2.
MEANS = {
    "normal": lambda m: stats.norm(scale=m**-0.5),
    "gamma": lambda m: stats.gamma(2 * m, scale=1 / m),
}


def draw(kind, rng, *size):
    return rng.normal(size=size) if kind == "normal" else rng.gamma(2, size=size)


def chance_of_ood(test, kind="normal", shift=0.0):
    """The exact probability that a batch of shifted scores is called OOD."""
    mean, center, epsilon = MEANS[kind](test.batch_size), test.center - shift, test.threshold.value
    return mean.sf(center + epsilon) + mean.cdf(center - epsilon)


def true_threshold(kind, m, alpha):
    mean = MEANS[kind](m)
    if kind == "normal":
        return stats.halfnorm.ppf(alpha, scale=m**-0.5)
    return optimize.brentq(lambda e: mean.cdf(mean.mean() + e) - mean.cdf(mean.mean() - e) - alpha, 0, 40)


@pytest.fixture
def no_intervals(monkeypatch):
    """Bootstrap intervals of thresholds from two resamples, for speed."""
    monkeypatch.setattr(calibration, "RESAMPLES", 2)


def assert_is_mean_of(values, expected):
    assert abs(np.mean(values) - expected) < 4 * stats.sem(values) + 1e-9


@pytest.mark.slow
@pytest.mark.usefixtures("no_intervals")
@pytest.mark.parametrize("kind", MEANS)
@pytest.mark.parametrize("alpha", [0.9, 0.99])
@pytest.mark.parametrize("m", [1, 2, 10])
def test_fitted_tests_call_one_less_alpha_of_in_distribution_batches_ood(m, alpha, kind):
    rates = []
    for seed in range(60):
        rng = np.random.default_rng([seed, m])
        train, validation = draw(kind, rng, 20_000), draw(kind, rng, 5000)
        rates.append(chance_of_ood(TypicalityTest.fit(train, validation, m, alpha, seed=seed), kind))
    assert_is_mean_of(rates, 1 - alpha)


@pytest.mark.parametrize("kind", MEANS)
@pytest.mark.parametrize(("alpha", "n", "rank"), [(0.99, 99, 99), (0.99, 150, 150), (0.99, 250, 249), (0.9, 10, 10)])
def test_single_images_keep_the_conformal_guarantee_with_few_validation_scores(alpha, n, rank, kind):
    """The threshold is the distance of rank ceil(alpha (n + 1)).

    A new distance exceeds it with a probability of 1 - rank / (n + 1) on average, which is at most 1 - alpha.
    """
    rates = []
    for seed in range(400):
        rng = np.random.default_rng([seed, n])
        train, validation = draw(kind, rng, 200), draw(kind, rng, n)
        test = TypicalityTest.fit(train, validation, 1, alpha)
        assert test.threshold.value == np.sort(np.abs(validation - train.mean()))[rank - 1]
        rates.append(chance_of_ood(test, kind))
    assert 1 - rank / (n + 1) <= 1 - alpha
    assert_is_mean_of(rates, 1 - rank / (n + 1))


@pytest.mark.parametrize(
    ("m", "alpha", "kind", "n"), [(1, 0.9, "gamma", 1000), (1, 0.99, "normal", 1000), (4, 0.9, "normal", 300)]
)
def test_the_true_threshold_lies_in_the_interval_95_percent_of_the_time_or_more(m, alpha, kind, n):
    simulations, covered, values, widths = 120, 0, [], []
    center, true = MEANS[kind](1).mean(), true_threshold(kind, m, alpha)
    for seed in range(simulations):
        rng = np.random.default_rng([seed, m])
        threshold = TypicalityTest.fit(np.full(5, center), draw(kind, rng, n), m, alpha, 2000, seed).threshold
        assert threshold.low <= threshold.value <= threshold.high
        covered += threshold.low <= true <= threshold.high
        values.append(threshold.value)
        widths.append(threshold.high - threshold.low)
    assert stats.binomtest(covered, simulations, 0.95, alternative="less").pvalue > 1e-3
    # The interval is not needlessly wide, either.
    assert 0.75 < np.mean(widths) / (2 * 1.96 * np.std(values)) < 1.25


def test_too_few_validation_scores_to_bound_a_threshold_leave_it_unbounded():
    """The true 0.99-quantile lies above all of 99 scores with probability 0.99^99 = 0.37, of 400 with 0.018."""
    scores = np.random.default_rng(0).normal(size=400)
    assert TypicalityTest.fit(scores, scores[:99], 1, 0.99).threshold.high == math.inf
    assert math.isfinite(TypicalityTest.fit(scores, scores, 1, 0.99).threshold.high)


@pytest.mark.usefixtures("no_intervals")
@pytest.mark.parametrize("kind", MEANS)
@pytest.mark.parametrize("m", [1, 2, 10])
def test_the_threshold_is_the_quantile_of_the_sampling_distribution(m, kind):
    rng = np.random.default_rng(0)
    test = TypicalityTest.fit(draw(kind, rng, 200_000), draw(kind, rng, 200_000), m, 0.9, 200_000)
    assert test.threshold.value == pytest.approx(true_threshold(kind, m, 0.9), rel=0.015)


@pytest.mark.usefixtures("no_intervals")
@pytest.mark.parametrize("shift", [-0.7, 0.4])
@pytest.mark.parametrize("m", [1, 5, 25])
def test_power_against_a_shift_is_the_analytic_one(m, shift):
    rng = np.random.default_rng(1)
    test = TypicalityTest.fit(rng.normal(size=100_000), rng.normal(size=50_000), m, 0.95, 50_000)
    found = np.count_nonzero(test.is_ood(rng.normal(shift, size=(10_000, m))))
    # A two-sided z test with known variance has this power.
    epsilon = stats.norm.ppf(0.975)
    power = stats.norm.sf(epsilon - shift * m**0.5) + stats.norm.cdf(-epsilon - shift * m**0.5)
    assert found / 10_000 == pytest.approx(power, abs=0.025)
    assert stats.binomtest(found, 10_000, chance_of_ood(test, shift=shift)).pvalue > 1e-3


@pytest.mark.usefixtures("no_intervals")
@pytest.mark.parametrize(
    ("bootstraps", "low", "high", "spread"), [(50, 0.022, 0.031, (0.015, 0.035)), (10_000, 0.0095, 0.0108, (0, 0.003))]
)
def test_fifty_bootstraps_are_too_few_for_a_rate_of_1_percent(bootstraps, low, high, spread):
    rng = np.random.default_rng(0)
    train, validation = rng.normal(size=50_000), rng.normal(size=20_000)
    rates = [
        chance_of_ood(TypicalityTest.fit(train, validation, 5, 0.99, bootstraps, seed, exact=False))
        for seed in range(300)
    ]
    assert low < np.mean(rates) < high
    assert spread[0] <= np.std(rates) < spread[1]


@pytest.mark.usefixtures("no_intervals")
def test_a_center_from_validation_finds_what_a_generalisation_gap_hides():
    """Training images score 0.5 lower, so batches that are 0.5 too low lie at the centre of the training images."""
    rng = np.random.default_rng(0)
    train, validation = rng.normal(-0.5, size=50_000), rng.normal(size=20_000)
    from_train, from_validation = (
        TypicalityTest.fit(train, validation, 100, center=center) for center in ("train", "validation")
    )
    assert chance_of_ood(from_train) == pytest.approx(0.01, abs=0.005)
    assert chance_of_ood(from_validation) == pytest.approx(0.01, abs=0.005)
    assert chance_of_ood(from_train, shift=-0.5) < 0.01
    assert chance_of_ood(from_validation, shift=-0.5) > 0.98
    assert from_validation.threshold.value < 0.5 * from_train.threshold.value


def test_the_centers_are_the_means():
    rng = np.random.default_rng(0)
    train, validation = rng.normal(size=300), rng.normal(1, size=200)
    assert TypicalityTest.fit(train, validation, 1).center == pytest.approx(train.mean())
    assert TypicalityTest.fit(train, validation, 1, center="validation").center == pytest.approx(validation.mean())


def small_test(m=2, **changes):
    rng = np.random.default_rng(0)
    return TypicalityTest.fit(rng.normal(size=500), rng.normal(size=400), m, 0.95, 500, **changes)


def test_a_batch_at_the_threshold_passes_and_one_beyond_it_is_ood_on_either_side():
    test = TypicalityTest(2, 0.9, calibration.Threshold(0.5, 0.4, 0.6), center=3.0)
    batches = np.array([[3.0, 4.0], [3.0, 4.1], [3.0, 2.0], [3.0, 1.9], [-90.0, 96.0]])
    np.testing.assert_allclose(test.statistic(batches), [0.5, 0.55, 0.5, 0.55, 0])
    assert test.is_ood(batches).tolist() == [False, True, False, True, False]


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("m", [1, 2, 5])
def test_a_batch_with_a_score_that_is_not_finite_is_ood(m, bad):
    batches = np.zeros((4, m))
    batches[1, 0] = batches[2, :] = bad
    assert small_test(m).is_ood(batches).tolist() == [False, True, True, False]


def test_infinities_of_both_signs_are_ood_without_a_warning():
    assert small_test().is_ood(np.array([[math.inf, -math.inf], [0.0, 0.0]])).tolist() == [True, False]


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("m", [1, 2, 5])
def test_some_validation_scores_that_are_not_finite_leave_a_test_that_tells(m, bad):
    """They count as larger than all others, so that the threshold can rise but not fall."""
    rng = np.random.default_rng(0)
    train, validation = rng.normal(size=5000), rng.normal(size=1000)
    dirty = validation.copy()
    dirty[:5] = bad
    clean_test, test = (TypicalityTest.fit(train, scores, m, 0.95, 2000) for scores in (validation, dirty))
    assert clean_test.threshold.value <= test.threshold.value < 1.5 * clean_test.threshold.value
    assert not test.is_ood(np.zeros((1, m)))
    assert test.is_ood(np.full((1, m), 10.0))


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(("m", "exact"), [(1, True), (1, False), (5, True)])
def test_too_many_validation_scores_that_are_not_finite_are_refused(m, exact, bad):
    """No finite threshold lets a share alpha of batches pass, and an infinite one would let all pass."""
    validation = np.random.default_rng(0).normal(size=500)
    validation[:50] = bad
    with pytest.raises(ValueError, match=rf"50 of 500 held-out .*0\.95 .*\b{m}\b"):
        TypicalityTest.fit(np.zeros(3), validation, m, 0.95, 500, exact=exact)


def test_the_same_seed_gives_the_same_test_and_another_seed_another():
    assert small_test(seed=3) == small_test(seed=3)
    assert small_test(seed=3).threshold != small_test(seed=4).threshold


def test_the_exact_threshold_of_single_images_needs_no_seed():
    assert small_test(1, seed=3) == small_test(1, seed=4)
    assert small_test(1, seed=3, exact=False).threshold != small_test(1, seed=4, exact=False).threshold


@pytest.mark.parametrize(
    ("alpha", "least"), [(0.5, 1), (0.9, 9), (0.95, 19), (0.97, 33), (0.99, 99), (0.999, 999), (0.999999, 999_999)]
)
def test_least_held_out_is_alpha_over_one_less_alpha_rounded_up(alpha, least):
    assert calibration.least_held_out(alpha) == least


@pytest.mark.parametrize("alpha", [0.5, 0.9, 0.95, 0.99, 0.999])
def test_least_held_out_is_the_least_that_is_accepted(alpha):
    least, scores = calibration.least_held_out(alpha), np.random.default_rng(0).normal(size=1000)
    if least > 1:
        with pytest.raises(ValueError, match=rf"\b{least}$"):
            TypicalityTest.fit(scores, scores[: max(least - 1, 2)], 1, alpha)
    TypicalityTest.fit(scores, scores[: max(least, 2)], 1, alpha)


@pytest.mark.parametrize(("alpha", "m"), [(0.99, 2), (0.9999, 2), (0.9999, 5), (0.99, 25), (0.9999, 1)])
def test_least_held_out_is_the_least_for_which_a_batch_can_be_called_ood(alpha, m):
    least, scores = calibration.least_held_out(alpha, m), np.random.default_rng(0).normal(size=10_000)
    with pytest.raises(ValueError, match=rf"\b{least}$"):
        TypicalityTest.fit(scores, scores[: least - 1], m, alpha)
    TypicalityTest.fit(scores, scores[:least], m, alpha)
    smallest_p = 1 / math.comb(least + m, m)
    assert smallest_p <= (1 - alpha) * (1 + 1e-9)
    assert least == m or 1 / math.comb(least - 1 + m, m) > (1 - alpha) * (1 + 1e-9)


GOOD: dict[str, Any] = {
    "train_nll": np.arange(50.0),
    "validation_nll": np.arange(60.0),
    "batch_size": 2,
    "alpha": 0.9,
    "bootstraps": 9,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({"alpha": alpha}, f"alpha .*, not {alpha}") for alpha in (0, 1, -1, 1.5, math.nan)),
        ({"batch_size": 0}, r"batch_size .*\b0"),
        ({"batch_size": -2}, r"batch_size .*-2"),
        ({"bootstraps": 0}, r"bootstraps .*\b0"),
        ({"batch_size": 61}, r"60 held-out .*\b61"),
        ({"batch_size": 1, "alpha": 0.99}, r"60 held-out .*0\.99 .*\b99"),
        ({"batch_size": 1, "validation_nll": np.ones(1)}, r"1 held-out .*\b2$"),
        ({"validation_nll": np.empty(0)}, r"0 held-out .*\b2$"),
        ({"validation_nll": np.empty(0), "center": "validation"}, "no held-out scores"),
        ({"train_nll": np.empty(0)}, "no training scores"),
        ({"train_nll": np.array([0, math.inf, math.nan])}, "2 of 3 training"),
        ({"validation_nll": np.array([0, 1, -math.inf]), "center": "validation"}, "1 of 3 held-out"),
    ],
)
def test_impossible_tests_are_refused(changes, message):
    TypicalityTest.fit(**GOOD)
    with pytest.raises(ValueError, match=message):
        TypicalityTest.fit(**GOOD | changes)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 1), (2, 2, 2)])
def test_scores_of_another_batch_size_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(N, 2\)"):
        small_test().is_ood(np.zeros(shape))


def test_no_batches_give_no_decisions():
    assert small_test().is_ood(np.empty((0, 2))).tolist() == []
