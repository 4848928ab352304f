"""The tables and sentences of results, and the text of an OOD test."""

import math
from typing import Any

import pytest

from glowctl.display.displays import PlainLines
from glowctl.display.events import Ood
from glowctl.display.tables import (
    as_markdown,
    as_text,
    auroc_table,
    bound_table,
    caught_table,
    escaped,
    nll_table,
    regret_table,
    share_table,
)


def ratio(detector, dataset, m=1, **known):
    """A row of the table `ood`; what is not given is not a number."""
    names = ("ratio", "ratio_low", "ratio_high", "ratio_sd", "auroc", "auroc_low", "auroc_high")
    return {"detector": detector, "dataset": dataset, "batch_size": m} | dict.fromkeys(names, math.nan) | known


def separated(detector, dataset, auroc, m=1):
    return ratio(detector, dataset, m, auroc=auroc, auroc_low=auroc - 0.01, auroc_high=auroc + 0.01)


ROWS = [
    ratio("typicality", "digits"),
    separated("typicality", "noise", 0.97),
    separated("joint", "noise", 0.86),
    separated("joint", "noise", 0.95, m=5),
    separated("log_det_1", "noise", 0.5),
]


def cells(table):
    """Return the rows of a table as texts, which its renderers must contain."""
    rows = [[str(cell) for cell in row] for row in table.rows]
    for row in rows:
        assert all(cell in as_text(table) and escaped(cell) in as_markdown(table) for cell in row)
    return rows


def test_aurocs_are_laid_out_by_data_set_and_batch_size_without_detectors_of_one_level():
    table = auroc_table(ROWS)
    assert table.head == ["data set", "M", "typicality", "joint"]
    assert cells(table) == [
        ["noise", "1", "0.9700 (0.9600-0.9800)", "0.8600 (0.8500-0.8700)"],
        ["", "5", "-", "0.9500 (0.9400-0.9600)"],
    ]
    assert "0.9600" not in as_text(table, below=False)


def test_a_recommendation_is_compared_with_the_best_detector_in_hindsight():
    row = {"dataset": "noise", "batch_size": 1, "detector": "joint", "best_detector": "typicality"}
    [shown] = cells(regret_table(ROWS, [row], "joint"))
    assert shown == ["noise M=1", "0.8600 (0.8500-0.8700)", "0.9700 (0.9600-0.9800)", "typicality"]


@pytest.mark.parametrize(("sd", "text"), [(math.nan, "21.00 (20.00-22.00)"), (0.013, "21.00 ± 1.30 (20.00-22.00)")])
def test_shares_are_in_percent_with_their_deviation_if_there_are_repeats(sd, text):
    row = ratio("joint", "noise", 5, ratio=0.21, ratio_low=0.2, ratio_high=0.22, ratio_sd=sd)
    table = share_table([row, ratio("joint", "digits", 1, ratio=0, ratio_low=0, ratio_high=0.1)], "joint")
    assert table.head == ["data set", "M=1", "M=5"]
    assert cells(table)[0] == ["noise", "-", text]
    assert bool(table.notes) == math.isfinite(sd)


def test_a_corruption_that_no_batch_size_detects_says_so():
    table = caught_table([{"corruption": "blur", "batch_sizes": [None, 25, 1]}], largest=25)
    assert cells(table) == [["blur", "> 25", "25", "1"]]


def test_likelihoods_and_bounds_are_in_bits_per_dimension():
    row: dict[str, Any] = {"dataset": "digits", "images": 2000, "non_finite": 1, "bits_per_dim_median": 12345.6}
    row |= {"bits_per_dim": math.inf, "bits_per_dim_low": math.nan, "bits_per_dim_high": math.nan}
    assert cells(nll_table([row | {"bits_per_dim_original": math.nan}], "test")) == [
        ["digits", "inf", "-", "1.23e+04", "-", "2,000", "1"]
    ]
    bound = {"dataset": "digits", "noise_samples": 16, "bits_per_dim": 1.5, "bits_per_dim_low": 1.4}
    bound |= {"bits_per_dim_high": 1.6, "gain": 0.0512, "gain_low": 0.05, "gain_high": 0.0524}
    table = bound_table([bound])
    assert "16 noise samples" in table.caption
    assert cells(table) == [["digits", "1.500", "1.400 to 1.600", "0.0512 (0.0500 to 0.0524)"]]


@pytest.mark.parametrize(
    ("recommended", "shown", "failed"), [("joint", ["21.00", "84.00"], True), (None, ["21.00"], False)]
)
def test_the_decisions_of_the_recommended_detector_are_shown_and_controlled(recommended, shown, failed):
    shares = {"typicality": (0.01, 0.21), "joint": (0.03, 0.84), "likelihood": (0.02, 0.55)}
    event = Ood(
        run="ood x",
        run_id="abc",
        protocol="held-out",
        alpha=0.99,
        bootstraps=100,
        repeats=1,
        in_distribution="digits",
        rows=[
            ratio(detector, name, ratio=share, ratio_low=share - 0.01, ratio_high=share + 0.01)
            for detector, both in shares.items()
            for name, share in zip(("digits", "noise"), both, strict=True)
        ],
        control=[
            ratio(detector, "digits", ratio=own, ratio_low=own, ratio_high=own, as_expected=own < 0.03)
            for detector, (own, _) in shares.items()
        ],
        passing=[],
        recommended=recommended,
        place="outputs",
        open_with="glowctl ui",
    )
    text = PlainLines().text(event)
    assert text is not None
    assert [share for share in ("21.00", "84.00", "55.00") if share in text] == shown
    assert ("FAILED" in text, "3.00 % (3.00-3.00) at M=1 by joint" in text) == (failed, failed)
