"""Detectors on simulated score tables."""

import math
from functools import cache

import numpy as np
import pandas as pd
import pytest

from glow.ood import DETECTORS, MeanTest, TypicalityTest, fit_detectors, roc_estimates

# Correlations of the log-det and log p(z) of two levels. Each of them and their sum has the same distribution in both.
CORRELATION = np.array([[1, 0.95, -0.5], [0.95, 1, -0.5], [-0.5, -0.5, 1]])
CHANGED_CORRELATION = CORRELATION[np.ix_([2, 0, 1], [2, 0, 1])]
MEANS, SDS = np.array([900.0, -300.0, -200.0]), 30.0


NAMES = [*DETECTORS, "log_prior_1", "log_prior_2", "log_det_1", "log_det_2"]
"""Names of all detectors for a score table of two levels."""


def score_table(
    n,
    seed=0,
    *,
    shift=0.0,
    simpler=0.0,
    correlation=CORRELATION,
    noisy=0.0,
    pattern=0.0,
    smooth=0.0,
    unlike=0.0,
    alike=0.0,
    steep=0.0,
    foreign=0.0,
):
    """Simulate the score table of n images.

    The images are `shift` nats less likely, and `simpler` bits simpler than their likelihood suggests. A background
    model finds them `unlike` nats more likely. Their latents are not normal (`noisy`), repeat a `pattern`, are
    `smooth`, or have `alike` neighbours. The gradient of one of three layers is `steep` standard deviations larger.
    What they show is `foreign`: both distances in features are larger by so many standard deviations.
    """
    rng = np.random.default_rng(seed)
    parts = MEANS + SDS * rng.multivariate_normal(np.zeros(3), correlation, n) - shift / 3
    nll = 64 * math.log(256) - parts.sum(1)
    return pd.DataFrame(
        {
            "index": np.arange(n),
            "label": rng.integers(3, size=n),
            "nll": nll,
            "bits_per_dim": nll / (64 * math.log(2)),
            "log_det": parts[:, 0],
            "log_prior_1": parts[:, 1],
            "log_prior_2": parts[:, 2],
            "log_det_1": 0.3 * parts[:, 0],
            "log_det_2": 0.7 * parts[:, 0],
            "latent_anderson": rng.exponential(size=n) + 10 * noisy,
            "latent_spectrum": rng.normal(1, 0.02, size=n) + pattern,
            "latent_neighbours": rng.chisquare(4, size=n) + smooth,
            **{f"latent_power_{level}": rng.lognormal(sigma=0.1, size=n) for level in (1, 2)},
            **{f"latent_rows_{level}": rng.normal(scale=0.02, size=n) + alike for level in (1, 2)},
            **{f"latent_columns_{level}": rng.normal(scale=0.02, size=n) for level in (1, 2)},
            "background_nll": nll + 500 + rng.normal(scale=20, size=n) - unlike,
            "finite": np.ones(n, bool),
            "complexity": nll / math.log(2) + rng.normal(scale=20, size=n) - simpler,
            **{f"gradient_{layer}": rng.lognormal(5.0 * layer + steep * (layer == 2), size=n) for layer in (1, 2, 3)},
            "feature_neighbours": rng.gamma(9, 0.03, size=n) + 0.09 * foreign,
            "feature_mahalanobis": rng.chisquare(50, size=n) + 10 * foreign,
        }
    )


def spoilt(table, rows, value):
    """A copy with images whose scores are not finite, as `glow.scoring` records them."""
    table = table.copy()
    table.loc[table.index[rows], ["nll", "bits_per_dim"]] = value
    table.loc[table.index[rows], ["log_det", "log_prior_1"]] = -value
    table.loc[table.index[rows], "finite"] = False
    return table


@cache
def detectors(**changes):
    return {detector.name: detector for detector in fit_detectors(score_table(1000), **changes)}


