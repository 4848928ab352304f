"""The list of images that do not belong, and the p-value of a batch of any size, on simulated scores."""

import itertools
import math

import numpy as np
import pytest

from glow.ood import MeanTest, flagged, least_listed
from glow.ood.calibration import Choices, batch_p_value

SCORES = {
    "continuous": lambda rng, n: rng.normal(size=n),
    "heavy-tailed": lambda rng, n: rng.standard_t(1.5, size=n),
    "tied": lambda rng, n: rng.poisson(1.0, size=n).astype(float),
}
REPEATS = 100


def p_values_of(held_out, scores):
    return MeanTest.fit(held_out, 1, 0.5, interval=False).p_value(scores[:, None])


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("held_out", [50, 200, 5000])
@pytest.mark.parametrize("strangers", [0.0, 0.01, 0.1, 0.5])
def test_the_share_of_false_images_on_the_list_is_as_promised(scores, held_out, strangers):
    """The false discovery rate is at most its nominal value plus two standard errors of the simulation."""
    rng = np.random.default_rng([held_out, int(100 * strangers), len(scores)])
    m, fdr, draw = 500, 0.1, SCORES[scores]
    number = round(strangers * m)
    false, found = [], []
    for _ in range(REPEATS):
        images = draw(rng, m)
        images[:number] += 30.0
        listed = flagged(p_values_of(draw(rng, held_out), images), fdr)
        false.append(listed[number:].sum() / max(1, listed.sum()))
        found.append(listed[:number].mean() if number else 0.0)
    assert np.mean(false) <= fdr + 2 * np.std(false, ddof=1) / math.sqrt(REPEATS)
    # A stranger is further out than nearly all others, so that only the number of held-out images limits the power.
    if scores == "continuous" and number >= least_listed(held_out, m, fdr):
        assert np.mean(found) > 0.95
    if number == 0 and scores == "continuous" and held_out == 5000:
        assert np.mean(false) > 0  # else nothing has been tested


@pytest.mark.parametrize("fdr", [0.05, 0.1, 0.3])
def test_the_list_is_that_of_the_step_up_procedure(fdr):
    rng = np.random.default_rng(0)
    for _ in range(200):
        p_values = rng.integers(1, 60, 20) / 60 * rng.choice([0.1, 1.0], 20)
        ordered = np.sort(p_values)
        passing = [k for k in range(1, 21) if ordered[k - 1] <= k * fdr / 20 + 1e-12]
        assert flagged(p_values, fdr).sum() == (
            np.count_nonzero(p_values <= ordered[passing[-1] - 1]) if passing else 0
        )


@pytest.mark.parametrize(
    ("held_out", "images", "fdr"), [(99, 500, 0.1), (999, 500, 0.1), (9, 30, 0.2), (5000, 10, 0.01)]
)
def test_fewer_images_than_least_listed_leave_the_list_empty(held_out, images, fdr):
    least = least_listed(held_out, images, fdr)
    smallest = 1 / (held_out + 1)
    for number, expected in ((least - 1, 0), (least, least)):
        p_values = np.full(images, 1.0)
        p_values[:number] = smallest
        assert flagged(p_values, fdr).sum() == expected


def test_a_list_of_nothing_and_a_rate_that_is_none():
    assert flagged(np.empty(0), 0.1).tolist() == []
    for fdr in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="fdr"):
            flagged(np.array([0.5]), fdr)


def identity(means):
    return means


@pytest.mark.parametrize(("n", "m"), [(6, 2), (3, 5), (5, 5), (1, 4)])
def test_the_p_value_of_a_batch_is_the_share_of_all_choices(n, m):
    """All choices of M of n + M images can be enumerated here; the random ones come as near as their number allows."""
    rng = np.random.default_rng([n, m])
    held_out, batch = rng.normal(size=n), rng.normal(0.3, 1, size=m)
    pooled = np.concatenate([held_out, batch])
    means = np.array([pooled[list(chosen)].mean() for chosen in itertools.combinations(range(n + m), m)])
    exact = (np.abs(means) >= abs(batch.mean()) - 1e-12).mean()
    k = 20_000
    found = batch_p_value(held_out, batch, np.abs, k)
    assert abs(found - exact) <= 4 * math.sqrt(exact * (1 - exact) / k) + 1 / k


@pytest.mark.slow
@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize(("n", "m"), [(30, 5), (30, 100), (200, 200), (20, 1)])
def test_batches_that_belong_have_p_values_that_are_not_too_small(scores, n, m):
    rng, draw = np.random.default_rng([n, m]), SCORES[scores]
    p_values = np.array([batch_p_value(draw(rng, n), draw(rng, m), identity, 99, seed) for seed in range(400)])
    for level in (0.01, 0.05, 0.2):
        share = (p_values <= level + 1e-12).mean()
        assert share <= level + 3 * math.sqrt(level * (1 - level) / 400)  # of 36 shares some are above two


def test_equal_scores_are_as_far_as_each_other_whatever_the_rounding():
    """Sums in another order differ in their last digits, which must not break ties."""
    assert batch_p_value(np.full(70, 0.1), np.full(333, 0.1), lambda means: np.abs(means - 1e3), 500) == 1.0


def test_it_is_the_p_value_of_the_choices_that_serve_many_batches():
    rng = np.random.default_rng(0)
    held_out, batch = rng.normal(size=300), rng.normal(0.25, 1, size=40)
    choices = Choices.draw(held_out, 40, 20_000, rng, (-3.0, 3.0))
    expected = choices.p_values(batch[None], identity)[0]
    assert batch_p_value(held_out, batch, identity, 20_000, bounds=(-3.0, 3.0)) == pytest.approx(expected, abs=0.01)


def test_a_score_that_is_not_finite_counts_as_the_upper_bound():
    held_out, batch = np.arange(50.0), np.arange(20.0)
    far, broken = np.append(batch, 98.0), np.append(batch, np.nan)
    bounds = (-49.0, 98.0)
    assert batch_p_value(held_out, broken, identity, 999, bounds=bounds) == batch_p_value(
        held_out, far, identity, 999, bounds=bounds
    )


def test_a_huge_batch_takes_little_memory():
    """A million images are tested by a random part of them."""
    rng = np.random.default_rng(0)
    held_out = rng.normal(size=1000)
    assert batch_p_value(held_out, rng.normal(size=1_000_000), identity, 199) > 0.01
    assert batch_p_value(held_out, rng.normal(0.3, 1, size=1_000_000), identity, 199) == 1 / 200
