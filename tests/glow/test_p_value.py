"""p-values of the typicality test on simulated scores, whose truth is known."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from glow.ood import BatchTest, MeanTest, Threshold, TypicalityTest
from glow.ood.calibration import bounds_of


def simulated(m, n, bootstraps, simulations, seed=0, shift=0.0):
    """p-values of gamma scores: each simulation draws a batch and separate held-out scores for its test."""
    values = []
    for simulation in range(simulations):
        rng = np.random.default_rng([seed, simulation, m])
        test = TypicalityTest.fit(
            rng.gamma(2, size=500), rng.gamma(2, size=n), m, 0.9, bootstraps, simulation, interval=False
        )
        values.append(test.p_value(rng.gamma(2, size=(1, m)) + shift)[0])
    return np.array(values)


@pytest.mark.parametrize(
    ("m", "n", "bootstraps"), [(1, 400, 1), (3, 3000, 999), pytest.param(20, 3000, 999, marks=pytest.mark.slow)]
)
def test_p_values_of_in_distribution_batches_are_uniform(m, n, bootstraps):
    values = simulated(m, n, bootstraps, 600)
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    assert values.min() >= 1 / (max(n if m == 1 else bootstraps, 1) + 1)
    assert values.max() <= 1


def test_few_held_out_images_make_the_p_values_of_single_ones_discrete_and_never_too_small():
    """With n held-out images p is uniform on 1 / (n + 1), 2 / (n + 1) ... 1, so that P(p <= u) <= u exactly."""
    values = simulated(1, 9, 1, 2000)
    ranks, counts = np.unique(np.round(values * 10).astype(int), return_counts=True)
    assert ranks.tolist() == list(range(1, 11))
    assert stats.chisquare(counts).pvalue > 1e-3


def test_batches_from_elsewhere_have_small_p_values():
    assert np.median(simulated(1, 2000, 1, 100, shift=9.0)) < 0.01
    assert np.median(simulated(10, 2000, 999, 100, shift=2.0)) < 0.01


@pytest.mark.parametrize("alpha", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [99, 100, 250, 1000])
@pytest.mark.parametrize("ties", [False, True])
def test_of_single_images_the_decision_is_that_of_the_p_value(alpha, n, ties):
    rng = np.random.default_rng([n, ties])
    train, held_out, new = rng.normal(size=1000), rng.normal(size=n), rng.normal(size=(3000, 1)) * 1.5
    if ties:  # among held-out scores, and between these and the tested ones
        train, held_out, new = np.zeros(10), np.round(held_out, 1), np.round(new, 1)
    test = TypicalityTest.fit(train, held_out, 1, alpha)
    at_threshold = np.array([[test.center + test.threshold.value]])
    for nll_N1 in (new, held_out[:, None], at_threshold):
        p_N = test.p_value(nll_N1)
        assert np.array_equal(test.is_ood(nll_N1), p_N <= 1 - alpha + 1e-12)


@pytest.mark.parametrize(("m", "bootstraps"), [(1, 500), (2, 500), (5, 10_000), (25, 50)])
def test_without_exact_p_values_the_decision_turns_where_the_p_value_crosses_one_less_alpha(m, bootstraps):
    rng = np.random.default_rng(m)
    train, held_out = rng.gamma(2, size=1000), rng.gamma(2, size=600)
    for alpha in (0.5, 0.9, 0.99):
        test = TypicalityTest.fit(train, held_out, m, alpha, bootstraps, 3, exact=False)
        nll_NM = rng.gamma(2, size=(5000, m)) * 1.2
        p_N, ood_N = test.p_value(nll_NM), test.is_ood(nll_NM)
        near = 2 / (len(test.null) + 1)
        assert (p_N[ood_N] <= 1 - alpha + near + 1e-12).all()
        assert (p_N[~ood_N] >= 1 - alpha - near - 1e-12).all()
        order = np.argsort(test.statistic(nll_NM))
        assert (np.diff(p_N[order]) <= 0).all()


HEAVY = {
    "lognormal": lambda rng, *size: rng.lognormal(size=size),
    "student t of 2": lambda rng, *size: rng.standard_t(2, size=size),
    "few values": lambda rng, *size: rng.poisson(0.3, size=size).astype(float),
}


@pytest.mark.parametrize(
    ("kind", "n", "m", "two_sided"),
    [
        pytest.param("lognormal", 50, 10, True),
        *(
            pytest.param(kind, n, m, m < 25, marks=pytest.mark.slow if n == 50 else pytest.mark.nightly)
            for kind in HEAVY
            for n, m in ((50, 2), (50, 25), (200, 25), (99, 1))
        ),
    ],
)
def test_false_alarms_keep_to_one_less_alpha_for_few_held_out_scores_with_heavy_tails(kind, n, m, two_sided):
    """The rate is a mean over held-out sets and batches. A bootstrapped threshold gives 3.9 % in place of 1 %."""
    draw, batches, rates = HEAVY[kind], 40, []
    for seed in range(300):
        rng = np.random.default_rng([seed, n, m])
        held_out, new = draw(rng, n), draw(rng, batches, m)
        train, how = draw(rng, 300), (held_out, m, 0.99, 2000, seed)
        test: BatchTest = TypicalityTest.fit(train, *how, interval=False)
        if not two_sided:
            test = MeanTest.fit(*how, interval=False, bounds=bounds_of(train))
        rates.append(test.is_ood(new).mean())
    sem = np.std(rates) / len(rates) ** 0.5
    assert np.mean(rates) < 0.01 + 4 * sem
    if kind == "lognormal" and m > 1:
        assert np.mean(rates) > 0.005 - 4 * sem


def test_the_p_value_is_the_share_of_all_choices():
    """3 held-out scores and a batch of 2 have 10 choices, which 100,000 random ones approximate."""
    held_out, batch = np.array([0.0, 1.0, 5.0]), np.array([[3.0, 4.0]])
    test = MeanTest.fit(held_out, 2, 0.5, 100_000)
    sums = [sum(pair) for pair in itertools.combinations([*held_out, *batch[0]], 2)]
    expected = np.mean([each >= 7 for each in sums])
    assert test.p_value(batch)[0] == pytest.approx(expected, abs=5 * (expected / 100_000) ** 0.5)


def test_with_many_held_out_scores_the_exact_decision_is_the_thresholds():
    rng = np.random.default_rng(0)
    test = TypicalityTest.fit(rng.gamma(2, size=1000), rng.gamma(2, size=20_000), 5, 0.9, 20_000)
    nll_NM = rng.gamma(2, size=(5000, 5))
    assert (test.is_ood(nll_NM) != test.threshold.exceeded(test.statistic(nll_NM))).mean() < 0.01


@pytest.mark.parametrize("kind", ["two-sided", "mean"])
def test_batches_of_nothing_but_outliers_are_ood_however_large_the_largest_is(kind):
    """Without bounds the largest score determines the mean of its batch, and 12 % of all choices contain it."""
    rng = np.random.default_rng(0)
    train, held_out = rng.normal(size=1000), rng.normal(size=176)
    far = rng.uniform(50, 100, size=(40, 25))
    far[:, 0] = 1e20
    test: BatchTest
    if kind == "mean":
        test = MeanTest.fit(held_out, 25, 0.99, interval=False, bounds=bounds_of(train))
    else:
        test = TypicalityTest.fit(train, held_out, 25, 0.99, interval=False)
    assert test.is_ood(far).all()
    without = MeanTest.fit(held_out, 25, 0.99, interval=False)
    assert not without.is_ood(far).any()


def test_bounds_are_as_far_from_the_range_as_it_is_wide():
    assert bounds_of(np.array([1.0, 4.0, np.nan, np.inf])) == (-2.0, 7.0)
    assert bounds_of(np.ones(5)) == bounds_of(np.empty(0)) == (-math.inf, math.inf)


def test_too_few_choices_are_refused():
    with pytest.raises(ValueError, match=r"3 held-out .*0\.99 .*\b2: .*\b13$"):
        MeanTest.fit(np.arange(3.0), 2, 0.99)


@pytest.mark.parametrize(("bootstraps", "alpha", "choices"), [(100, 0.99, 1000), (100, 0.9, 100), (5000, 0.99, 5000)])
def test_choices_are_as_many_as_bootstraps_and_enough_for_alpha(bootstraps, alpha, choices):
    test = MeanTest.fit(np.arange(2000.0), 5, alpha, bootstraps, interval=False)
    assert test.p_value(np.full((1, 5), 1e9)).tolist() == [1 / (choices + 1)]


@pytest.mark.parametrize("exact", [True, False])
def test_a_single_score_that_is_not_finite_counts_as_larger_than_all_others(exact):
    rng = np.random.default_rng(0)
    held_out = rng.normal(size=500)
    held_out[:2] = np.inf, np.nan
    test = TypicalityTest.fit(rng.normal(size=100), held_out, 1, 0.9, 99, exact=exact)
    nll_N1 = np.array([[math.nan], [math.inf], [-math.inf], [0.0]])
    assert test.is_ood(nll_N1).tolist() == [True, True, True, False]
    smallest = 3 / 501 if exact else 1 / 100  # two held-out ones are as far
    assert test.p_value(nll_N1)[:3].tolist() == [smallest] * 3


def test_false_alarms_keep_to_one_less_alpha_if_some_ordinary_scores_are_not_finite():
    """If all batches with such a score were OOD, 3.2 % would be. `fit` refuses held-out scores with one of them."""

    def draw(rng, *size):
        return np.where(rng.random(size) < 0.001, math.inf, rng.normal(size=size))

    rates, found = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        train, held_out, new = rng.normal(size=300), draw(rng, 300), draw(rng, 40, 25)
        if np.isfinite(held_out).all():
            test = TypicalityTest.fit(train, held_out, 25, 0.99, 1000, seed, interval=False)
            rates.append(test.is_ood(new).mean())
            found.append(test.is_ood(np.concatenate([np.full((1, 25), math.nan), new[:1] + 3])).all())
    assert np.mean(rates) < 0.01 + 4 * np.std(rates) / len(rates) ** 0.5
    assert np.mean(found) > 0.99


@pytest.mark.parametrize("m", [1, 2, 10])
def test_a_test_without_an_interval_is_the_same_test(m):
    rng = np.random.default_rng(0)
    train, held_out = rng.normal(size=100), rng.normal(size=300)
    whole = TypicalityTest.fit(train, held_out, m, 0.95, 200, 1)
    bare = TypicalityTest.fit(train, held_out, m, 0.95, 200, 1, interval=False)
    assert bare.threshold.value == whole.threshold.value
    assert np.array_equal(bare.null, whole.null)
    if m > 1:
        assert (bare.threshold.low, bare.threshold.high) == (-math.inf, math.inf)


def test_what_cannot_be_asked_is_said():
    test = TypicalityTest.fit(np.zeros(5), np.arange(50.0), 2, 0.9, 20)
    with pytest.raises(ValueError, match=r"\(N, 2\).*\(1, 3\)"):
        test.p_value(np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"TypicalityTest\.fit"):
        TypicalityTest(2, 0.9, Threshold(0.5, 0.4, 0.6), center=3.0).p_value(np.zeros((1, 2)))