def statistics(name, table, m=1, **changes):
    """Statistics of batches of consecutive images."""
    detector = detectors(**changes)[name]
    scores = detector.image_scores(table)
    test = detector.fit(score_table(500, 1), m, 0.9, bootstraps=10)
    return test.statistic(scores[: len(scores) // m * m].reshape(-1, m))


def auroc(name, table, m=1):
    rng = np.random.default_rng(0)
    own = statistics(name, score_table(1000, 2), m)
    return roc_estimates(own, statistics(name, table, m), rng, resamples=1)["auroc"].value


# Two standard deviations of the NLL to each side.
UNLIKELY = score_table(1000, 3, shift=2 * SDS * 3**0.5)
TOO_LIKELY = score_table(1000, 3, shift=-2 * SDS * 3**0.5)
SIMPLE = score_table(1000, 3, shift=-2 * SDS * 3**0.5, simpler=50)
CORRELATED_OTHERWISE = score_table(1000, 3, correlation=CHANGED_CORRELATION)
NOISY, PATTERNED, SMOOTH = (score_table(1000, 3, **{what: 1.0}) for what in ("noisy", "pattern", "smooth"))
SMOOTH["latent_neighbours"] += 20
ALIKE = score_table(1000, 3, alike=0.1)
UNLIKE = score_table(1000, 3, unlike=60.0)
STEEP = score_table(1000, 3, steep=5.0)
FOREIGN = score_table(1000, 3, foreign=3.0)
FOREIGN_AND_ALIKE = score_table(1000, 3, foreign=1.0, alike=0.03)
SAME = score_table(1000, 3)


@pytest.mark.parametrize(
    ("name", "table", "low", "high"),
    [
        ("likelihood", UNLIKELY, 0.85, 1),
        ("likelihood", TOO_LIKELY, 0, 0.15),
        ("typicality", UNLIKELY, 0.75, 1),
        ("typicality", TOO_LIKELY, 0.75, 1),
        ("likelihood", SIMPLE, 0, 0.15),
        ("complexity", SIMPLE, 0.95, 1),
        ("complexity", TOO_LIKELY, 0.45, 0.55),
        ("likelihood", CORRELATED_OTHERWISE, 0.45, 0.55),
        ("typicality", CORRELATED_OTHERWISE, 0.45, 0.55),
        ("complexity", CORRELATED_OTHERWISE, 0.45, 0.55),
        ("density", CORRELATED_OTHERWISE, 0.8, 1),
        ("density", UNLIKELY, 0.8, 1),
        ("density", TOO_LIKELY, 0.8, 1),
        ("levels", UNLIKELY, 0.75, 1),
        ("levels", TOO_LIKELY, 0.75, 1),
        ("levels", SMOOTH, 0.45, 0.55),
        ("latents", NOISY, 0.95, 1),
        ("latents", PATTERNED, 0.95, 1),
        ("latents", SMOOTH, 0.45, 0.55),
        ("neighbours", SMOOTH, 0.95, 1),
        ("neighbours", NOISY, 0.45, 0.55),
        ("ratio", UNLIKE, 0.95, 1),
        ("whiteness", ALIKE, 0.95, 1),
        ("whiteness", UNLIKELY, 0.45, 0.55),
        ("neighbours", ALIKE, 0.45, 0.55),
        ("ratio", UNLIKELY, 0.45, 0.55),
        ("gradients", STEEP, 0.95, 1),
        ("gradients", UNLIKELY, 0.45, 0.55),
        ("likelihood", UNLIKE, 0.45, 0.55),
        *(("joint", table, 0.75, 1) for table in (UNLIKELY, TOO_LIKELY, SIMPLE, ALIKE)),
        *((name, FOREIGN, 0.9, 1) for name in ("features", "mahalanobis", "combined")),
        *((name, FOREIGN, 0.45, 0.55) for name in ("joint", "likelihood", "gradients")),
        *((name, ALIKE, 0.45, 0.55) for name in ("features", "mahalanobis")),
        ("combined", ALIKE, 0.9, 1),
        *((name, SAME, 0.45, 0.55) for name in DETECTORS),
    ],
)
def test_each_detector_finds_what_it_is_for_and_misses_what_it_cannot_see(name, table, low, high):
    assert low <= auroc(name, table) <= high


@pytest.mark.parametrize(
    ("name", "table"), [("typicality", TOO_LIKELY), ("complexity", SIMPLE), ("density", CORRELATED_OTHERWISE)]
)
def test_batches_tell_more_than_single_images(name, table):
    assert auroc(name, table) < 0.999
    assert auroc(name, table, 10) > 0.999


def test_the_changed_correlation_leaves_each_part_and_the_nll_as_it_was():
    """Otherwise the result for `density` above would prove nothing."""
    assert not np.allclose(CORRELATION, CHANGED_CORRELATION)
    assert CORRELATION.sum() == pytest.approx(CHANGED_CORRELATION.sum())
    for column in ("nll", "log_det", "log_prior_1", "log_prior_2"):
        assert CORRELATED_OTHERWISE[column].mean() == pytest.approx(SAME[column].mean(), abs=6)
        assert CORRELATED_OTHERWISE[column].std() == pytest.approx(SAME[column].std(), rel=0.1)


def test_every_detector_is_described_or_is_a_column():
    assert list(detectors()) == NAMES


def test_without_a_background_model_gradients_and_an_encoder_their_detectors_are_left_out():
    optional = ["background_nll", "gradient_1", "gradient_2", "gradient_3", "feature_neighbours", "feature_mahalanobis"]
    without = {"ratio", "gradients", "features", "mahalanobis", "combined"}
    names = [detector.name for detector in fit_detectors(score_table(500).drop(columns=optional))]
    assert names == [name for name in NAMES if name not in without]


def test_combined_finds_what_pixels_and_content_only_suggest():
    found = {name: auroc(name, FOREIGN_AND_ALIKE) for name in ("joint", "features", "combined")}
    assert found["combined"] > max(found["joint"], found["features"]) + 0.02


def test_training_images_without_features_are_left_out_and_others_decide():
    """Training images that are not references have no distances."""
    train, held_out = score_table(1000), score_table(500, 1)
    train.loc[train.index % 2 == 1, ["feature_neighbours", "feature_mahalanobis"]] = np.nan
    part = {each.name: each for each in fit_detectors(train)}
    for name in ("features", "mahalanobis", "combined"):
        scores = part[name].image_scores(FOREIGN)
        assert np.isfinite(scores).all()
        assert part[name].fit(held_out, 5, 0.95, 500).is_ood(scores.reshape(-1, 5)).mean() > 0.9


def test_images_whose_gradients_were_not_asked_for_are_refused():
    norms = ["gradient_1", "gradient_2", "gradient_3"]
    gradients = next(each for each in fit_detectors(score_table(500)) if each.name == "gradients")
    table = score_table(100)
    table.loc[table.index % 4 != 0, norms] = np.nan  # as with gradient_stride=4
    with pytest.raises(ValueError, match=r"75 of 100 images.*gradient_stride=1"):
        gradients.image_scores(table)
    one = score_table(100)
    one.loc[3, norms] = np.nan
    assert np.flatnonzero(np.isinf(gradients.image_scores(one))).tolist() == [3]


def test_a_column_that_is_the_same_for_every_image_is_no_detector():
    """The log-det of additive couplings is the same for every image, up to rounding."""
    train = score_table(1000)
    train["log_det_1"] = 7.0 + 1e-6 * np.random.default_rng(0).normal(size=1000)
    assert "log_det_1" not in [detector.name for detector in fit_detectors(train)]


def test_statistics_are_joined_by_minus_the_log_of_the_smallest_p_value():
    """None of 1,000 training images has a spectrum that is as extreme, so that p is 1 / 1001 at most."""
    far = detectors()["latents"].image_scores(PATTERNED)
    spectrum = np.sort(score_table(1000)["latent_spectrum"])
    beyond = PATTERNED["latent_spectrum"] - spectrum[-1]
    falls = (spectrum[-10:] - spectrum[-11]).mean()
    assert (beyond > 0).any()
    expected = math.log(1001) + beyond[beyond > 0] / falls
    np.testing.assert_allclose(far[beyond > 0], expected)
    anderson = np.array([np.mean(score_table(1000)["latent_anderson"] >= x) for x in SAME["latent_anderson"]])
    assert (detectors()["latents"].image_scores(SAME) >= -np.log((1000 * anderson + 1) / 1001) - 1e-12).all()


def test_far_images_are_found_although_held_out_ones_exceed_all_training_images_too():
    """With few training images, more than 1 % of the held-out ones are beyond them in some column."""
    train, held_out = score_table(500), score_table(2000, 1)
    levels = {detector.name: detector for detector in fit_detectors(train)}["levels"]
    far = score_table(50, 2, shift=60 * SDS)
    assert levels.fit(held_out, 1, 0.99).is_ood(levels.image_scores(far)[:, None]).all()


def test_scores_of_single_images_are_in_nats_bits_and_log_density():
    table = score_table(5, 4)
    fitted = detectors()
    for name in ("typicality", "likelihood"):
        np.testing.assert_array_equal(fitted[name].image_scores(table), table["nll"])
    bits = 64 * table["bits_per_dim"] - table["complexity"]
    np.testing.assert_allclose(fitted["complexity"].image_scores(table), bits, rtol=1e-9)


def test_density_is_the_log_density_of_standardised_parts():
    """The density is normal, up to the error of a mixture that is fitted to 5,000 images."""
    train, table = score_table(5000), score_table(200, 4)
    got = fit_detectors(train)[3].image_scores(table)
    z = (table[["log_det", "log_prior_1", "log_prior_2"]].to_numpy() - MEANS) / SDS
    distance = np.einsum("ni,ij,nj->n", z, np.linalg.inv(CORRELATION), z)
    expected = distance / 2 + np.linalg.slogdet(2 * math.pi * CORRELATION)[1] / 2
    near = distance < 11  # 99 % of all images
    assert near.sum() > 190
    np.testing.assert_allclose(got[near], expected[near], atol=1)
    assert abs(np.mean(got - expected)) < 0.1


@pytest.mark.parametrize("value", [math.inf, math.nan, -math.inf])
def test_rows_that_are_not_finite_are_the_rarest_and_leave_others_alone(value):
    table = score_table(20, 4)
    for name, detector in detectors().items():
        clean, dirty = detector.image_scores(table), detector.image_scores(spoilt(table, [3, 7], value))
        np.testing.assert_allclose(np.delete(dirty, [3, 7]), np.delete(clean, [3, 7]))
        assert not np.isfinite(dirty[[3, 7]]).any()
        if name == "density":
            assert (dirty[[3, 7]] == math.inf).all()
    all_bad = spoilt(table, range(20), value)
    assert (detectors()["density"].image_scores(all_bad) == math.inf).all()


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("value", [math.inf, math.nan, -math.inf])
def test_every_detector_calls_a_batch_with_such_an_image_ood(name, value):
    detector = detectors()[name]
    test = detector.fit(score_table(500, 1), 2, 0.99, 500)
    average = pd.DataFrame([score_table(500, 1).mean()] * 4).astype({"finite": bool}).reset_index(drop=True)
    scores = detector.image_scores(spoilt(average, [2], value)).reshape(2, 2)
    assert test.is_ood(scores).tolist() == [False, True]


@pytest.mark.parametrize("center", ["train", "validation"])
@pytest.mark.parametrize("m", [1, 3])
def test_typicality_is_the_typicality_test_of_the_same_seed(m, center):
    train, held_out, table = score_table(1000), score_table(500, 1), score_table(600, 2, shift=60)
    expected = TypicalityTest.fit(train["nll"], held_out["nll"], m, 0.95, 300, 5, center=center)
    detector = fit_detectors(train, center)[0]
    test = detector.fit(held_out, m, 0.95, 300, 5)
    assert test == expected
    batches = detector.image_scores(table).reshape(-1, m)
    assert 0 < test.is_ood(batches).mean() < 1
    assert np.array_equal(test.p_value(batches), expected.p_value(batches))


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("m", [1, 3])
def test_every_detector_passes_alpha_of_what_it_is_made_for_and_has_p_values(name, m):
    """The share of 3,000 in-distribution images that is called OOD is within 4 standard errors of 1 - alpha.

    The standard error includes that of the 2,000 held-out images.
    """
    detector = detectors()[name]
    test = detector.fit(score_table(2000, 1), m, 0.9, 2000)
    scores = detector.image_scores(score_table(3000, 2)).reshape(-1, m)
    error = (0.9 * 0.1 * (1 / len(scores) + m / 2000)) ** 0.5
    assert test.is_ood(scores).mean() == pytest.approx(0.1, abs=4 * error)
    p = test.p_value(scores)
    assert np.mean(p <= 0.5) == pytest.approx(0.5, abs=4 * (0.25 * (1 / len(scores) + m / 2000)) ** 0.5)
    assert p[test.is_ood(scores)].max() <= p[~test.is_ood(scores)].min()


@pytest.fixture(scope="module")
def pool():
    """Scores of 40,000 in-distribution images by every detector, from which simulations draw."""
    table = score_table(40_000, 9)
    return {name: detector.image_scores(table) for name, detector in detectors().items()}


@pytest.mark.nightly
@pytest.mark.parametrize("m", [1, 5, 25])
@pytest.mark.parametrize("n", [50, 200])
@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_keeps_its_promise_with_few_held_out_images(name, n, m, pool):
    """Over many draws of the held-out images, 5 % of in-distribution batches are called OOD, within 0.005.

    At M = 1 p-values are multiples of 1 / (n + 1), so that the share may be lower by as much.
    """
    shares = []
    for draw in range(150):
        rng = np.random.default_rng([draw, n, m])
        scores = rng.permutation(pool[name])
        test = detectors()[name].fit_to(scores[:n], m, 0.95, 1000, draw, exact=True, interval=False)
        shares.append(test.is_ood(scores[n : n + 200 * m].reshape(-1, m)).mean())
    error = 3 * np.std(shares) / len(shares) ** 0.5
    assert np.mean(shares) < 0.05 + 0.005 + error
    assert np.mean(shares) > 0.05 - 0.005 - error - (1 / (n + 1) if m == 1 else 0)


def test_a_mean_test_is_blind_on_the_other_side():
    test = MeanTest.fit(np.random.default_rng(0).normal(size=1000), 2, 0.9, 500)
    assert test.is_ood(np.array([[9.0, 9.0], [-9.0, -9.0]])).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"\(N, 2\).*\(1, 3\)"):
        test.is_ood(np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"MeanTest\.fit"):
        MeanTest(2, 0.9, test.threshold).p_value(np.zeros((1, 2)))


def test_a_center_from_held_out_images_takes_none_that_are_not_finite():
    """Otherwise every batch would be infinitely far from the centre."""
    detector = detectors(center="validation")["typicality"]
    with pytest.raises(ValueError, match="1 of 500 held-out"):
        detector.fit(spoilt(score_table(500, 1), [9], math.inf), 2, 0.9, 50)


def test_a_part_that_is_the_same_for_every_image_tells_none_apart():
    """The log-det of additive couplings differs by the rounding of float32 at most."""
    tables = {seed: score_table(500, seed).assign(log_det=900.0) for seed in (0, 1)}
    rarity = fit_detectors(tables[0])[3].image_scores
    expected = rarity(tables[1])
    assert np.std(expected) > 0.1
    rounded = tables[1].assign(log_det=np.nextafter(np.float32(900), np.float32(901), dtype=np.float32))
    np.testing.assert_array_equal(rarity(rounded), expected)


def test_density_follows_from_its_seed_and_not_from_the_order_of_columns():
    train, table = score_table(500), score_table(50, 1)
    first, again, shuffled = (
        fit_detectors(train, seed=2)[3].image_scores(each) for each in (table, table, table[table.columns[::-1]])
    )
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, shuffled)


@pytest.mark.parametrize("rows", [2, 10, 99, 100, 220])
def test_few_training_images_are_enough_to_fit_to(rows):
    for detector in fit_detectors(score_table(rows)):
        assert np.isfinite(detector.image_scores(score_table(30, 1))).all()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (score_table(0), "no training scores"),
        (spoilt(score_table(30), [1, 5], math.nan), "2 of 30 training"),
        (spoilt(score_table(30), [1], -math.inf), "1 of 30 training"),
        (pd.concat([score_table(1)] * 30), "all equal"),
        (score_table(1), "all equal"),
    ],
    ids=["none", "nan", "infinity", "equal", "one"],
)
@pytest.mark.parametrize("center", ["train", "validation"])
def test_training_scores_that_nothing_can_be_fitted_to_are_refused(train, message, center):
    with pytest.raises(ValueError, match=message):
        fit_detectors(train, center)
