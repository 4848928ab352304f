import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from glow.ood import roc_curve, roc_estimates, statistics, wilson_interval
from glow.ood.statistics import disjoint_batches, mean_interval


def normals(n_in, n_out, shift=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=n_in), rng.normal(shift, size=n_out)


def estimates(in_scores, out_scores, seed=0, **changes):
    return roc_estimates(in_scores, out_scores, np.random.default_rng(seed), **changes)


def labelled(in_scores, out_scores):
    """Labels and scores, in the form that scikit-learn takes."""
    return np.repeat([0, 1], [len(in_scores), len(out_scores)]), np.concatenate([in_scores, out_scores])


SETS = {
    "apart by one": normals(300, 200),
    "one image against many": normals(1000, 1),
    "below": normals(50, 70, -1.5),
    "tied": tuple(scores.round() for scores in normals(300, 200)),
    "apart for good": (np.arange(20.0), np.arange(30.0, 60.0)),
    "the wrong way round": (np.arange(30.0, 60.0), np.arange(20.0)),
    "identical": (np.arange(20.0), np.arange(20.0)),
    "all equal": (np.zeros(7), np.zeros(5)),
    "one each": (np.zeros(1), np.ones(1)),
    "exactly 95 %": normals(40, 20),
}


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 500), (500, 500), (1, 500), (37, 400), (5, 10)])
def test_wilson_is_scipys(successes, trials, confidence):
    expected = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, trials, confidence) == pytest.approx(tuple(expected), abs=1e-12)


def test_wilson_ends_exactly_at_none_and_all_and_takes_a_mean_of_repeats():
    assert wilson_interval(0, 500)[0] == 0.0
    assert wilson_interval(500, 500)[1] == 1.0
    assert wilson_interval(500, 500)[0] == pytest.approx(0.9924, abs=5e-5)
    assert wilson_interval(3, 10)[0] < wilson_interval(3.5, 10)[0] < wilson_interval(4, 10)[0]


@pytest.mark.parametrize(
    ("successes", "trials", "facts"),
    [
        (0, 0, "trial"),
        (2, 1, r"\b0\b.*\b1\b.*\b2$"),
        (-1, 5, r"\b0\b.*\b5\b.*-1$"),
        (math.nan, 5, r"\b0\b.*\b5\b.*nan$"),
    ],
)
def test_impossible_proportions_are_refused(successes, trials, facts):
    with pytest.raises(ValueError, match=facts):
        wilson_interval(successes, trials)


@pytest.mark.parametrize("kind", SETS)
def test_auroc_and_aupr_are_scikit_learns(kind):
    truth, scores = labelled(*SETS[kind])
    got = estimates(*SETS[kind])
    assert got["auroc"].value == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-12)
    assert got["aupr"].value == pytest.approx(metrics.average_precision_score(truth, scores), abs=1e-12)


@pytest.mark.parametrize("kind", SETS)
def test_fpr95_is_the_share_of_in_scores_at_the_highest_threshold_that_finds_95_percent(kind):
    in_scores, out_scores = SETS[kind]
    found = [t for t in out_scores if 100 * np.count_nonzero(out_scores >= t) >= 95 * len(out_scores)]
    assert estimates(in_scores, out_scores)["fpr95"].value == pytest.approx(np.mean(in_scores >= max(found)), abs=1e-12)


@pytest.mark.parametrize("kind", SETS)
def test_roc_curve_is_scikit_learns(kind):
    false, true, _ = metrics.roc_curve(*labelled(*SETS[kind]), drop_intermediate=False)
    curve = roc_curve(*SETS[kind])
    np.testing.assert_allclose(curve.false_positives, false, atol=1e-12)
    np.testing.assert_allclose(curve.true_positives, true, atol=1e-12)


@pytest.mark.parametrize("worst", [math.inf, -math.inf, math.nan])
def test_scores_that_are_not_finite_are_the_largest(worst):
    in_scores, out_scores = normals(50, 40)
    with_worst = np.append(in_scores, worst), np.append(out_scores, [worst, worst])
    largest = np.append(in_scores, 99.0), np.append(out_scores, [99.0, 99.0])
    for name, estimate in estimates(*largest).items():
        assert estimates(*with_worst)[name] == estimate
    np.testing.assert_array_equal(roc_curve(*with_worst).true_positives, roc_curve(*largest).true_positives)


