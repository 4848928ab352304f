"""Mean AUROCs over trainings."""

import numpy as np
import pandas as pd
from scipy import stats

from glow.ood import over_trainings


def ratios(auroc, detector="joint", dataset="svhn"):
    row = {"detector": detector, "dataset": dataset, "batch_size": 1, "auroc": auroc}
    return pd.DataFrame([row | {"auroc_low": auroc - 0.02, "auroc_high": auroc + 0.01}])


def test_the_interval_is_students():
    aurocs = np.random.default_rng(0).uniform(0.6, 0.8, size=4)
    row = over_trainings([ratios(auroc) for auroc in aurocs]).iloc[0]
    low, high = stats.t.interval(0.95, 3, loc=aurocs.mean(), scale=stats.sem(aurocs))
    np.testing.assert_allclose([row["auroc"], row["auroc_low"], row["auroc_high"]], [aurocs.mean(), low, high])
    np.testing.assert_allclose([row["auroc_sd"], row["images_low"]], [aurocs.std(ddof=1), aurocs.mean() - 0.02])


def test_the_interval_covers_the_mean_of_all_trainings_as_often_as_it_says():
    """Trainings whose AUROC is normal around 0.7: 2,000 groups of three, and three standard errors of the share."""
    rng = np.random.default_rng(1)
    covered = 0
    for aurocs in rng.normal(0.7, 0.01, size=(2000, 3)):
        row = over_trainings([ratios(auroc) for auroc in aurocs]).iloc[0]
        covered += row["auroc_low"] <= 0.7 <= row["auroc_high"]
    assert abs(covered / 2000 - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 2000)


def test_an_interval_ends_at_one_and_one_training_has_none():
    assert over_trainings([ratios(0.99), ratios(1.0)]).iloc[0]["auroc_high"] == 1
    alone = over_trainings([ratios(0.9)]).iloc[0]
    assert alone["trainings"] == 1
    assert np.isnan(alone["auroc_low"])


def test_only_what_every_training_was_tested_on_counts():
    more = pd.concat([ratios(0.9), ratios(0.8, dataset="textures"), ratios(np.nan, dataset="own")])
    table = over_trainings([more, pd.concat([ratios(0.7), ratios(np.nan, dataset="own")])])
    assert table[["dataset", "auroc"]].to_numpy().tolist() == [["svhn", 0.8]]
