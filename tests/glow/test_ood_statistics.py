import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from glow.ood import auroc_estimate, roc_curve, roc_estimates, statistics, wilson_interval
from glow.ood.statistics import disjoint_batches, mean_interval


def normals(n_in, n_out, shift=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=n_in), rng.normal(shift, size=n_out)


def estimates(in_scores, out_scores, *, seed=0, **changes):
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
    assert [(got[name].low, got[name].value, got[name].high) for name in ("aupr", "fpr95")] == [(1, 1, 1), (0, 0, 0)]


@pytest.mark.parametrize("kind", ["apart for good", "the wrong way round"])
def test_the_auroc_of_separated_sets_has_the_interval_of_as_many_pairs(kind):
    pairs, perfect = 20, float(kind == "apart for good")
    got = auroc_estimate(*SETS[kind])
    assert got.value == perfect
    assert (got.low, got.high) == wilson_interval(perfect * pairs, pairs)
    assert got.high - got.low > 0.1


def test_identical_sets_are_told_apart_by_chance():
    got = estimates(np.arange(400.0), np.arange(400.0))["auroc"]
    assert got.value == 0.5
    assert 0.45 < got.low < 0.49
    assert 0.51 < got.high < 0.55


@pytest.mark.parametrize("kind", SETS)
def test_the_estimate_of_an_auroc_is_that_of_the_roc(kind):
    assert auroc_estimate(*SETS[kind]) == estimates(*SETS[kind])["auroc"]


def test_the_variance_of_an_auroc_is_delongs():
    """The definition by all pairs: DeLong et al. 1988, equations 3 to 5."""
    in_scores, out_scores = SETS["tied"]
    order = (out_scores[:, None] > in_scores) + 0.5 * (out_scores[:, None] == in_scores)
    variance = sum(order.mean(axis).var(ddof=1) / order.shape[1 - axis] for axis in (0, 1))
    trials = order.mean() * (1 - order.mean()) / variance
    got = auroc_estimate(in_scores, out_scores)
    assert (got.low, got.high) == pytest.approx(wilson_interval(order.mean() * trials, trials), abs=1e-12)


SIMULATIONS = 1000


def covered(draw, true):
    """Return in how many of `SIMULATIONS` the interval of the AUROC contains the true one."""
    found = [auroc_estimate(*draw(np.random.default_rng(seed))) for seed in range(SIMULATIONS)]
    return sum(estimate.low <= true <= estimate.high for estimate in found)


@pytest.mark.parametrize(
    ("n_in", "n_out", "shift", "spread"),
    [
        (100, 80, 0.0, 1.0),
        (100, 80, 0.5, 1.0),
        (300, 300, 2.0, 1.0),
        (1000, 60, 0.0, 5.0),  # wider on both sides, as OOD likelihoods often are; few batches
        (1000, 1000, 4.0, 3.0),
    ],
)
def test_the_interval_covers_the_true_auroc_95_percent_of_the_time(n_in, n_out, shift, spread):
    """The AUROC of two normal distributions is Phi(shift / sqrt(sum of their variances))."""
    true = stats.norm.cdf(shift / math.sqrt(1 + spread**2))
    found = covered(lambda rng: (rng.normal(size=n_in), rng.normal(shift, spread, n_out)), true)
    assert stats.binomtest(found, SIMULATIONS, 0.95).pvalue > 1e-3


@pytest.mark.parametrize("shift", [3.0, 4.0, 5.0])
@pytest.mark.parametrize(("n_in", "n_out"), [(40, 40), (1000, 40), (1000, 1000)])
def test_the_interval_covers_an_auroc_near_1_at_least_95_percent_of_the_time(n_in, n_out, shift):
    """With a shift of 5 the AUROC is 0.9998, and small samples are separated."""
    true = stats.norm.cdf(shift / math.sqrt(2))
    found = covered(lambda rng: (rng.normal(size=n_in), rng.normal(shift, size=n_out)), true)
    assert stats.binomtest(found, SIMULATIONS, 0.95, alternative="less").pvalue > 1e-3


def test_the_interval_covers_the_auroc_if_a_few_images_pass_for_the_models_own():
    """2 % of the OOD scores are below all others. Nearly half of the samples have at most one of them, and are
    separated or nearly so."""
    found = covered(
        lambda rng: (rng.normal(size=1000), np.where(rng.random(80) < 0.02, -99.0, 99.0)),
        true=0.98,
    )
    assert stats.binomtest(found, SIMULATIONS, 0.95, alternative="less").pvalue > 1e-3


def test_the_interval_covers_aurocs_of_disjoint_batches_of_the_same_images():
    """Means of M images have the shift of the images in units that are sqrt(M) times as small."""
    shift, m, images = 0.5, 5, 1000

    def draw(rng):
        in_scores, out_scores = rng.normal(size=images), rng.normal(shift, size=images)
        return tuple(scores[disjoint_batches(images, m, rng)].mean(1) for scores in (in_scores, out_scores))

    found = covered(draw, stats.norm.cdf(shift * math.sqrt(m) / math.sqrt(2)))
    assert stats.binomtest(found, SIMULATIONS, 0.95).pvalue > 1e-3


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
