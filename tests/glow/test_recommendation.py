"""Recommendations on simulated score tables, whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from glow.figures.pictures import batch_sizes_that_catch, corruption_grid
from glow.ood import (
    DETECTORS,
    OodSettings,
    corruption_power,
    evaluate_ood,
    fit_detectors,
    held_out_protocol,
    recommend,
    regret,
    roc_estimates,
)
from tests.glow.test_detectors import score_table

TRAIN, HELD_OUT = score_table(1000), score_table(300, 1)


def corrupted(*kinds, n=200):
    """One score table of several kinds of corruption, whose labels are the numbers of the kinds."""
    tables = [score_table(n, 10 + label, **kind) for label, kind in enumerate(kinds)]
    return pd.concat([table.assign(label=label) for label, table in enumerate(tables)], ignore_index=True)


def test_images_of_new_classes_count_as_much_as_all_corruptions():
    """Corruptions that change pixels alone hide what detects new things."""
    blurred, new = corrupted({"alike": 0.03}, {"alike": 0.05}), score_table(200, 20, foreign=3.0)
    alone = recommend(fit_detectors(TRAIN), HELD_OUT, blurred, ["a", "b"])
    both = recommend(fit_detectors(TRAIN), HELD_OUT, blurred, ["a", "b"], new)
    assert alone.detector == "whiteness"
    assert both.detector == "combined"
    assert list(both.aurocs) == ["a", "b", "new classes", "mean"]
    mean = (both.aurocs[["a", "b"]].mean(axis=1) + both.aurocs["new classes"]) / 2
    np.testing.assert_allclose(both.aurocs["mean"], mean)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [({"smooth": 15.0}, "neighbours"), ({"pattern": 0.2}, "latents"), ({"simpler": 60}, "complexity")],
)
def test_the_detector_is_recommended_that_sees_what_changed(kind, expected):
    found = recommend(fit_detectors(TRAIN), HELD_OUT, corrupted(kind, kind), ["a", "b"])
    assert found.detector == expected
    assert list(found.aurocs.index) == [name for name in DETECTORS if name != "ratio"]
    assert list(found.aurocs) == ["a", "b", "mean"]


def test_the_mean_over_corruptions_decides_and_is_of_aurocs():
    table = corrupted({"smooth": 15.0}, {"simpler": 60}, {"noisy": 1.0})
    found = recommend(fit_detectors(TRAIN), HELD_OUT, table, ["a", "b", "c"])
    assert found.detector == found.aurocs["mean"].idxmax()
    np.testing.assert_allclose(found.aurocs["mean"], found.aurocs[["a", "b", "c"]].mean(axis=1))
    detector = fit_detectors(TRAIN)[1]
    own, changed = (detector.image_scores(each) for each in (HELD_OUT, table[table["label"] == 1]))
    expected = roc_estimates(own, changed, np.random.default_rng(0), resamples=1)["auroc"].value
    assert found.aurocs.loc["likelihood", "b"] == pytest.approx(expected)


def test_regret_is_what_the_best_detector_in_hindsight_has_more():
    tests = {"own": score_table(300, 2), "smooth": score_table(300, 3, smooth=15.0)}
    settings = OodSettings(batch_sizes=(1, 5), alpha=0.9, bootstraps=200)
    result = evaluate_ood(TRAIN, held_out_protocol(HELD_OUT, tests), settings)
    table = regret(result.ratios, "typicality")
    assert table[["dataset", "batch_size"]].to_numpy().tolist() == [["smooth", 1], ["smooth", 5]]
    assert set(table["best_detector"]) == {"neighbours"}
    assert (table["best_auroc"] > table["auroc"]).all()
    assert (regret(result.ratios, "neighbours")["best_auroc"] == regret(result.ratios, "neighbours")["auroc"]).all()


def power_of(kind, batch_sizes=(1, 2, 10)):
    table = corrupted({}, kind, n=400)
    detectors = [each for each in fit_detectors(TRAIN) if each.name in ("typicality", "neighbours")]
    settings = OodSettings(batch_sizes=batch_sizes, alpha=0.95, bootstraps=500)
    return corruption_power(detectors, HELD_OUT, table, ["fade1", "fade2"], settings)


def test_power_is_the_share_of_batches_called_ood():
    power = power_of({"smooth": 30.0})
    assert list(power.columns) == [
        *("detector", "corruption", "severity", "batch_size", "batches", "ratio", "ratio_low", "ratio_high"),
    ]
    assert len(power) == 2 * 3 * 2
    of = power.set_index(["detector", "severity", "batch_size"])["ratio"]
    assert of["neighbours", 2, 10] == 1
    assert of["neighbours", 1, 1] == pytest.approx(0.05, abs=0.05)
    assert of["typicality", 2, 1] == pytest.approx(0.05, abs=0.05)
    assert ((power["ratio_low"] <= power["ratio"]) & (power["ratio"] <= power["ratio_high"])).all()


def test_a_kind_that_fills_no_batch_has_no_row():
    table = corrupted({}, n=20)
    settings = OodSettings(batch_sizes=(1, 21), alpha=0.95, bootstraps=100)
    power = corruption_power(fit_detectors(TRAIN)[:1], HELD_OUT, table, ["fade1"], settings)
    assert power["batch_size"].tolist() == [1]


def test_the_least_batch_size_that_catches_is_one_from_which_all_larger_ones_do():
    shares = {1: 0.2, 2: 0.96, 5: 0.9, 10: 0.97, 25: 1.0}
    rows = [
        {"corruption": "fade", "severity": severity, "batch_size": m, "ratio": share if severity == 2 else 0.1}
        for severity in (1, 2)
        for m, share in shares.items()
    ]
    assert batch_sizes_that_catch(pd.DataFrame(rows)).to_numpy().tolist() == [[np.inf, 10]]


def test_the_grid_names_corruptions_and_says_what_is_never_caught():
    figure = corruption_grid(power_of({"smooth": 30.0}).query("detector == 'neighbours'"), "Drift")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fade"]
    assert "> 10" in [text.get_text() for text in axes.texts]
    with pytest.raises(ValueError, match="'None'"):
        corruption_grid(pd.DataFrame(columns=["corruption"]), "None")
