"""Distances in features, against scikit-learn and on simulated features whose truth is known."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from glow.features import NEIGHBOURS, FeatureReferences
from glow.ood import MeanTest
from glow.ood.calibration import bounds_of
from glow.ood.detectors import MAHALANOBIS, NEAREST


def features(n, seed, shift=0.0, width=40):
    """Features of three classes, and their labels; those of other images are moved by `shift`."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=n)
    values = np.abs(rng.normal(size=(n, width)) * np.linspace(0.2, 2, width) + 2 * np.eye(3, width)[labels])
    values[:, 3:10] += shift
    return values.astype(np.float16), labels


def units(values):
    return values / np.linalg.norm(values.astype(float), axis=1, keepdims=True)


TRAIN, LABELS = features(900, 0)
OWN, FAR = features(500, 1)[0], features(400, 2, shift=0.8)[0]


def auroc(scores_of):
    own, far = scores_of(OWN), scores_of(FAR)
    return roc_auc_score(np.r_[np.zeros(len(own)), np.ones(len(far))], np.r_[own, far])


def test_neighbours_are_those_of_scikit_learn():
    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine", algorithm="brute").fit(TRAIN.astype(float))
    ours = FeatureReferences.fit(TRAIN)
    expected = nearest.kneighbors(OWN.astype(float))[0][:, -1]
    np.testing.assert_allclose(ours.from_neighbour(OWN), expected, atol=1e-6)
    left_out = nearest.kneighbors()[0][:, -1]  # without an argument, no image is a neighbour of itself
    np.testing.assert_allclose(ours.from_neighbour(TRAIN, own=True), left_out, atol=1e-6)
    theirs = auroc(lambda values: nearest.kneighbors(values.astype(float))[0][:, -1])
    assert auroc(ours.from_neighbour) == pytest.approx(theirs, abs=1e-6)
    assert 0.6 < theirs < 0.99


def test_the_distance_of_mahalanobis_is_that_of_scikit_learn():
    ours, shrunk = FeatureReferences.fit(TRAIN), LedoitWolf().fit(units(TRAIN))
    np.testing.assert_allclose(ours.from_classes(OWN), shrunk.mahalanobis(units(OWN)), rtol=1e-6)
    np.testing.assert_allclose(ours.from_classes(4 * OWN), ours.from_classes(OWN), rtol=1e-6)
    assert auroc(ours.from_classes) == pytest.approx(auroc(lambda x: shrunk.mahalanobis(units(x))), abs=1e-6)


def test_with_labels_it_is_the_distance_from_the_nearest_class():
    means = np.stack([units(TRAIN)[k == LABELS].mean(0) for k in range(3)])
    within = LedoitWolf(assume_centered=True).fit(units(TRAIN) - means[LABELS])
    expected = np.min([within.mahalanobis(units(OWN) - mean) for mean in means], axis=0)
    names = np.array([7, 3, 9])  # labels need not be 0, 1, 2
    np.testing.assert_allclose(FeatureReferences.fit(TRAIN, names[LABELS]).from_classes(OWN), expected, rtol=1e-6)


def test_fewer_images_than_features_and_constant_features_are_enough():
    values = np.c_[TRAIN[:15], np.full((15, 2), 3.0)]
    table = FeatureReferences.fit(values).distances(values, own=True)
    assert np.isfinite(table).all(axis=None)
    assert (table[NEAREST] > 0).all()


def test_features_that_are_not_finite_are_infinitely_far_and_no_reference():
    spoilt, train = OWN.copy(), TRAIN.copy()
    spoilt[3, 0], spoilt[8, 5], train[4, 1] = np.nan, np.inf, np.nan
    clean = FeatureReferences.fit(np.delete(TRAIN, 4, 0)).distances(OWN)
    table = FeatureReferences.fit(train).distances(spoilt)
    assert np.isinf(table.loc[[3, 8]]).all(axis=None)
    np.testing.assert_allclose(table.drop([3, 8]), clean.drop([3, 8]))
    own = FeatureReferences.fit(train).distances(train, own=True)
    assert np.flatnonzero(np.isinf(own[MAHALANOBIS])).tolist() == [4]
    assert (own[NEAREST] > 0).all()
    with pytest.raises(ValueError, match="1 training image"):
        FeatureReferences.fit(train[3:5])


def test_pieces_are_what_the_whole_gives(monkeypatch):
    references = FeatureReferences.fit(TRAIN)
    whole = references.from_neighbour(TRAIN, own=True)
    monkeypatch.setattr("glow.features.AT_ONCE", 7 * len(TRAIN))
    np.testing.assert_allclose(references.from_neighbour(TRAIN, own=True), whole, atol=1e-6)


@pytest.fixture(scope="module")
def pool():
    """Distances of 30,000 in-distribution images, from which simulations draw, and those of the references."""
    references = FeatureReferences.fit(TRAIN, LABELS)
    return references.distances(features(30_000, 5)[0]), references.distances(TRAIN, own=True)


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 2, 10])
@pytest.mark.parametrize("name", [NEAREST, MAHALANOBIS])
def test_false_alarms_keep_to_one_less_alpha_with_fifty_held_out_images(name, m, pool):
    """Over many draws of the held-out images, 5 % of in-distribution batches are called OOD, within 0.005."""
    own, of_train = (table[name].to_numpy() for table in pool)
    shares = []
    for draw in range(400):
        scores = np.random.default_rng([draw, m]).permutation(own)[: 50 + 100 * m]
        test = MeanTest.fit(scores[:50], m, 0.95, 1000, draw, interval=False, bounds=bounds_of(of_train))
        shares.append(test.is_ood(scores[50:].reshape(-1, m)).mean())
    exact = np.floor(0.05 * 51) / 51 if m == 1 else 0.05  # p-values of single images are multiples of 1 / 51
    assert np.mean(shares) == pytest.approx(exact, abs=0.005 + 2 * np.std(shares) / len(shares) ** 0.5)


LARGE = """
import resource, time, numpy as np
from glow.features import FeatureReferences
rng = np.random.default_rng(0)
train, images = (rng.standard_normal((n, 1280), np.float32).astype(np.float16) for n in (50_000, 10_000))
references = FeatureReferences(train, np.eye(1), np.zeros((1, 1)))
started = time.process_time(), time.monotonic()
found = references.from_neighbour(images)
print(time.process_time() - started[0], time.monotonic() - started[1],
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


@pytest.mark.timing
@pytest.mark.slow
def test_fifty_thousand_references_take_less_than_two_gigabytes_and_a_minute_of_two_cores():
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    processor, _, gigabytes = map(float, done.stdout.split())
    assert processor < 2 * 60
    assert gigabytes < 2
