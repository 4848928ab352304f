"""The verdict on a batch, on simulated scores whose truth is known, and with a small model of real digits."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from glow import FitConfig, Glow, GlowConfig, fit, load_dataset, score
from glow.datasets import open_dataset
from glow.datasets.corruptions import for_recommendation
from glow.ood import Calibration, ImageCheck, TypicalityTest

COLUMNS = ["nll", "log_det", "log_prior_1", "log_det_1", "complexity", "latent_anderson", "latent_spectrum"]
COLUMNS += ["latent_neighbours", "latent_power_1", "latent_rows_1", "latent_columns_1"]


def table(rng, n, shift=0.0):
    return pd.DataFrame(rng.normal(10 + shift, 1, (n, len(COLUMNS))), columns=COLUMNS).assign(finite=True)


def check_of(rng, held_out, detector="likelihood"):
    return ImageCheck(Calibration.of(table(rng, 60), table(rng, held_out), table(rng, 20).assign(label=0)), detector)


@pytest.fixture(scope="module")
def digits():
    """A small model of the digits, its calibration, and its test images with their scores."""
    train, validation, test = (load_dataset("digits", split)[0] for split in ("train", "validation", "test"))
    torch.manual_seed(0)
    model = Glow(GlowConfig(image_shape=(1, 8, 8), levels=2, depth=2, width=16, scale="bounded"))
    fit(model, train, config=FitConfig(epochs=2, batch_size=64, warmup_steps=10, learning_rate=3e-3))
    corrupted = for_recommendation(open_dataset("digits", "validation"))
    of_corrupted = score(model, corrupted.images(), corrupted.labels)
    return model, Calibration.of(score(model, train), score(model, validation), of_corrupted), score(model, test)


@pytest.mark.slow
@pytest.mark.parametrize(("held_out", "images"), [(60, 20), (60, 150), (199, 1)])
def test_at_most_one_minus_alpha_of_the_batches_that_belong_are_strange(held_out, images, monkeypatch):
    monkeypatch.setattr("glow.ood.check.CHOICES", 199)
    rng, alpha, repeats = np.random.default_rng([held_out, images]), 0.9, 60
    strange = []
    for seed in range(repeats):
        verdict = check_of(rng, held_out)(table(rng, images), alpha, seed=seed)
        strange.append(not verdict.belongs)
    assert np.mean(strange) <= 1 - alpha + 2 * math.sqrt(alpha * (1 - alpha) / repeats)


def test_a_batch_that_has_moved_is_strange_and_its_far_images_are_listed():
    rng = np.random.default_rng(0)
    check = check_of(rng, 500)
    mixed = pd.concat([table(rng, 90), table(rng, 10, shift=9)], ignore_index=True)
    verdict = check(mixed)
    assert not verdict.belongs
    assert verdict.images["flagged"][90:].all()
    assert set(verdict.furthest[:10]) == set(range(90, 100))
    assert verdict.p_value == 2 * min(verdict.p_values.values())
    assert set(verdict.p_values) == {"typicality", "likelihood"}


def test_one_detector_is_one_test():
    rng = np.random.default_rng(0)
    verdict = check_of(rng, 500, "typicality")(table(rng, 50))
    assert verdict.p_values == {"typicality": verdict.p_value}


def test_a_batch_of_one_image_has_the_p_value_of_the_image():
    rng = np.random.default_rng(0)
    verdict = check_of(rng, 500)(table(rng, 1, shift=5))
    assert verdict.p_values == {name: verdict.images[f"p_{name}"][0] for name in ("typicality", "likelihood")}
    assert verdict.p_values["likelihood"] == 1 / 501


@pytest.mark.parametrize(("held_out", "images", "alpha"), [(198, 1, 0.99), (5, 3, 0.99), (12, 2, 0.99), (19, 1, 0.95)])
def test_it_refuses_where_no_batch_could_be_strange(held_out, images, alpha):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=rf"{held_out} held-out images.*{alpha}"):
        check_of(rng, held_out)(table(rng, images), alpha)


@pytest.mark.parametrize(("held_out", "images", "alpha"), [(199, 1, 0.99), (8, 4, 0.99), (39, 1, 0.95)])
def test_it_does_not_refuse_where_one_could_be(held_out, images, alpha):
    rng = np.random.default_rng(0)
    assert not check_of(rng, held_out)(table(rng, images, shift=100), alpha).belongs


def test_it_refuses_an_empty_batch_and_an_unknown_detector():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no images"):
        check_of(rng, 500)(table(rng, 0))
    with pytest.raises(ValueError, match=r"'nothing'.*joint"):
        check_of(rng, 500, "nothing")


def test_images_whose_scores_are_not_finite_are_the_furthest():
    rng = np.random.default_rng(0)
    broken = table(rng, 50)
    broken.loc[7, COLUMNS], broken.loc[7, "finite"] = np.nan, False
    for detector in ("likelihood", "typicality", "joint", "density"):
        verdict = check_of(rng, 2000, detector)(broken)
        assert verdict.furthest[0] == 7
        assert verdict.images[f"p_{detector}"][7] == 1 / 2001


def test_a_calibration_is_the_same_after_it_was_saved(digits, tmp_path):
    _, calibration, scores = digits
    calibration.save(tmp_path / "scores.safetensors")
    again = Calibration.load(tmp_path / "scores.safetensors")
    assert (again.recommended, again.noise_seed) == (calibration.recommended, 0)
    expected, found = ImageCheck(calibration)(scores), ImageCheck(again)(scores)
    pd.testing.assert_frame_equal(found.images, expected.images)
    assert found.p_values == expected.p_values


def test_the_digits_belong_and_photographs_do_not(digits):
    model, calibration, scores = digits
    check = ImageCheck(calibration)
    assert check(scores).belongs
    photos = score(model, load_dataset("photos", "test", image_shape=(1, 8, 8))[0][:100])
    verdict = check(photos)
    assert not verdict.belongs
    assert verdict.images["flagged"].mean() > 0.9


def test_scores_that_allow_no_recommendation_leave_typicality():
    rng = np.random.default_rng(0)
    train = table(rng, 50)
    broken = train.assign(nll=np.nan)
    assert Calibration.of(broken, train, train.assign(label=0)).recommended == "typicality"


def test_whole_scores_are_kept_of_some_training_images_and_the_nll_of_all():
    rng = np.random.default_rng(0)
    train = table(rng, 6000)
    calibration = Calibration.of(train, table(rng, 50), table(rng, 50, 3).assign(label=0))
    assert (len(calibration.train), len(calibration.train_nll)) == (5000, 6000)
    test = calibration.detectors["typicality"].fit(calibration.held_out, 1, 0.5)
    assert isinstance(test, TypicalityTest)
    assert test.center == pytest.approx(train["nll"].mean())