@pytest.mark.parametrize("kind", SETS)
def test_intervals_hold_their_value_and_lie_between_0_and_1(kind):
    for estimate in estimates(*SETS[kind]).values():
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_sets_that_do_not_overlap_are_perfect_in_every_resample():
    got = estimates(*SETS["apart for good"])
    assert [(got[name].low, got[name].value, got[name].high) for name in ("auroc", "aupr", "fpr95")] == [
        (1, 1, 1),
        (1, 1, 1),
        (0, 0, 0),
    ]


def test_identical_sets_are_told_apart_by_chance():
    got = estimates(np.arange(400.0), np.arange(400.0))["auroc"]
    assert got.value == 0.5
    assert 0.45 < got.low < 0.49
    assert 0.51 < got.high < 0.55


@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_bootstrap_intervals_cover_the_true_auroc_95_percent_of_the_time(shift):
    true, simulations, covered = stats.norm.cdf(shift / math.sqrt(2)), 150, 0
    for seed in range(simulations):
        got = estimates(*normals(100, 80, shift, seed), seed=seed, resamples=300)["auroc"]
        covered += got.low <= true <= got.high
    assert stats.binomtest(covered, simulations, 0.95).pvalue > 1e-3


@pytest.mark.parametrize(("n_in", "n_out", "shift"), [(1000, 1000, 2.5), (1500, 1500, -2.0), (3000, 15, 2.5)])
def test_bins_change_no_interval(monkeypatch, n_in, n_out, shift):
    """This also holds if one set is much smaller, or lies below the other."""
    sets = normals(n_in, n_out, shift)
    binned = estimates(*sets, seed=1)
    monkeypatch.setattr(statistics, "BINS", n_in + n_out)
    for name, exact in estimates(*sets, seed=2).items():
        tolerance = 0.2 * (exact.high - exact.low)
        assert binned[name].value == exact.value
        assert binned[name].low == pytest.approx(exact.low, abs=tolerance)
        assert binned[name].high == pytest.approx(exact.high, abs=tolerance)


def test_intervals_follow_from_the_generator():
    assert estimates(*normals(50, 50), seed=1) == estimates(*normals(50, 50), seed=1)
    assert estimates(*normals(50, 50), seed=1) != estimates(*normals(50, 50), seed=2)


@pytest.mark.parametrize("function", [estimates, roc_curve])
def test_a_roc_needs_scores_of_both_kinds(function):
    with pytest.raises(ValueError, match="no in-distribution scores"):
        function(np.empty(0), np.ones(3))
    with pytest.raises(ValueError, match="no OOD scores"):
        function(np.ones(3), np.empty(0))


@pytest.mark.parametrize(("n", "batch_size"), [(10, 1), (10, 3), (10, 10), (25, 4), (1, 1)])
def test_disjoint_batches_share_no_image_and_leave_out_what_fills_none(n, batch_size):
    batches = disjoint_batches(n, batch_size, np.random.default_rng(0))
    assert batches.shape == (n // batch_size, batch_size)
    chosen = np.unique(batches)
    assert len(chosen) == n - n % batch_size
    assert 0 <= chosen.min() <= chosen.max() < n


def test_disjoint_batches_are_random_and_may_leave_out_any_image():
    left_out = {
        (set(range(4)) - set(disjoint_batches(4, 3, np.random.default_rng(seed)).ravel())).pop() for seed in range(60)
    }
    assert left_out == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("n", "batch_size", "message"),
    [(3, 4, r"3 images .*\b4"), (0, 1, "0 images"), (3, 0, "batch_size .* 0")],
)
def test_impossible_batches_are_refused(n, batch_size, message):
    with pytest.raises(ValueError, match=message):
        disjoint_batches(n, batch_size, np.random.default_rng(0))


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_mean_interval_is_students(confidence):
    values = np.random.default_rng(0).gamma(2, size=9)
    got = mean_interval(values, confidence)
    expected = stats.t.interval(confidence, 8, values.mean(), stats.sem(values))
    assert (got.value, got.low, got.high) == pytest.approx((values.mean(), *expected))


def test_a_mean_of_one_value_has_no_interval_and_of_none_is_refused():
    one = mean_interval(np.array([3.0]))
    assert one.value == 3.0
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    with pytest.raises(ValueError, match="one value"):
        mean_interval(np.empty(0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_mean_over_a_value_that_is_not_finite_is_infinite_rather_than_without_it(bad):
    got = mean_interval(np.array([1.0, bad, 2.0]))
    assert got.value == math.inf
    assert math.isnan(got.low)
