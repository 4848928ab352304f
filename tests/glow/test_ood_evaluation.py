"""Evaluations of simulated score tables, whose truth is known."""

import math
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from glow.ood import (
    DETECTORS,
    OodSettings,
    TypicalityTest,
    calibration,
    evaluate_ood,
    fit_detectors,
    held_out_protocol,
    roc_estimates,
    split_test_protocol,
    wilson_interval,
)
from tests.glow.test_detectors import CORRELATION, NAMES, SDS, score_table, spoilt

SD = SDS * CORRELATION.sum() ** 0.5
"""Standard deviation of the NLL of a simulated table."""

INTERVAL = ("", "_low", "_high")


def settings(**changes):
    values: dict[str, Any] = {"batch_sizes": (1, 4), "alpha": 0.9, "bootstraps": 300} | changes
    return OodSettings(**values)


SOME = ("typicality", "likelihood", "density")


@cache
def trained(world):
    """The score table of the training images, and the detectors that were fitted to it."""
    train = score_table(2000, 2000 + world)
    return train, fit_detectors(train)


def evaluate(tests, world=0, class_names=None, held_out=400, detectors=SOME, **changes):
    """Evaluate with 2,000 training images; each world has different images."""
    deal = held_out_protocol(score_table(held_out, 1000 + world), tests)
    train, every = trained(world)
    chosen = [detector for detector in every if detector.name in detectors]
    return evaluate_ood(train, deal, settings(**changes), class_names, chosen)


def two_sets(own=300, far=250):
    return {"own": score_table(own, 1), "far": score_table(far, 2, shift=4 * SD)}


@pytest.fixture(autouse=True)
def rough_intervals(monkeypatch):
    """Bootstrap intervals of thresholds from few resamples, for speed."""
    monkeypatch.setattr(calibration, "RESAMPLES", 20)


def cell(table, **where):
    """The only row with these values."""
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


@pytest.fixture(scope="module")
def result():
    return evaluate(two_sets(), batch_sizes=(1, 4, 7), detectors=NAMES)


def test_there_is_a_row_for_each_detector_batch_size_and_data_set(result):
    keys = list(result.ratios[["detector", "batch_size", "dataset"]].itertuples(index=False, name=None))
    assert keys == [(detector, m, name) for detector in NAMES for m in (1, 4, 7) for name in ("own", "far")]
    assert list(result.ratios) == [
        *("detector", "dataset", "batch_size", "batches", "left_out", "non_finite"),
        *("ratio", "ratio_low", "ratio_high", "ratio_sd", "threshold", "threshold_low", "threshold_high"),
        *(f"{name}{end}" for name in ("auroc", "aupr", "fpr95") for end in INTERVAL),
    ]


def test_tables_have_their_columns_and_keys(result):
    assert list(result.power) == ["dataset", "batch_size", "batches", "ratio", "ratio_low", "ratio_high"]
    assert result.power["batch_size"].tolist() == [m for m in (1, 2, 3, 4, 5, 7) for _ in range(2)]
    assert list(result.per_class) == [
        *("dataset", "label", "class_name", "batch_size", "batches"),
        *("ratio", "ratio_low", "ratio_high"),
    ]
    assert len(result.per_class) == 2 * 3 * 3
    assert list(result.control) == [
        *("detector", "batch_size", "batches", "ratio", "ratio_low", "ratio_high", "as_expected"),
    ]
    assert result.control[["detector", "batch_size"]].to_records(index=False).tolist() == [
        (detector, m) for detector in NAMES for m in (1, 4, 7)
    ]
    assert list(result.statistics) == [
        (detector, name, m) for detector in NAMES for m in (1, 4, 7) for name in ("own", "far")
    ]


def test_rates_and_intervals_lie_in_order_between_0_and_1(result):
    for table, names in (
        (result.ratios, ("ratio",)),
        (result.ratios[result.ratios["dataset"] == "far"], ("auroc", "aupr", "fpr95")),
        (result.power, ("ratio",)),
        (result.per_class, ("ratio",)),
        (result.control, ("ratio",)),
    ):
        for name in names:
            low, value, high = (table[f"{name}{end}"].to_numpy() for end in ("_low", "", "_high"))
            assert ((low >= 0) & (low <= value) & (value <= high) & (high <= 1)).all()


@pytest.mark.parametrize("m", [1, 4, 7])
@pytest.mark.parametrize(("name", "n"), [("own", 300), ("far", 250)])
def test_batches_are_whole_and_images_left_out_are_counted(result, name, n, m):
    for detector in DETECTORS:
        row = cell(result.ratios, detector=detector, dataset=name, batch_size=m)
        assert (row["batches"], row["left_out"]) == divmod(n, m)
        assert len(result.statistics[detector, name, m]) == n // m


def test_ratios_are_about_the_shares_beyond_the_threshold(result):
    """At M > 1 p-values decide, which allow for the small number of 400 held-out images."""
    for row in result.ratios.to_dict("records"):
        values = result.statistics[row["detector"], row["dataset"], row["batch_size"]]
        ood = np.count_nonzero(values > row["threshold"])
        assert row["ratio"] == pytest.approx(ood / len(values), abs=1e-9 if row["batch_size"] == 1 else 0.1)
        interval = wilson_interval(row["ratio"] * len(values), len(values))
        assert (row["ratio_low"], row["ratio_high"]) == pytest.approx(interval)


def test_single_images_are_judged_as_the_typicality_test_judges_them(result):
    train, held_out = score_table(2000, 2000)["nll"], score_table(400, 1000)["nll"]
    test = TypicalityTest.fit(train, held_out, 1, 0.9)
    for name, table in two_sets().items():
        row = cell(result.ratios, detector="typicality", dataset=name, batch_size=1)
        assert row["threshold"] == test.threshold.value
        assert row["ratio"] == test.is_ood(table["nll"].to_numpy()[:, None]).mean()


def test_batches_are_judged_by_the_threshold_of_the_typicality_test(result):
    train, held_out = score_table(2000, 2000)["nll"], score_table(400, 1000)["nll"]
    test = TypicalityTest.fit(train, held_out, 4, 0.9, 300)
    row = cell(result.ratios, detector="typicality", dataset="own", batch_size=4)
    assert row["threshold"] == test.threshold.value
    # 4 divides 300, so that every image is in exactly one batch.
    assert result.statistics["likelihood", "own", 4].mean() == pytest.approx(two_sets()["own"]["nll"].mean())


def test_a_data_set_is_told_from_the_models_own_by_what_its_batches_came_to(result):
    for row in result.ratios.to_dict("records"):
        if row["dataset"] == "own":
            assert np.isnan([row[f"{name}{end}"] for name in ("auroc", "aupr", "fpr95") for end in INTERVAL]).all()
        else:
            own, far = (result.statistics[row["detector"], name, row["batch_size"]] for name in ("own", "far"))
            for name, estimate in roc_estimates(own, far, np.random.default_rng(0), resamples=1).items():
                assert row[name] == estimate.value


def test_a_far_set_is_found_and_the_models_own_passes(result):
    assert cell(result.ratios, detector="typicality", dataset="far", batch_size=7)["ratio"] == 1
    own = result.ratios[result.ratios["dataset"] == "own"]
    assert ((own["ratio"] > 0) & (own["ratio"] < 0.3)).all()


def test_no_other_set_is_needed():
    ratios = evaluate({"own": score_table(100, 1)}).ratios
    assert len(ratios) == 2 * len(SOME)
    assert ratios["auroc"].isna().all()


def test_power_repeats_what_was_asked_for_and_grows_with_batches_of_a_near_set():
    got = evaluate({"own": score_table(400, 1), "near": score_table(2000, 2, shift=0.7 * SD)}, batch_sizes=(2, 20))
    near = got.power[got.power["dataset"] == "near"].set_index("batch_size")["ratio"]
    assert near.index.tolist() == [1, 2, 3, 5, 7, 10, 15, 20]
    for m in (2, 20):
        assert near[m] == cell(got.ratios, detector="typicality", dataset="near", batch_size=m)["ratio"]
    for m in (1, 5, 20):  # the power of a two-sided z test
        z, shift = stats.norm.ppf(0.95), 0.7 * m**0.5
        assert near[m] == pytest.approx(stats.norm.sf(z - shift) + stats.norm.cdf(-z - shift), abs=0.12)
    assert near[20] > near[5] + 0.2 > near[1] + 0.4


def test_batch_sizes_come_in_any_order_and_count_once():
    expected, got = (evaluate(two_sets(), batch_sizes=sizes) for sizes in ((1, 4, 7), (7, 1, 4, 1)))
    for table in ("ratios", "power", "per_class", "control"):
        pd.testing.assert_frame_equal(getattr(got, table), getattr(expected, table))


def test_the_same_seed_gives_the_same_tables_and_another_seed_others():
    expected, again, other = (evaluate(two_sets(), seed=seed).ratios for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(again, expected)
    changed = other["threshold"] != expected["threshold"]
    assert changed[other["batch_size"] == 4].all()
    assert not changed[other["batch_size"] == 1].any()  # thresholds for single images are exact


def test_repeats_draw_thresholds_and_batches_anew():
    once, thrice = (evaluate(two_sets(), repeats=repeats, exact=False).ratios for repeats in (1, 3))
    assert once["ratio_sd"].isna().all()
    own = thrice["dataset"] == "own"
    assert (thrice[own & (thrice["batch_size"] == 4)]["ratio_sd"] > 0).any()
    assert (thrice["ratio_sd"] < 0.1).all()
    # The first repeat is the same as a single one.
    np.testing.assert_array_equal(thrice["threshold"], once["threshold"])
    assert (thrice["ratio"] != once["ratio"]).any()


def test_ratios_and_their_spread_are_over_repeats():
    deals = []

    def deal(repeat):
        """In the third of three repeats the model's own set is replaced by a far one."""
        deals.append(repeat)
        return score_table(400, 5), {"own": score_table(100, repeat, shift=0 if repeat < 2 else 20 * SD)}

    row = evaluate_ood(score_table(1000), deal, settings(batch_sizes=(1,), repeats=3)).ratios.iloc[0]
    assert deals == [0, 1, 2]
    held_out, train = score_table(400, 5)["nll"], score_table(1000)["nll"]
    test = TypicalityTest.fit(train, held_out, 1, 0.9)
    ratios = [test.is_ood(score_table(100, seed)["nll"].to_numpy()[:, None]).mean() for seed in (0, 1)] + [1.0]
    assert row["ratio"] == pytest.approx(np.mean(ratios))
    assert row["ratio_sd"] == pytest.approx(np.std(ratios, ddof=1))
    assert (row["ratio_low"], row["ratio_high"]) == pytest.approx(wilson_interval(100 * np.mean(ratios), 100))


def rows_of(table):
    """The images of a table, identified by their NLLs, which are all different."""
    return set(table["nll"])


def test_the_split_test_protocol_halves_its_own_set_and_takes_no_more_of_others():
    for n, half in ((10_000, 5000), (301, 150)):
        tests = {"own": score_table(n, 1), "large": score_table(6000, 2), "small": score_table(120, 3)}
        held_out, dealt = split_test_protocol(tests)(0)
        assert list(dealt) == ["own", "large", "small"]
        assert [len(table) for table in (held_out, *dealt.values())] == [half, half, half, 120]
        assert not rows_of(held_out) & rows_of(dealt["own"])
        assert rows_of(held_out) | rows_of(dealt["own"]) <= rows_of(tests["own"])
        assert rows_of(dealt["large"]) < rows_of(tests["large"])
        assert rows_of(dealt["small"]) == rows_of(tests["small"])


def test_the_split_test_protocol_deals_anew_by_repeat_and_seed_and_the_same_for_both():
    tests = {"own": score_table(400, 1), "far": score_table(400, 2)}

    def dealt(seed, repeat):
        held_out, sets = split_test_protocol(tests, seed)(repeat)
        return [frozenset(rows_of(table)) for table in (held_out, *sets.values())]

    assert dealt(0, 0) == dealt(0, 0)
    for other in (dealt(0, 1), dealt(1, 0)):
        assert all(a != b for a, b in zip(dealt(0, 0), other, strict=True))


def test_the_split_test_protocol_tests_like_any():
    tests = {"own": score_table(600, 1), "far": score_table(300, 2, shift=5 * SD)}
    got = evaluate_ood(score_table(1000), split_test_protocol(tests), settings(repeats=2, exact=False, bootstraps=50))
    assert cell(got.ratios, detector="typicality", dataset="far", batch_size=4)["ratio"] == 1
    assert cell(got.ratios, detector="typicality", dataset="own", batch_size=4)["batches"] == 300 // 4
    assert (got.ratios[got.ratios["dataset"] == "own"]["ratio"] < 0.35).all()


@pytest.mark.slow
def test_the_control_passes_for_in_distribution_data_as_often_as_it_should(monkeypatch):
    """The intervals of the control have a confidence of 95 % or more."""
    monkeypatch.setattr(calibration, "RESAMPLES", 60)
    worlds = range(30)
    controls = pd.concat(
        evaluate({"own": score_table(300, 3000 + world)}, world, seed=world, batch_sizes=(1, 3), bootstraps=200).control
        for world in worlds
    )
    for _, control in controls.groupby(["detector", "batch_size"]):
        passed = int(control["as_expected"].sum())
        assert stats.binomtest(passed, len(worlds), 0.95, alternative="less").pvalue > 1e-3
        assert control["ratio"].mean() == pytest.approx(0.1, abs=0.02)
        assert (control["ratio_high"] - control["ratio_low"]).mean() < 0.27


@pytest.mark.parametrize(("shift", "finders"), [(2, ["typicality", "likelihood", "density"]), (-2, ["typicality"])])
def test_the_control_fails_for_a_shifted_set(shift, finders):
    control = evaluate({"own": score_table(300, 1, shift=shift * SD)}).control
    for name in finders:
        assert not control[control["detector"] == name]["as_expected"].any()


def test_the_control_fails_if_too_few_are_called_ood():
    """A set that lacks its tails is never called OOD."""
    table = score_table(3000, 1)
    middle = table[(table["nll"] - table["nll"].mean()).abs() < SD]
    row = cell(evaluate({"own": middle}).control, detector="typicality", batch_size=1)
    assert row["ratio"] == 0
    assert not row["as_expected"]


def test_the_control_allows_for_an_uncertain_threshold(monkeypatch):
    monkeypatch.setattr(calibration, "RESAMPLES", 200)
    tests = {"own": score_table(1500, 1)}
    few, many = (cell(evaluate(tests, held_out=n).control, detector="typicality", batch_size=1) for n in (60, 3000))
    for row in (few, many):
        low, high = wilson_interval(row["ratio"] * 1500, 1500)
        assert row["ratio_low"] < low
        assert row["ratio_high"] > high
    assert few["ratio_high"] - few["ratio_low"] > 2 * (many["ratio_high"] - many["ratio_low"])


def test_per_class_finds_the_class_that_passes():
    near, far = score_table(120, 2), score_table(240, 3, shift=6 * SD)
    tests = {
        "own": score_table(300, 1),
        "mixed": pd.concat([near.assign(label=1), far.assign(label=np.repeat([0, 2], 120))]),
    }
    got = evaluate(tests, class_names={"mixed": ["bag", "shoe", "coat"]}).per_class
    mixed = got[(got["dataset"] == "mixed") & (got["batch_size"] == 4)]
    assert mixed["class_name"].tolist() == ["bag", "shoe", "coat"]
    assert mixed["batches"].tolist() == [30, 30, 30]
    assert mixed["ratio"].tolist() == [1, pytest.approx(0.1, abs=0.15), 1]
    # Classes without names have numbers.
    assert set(got[got["dataset"] == "own"]["class_name"]) == {"0", "1", "2"}


def test_per_class_takes_the_threshold_of_the_whole_set():
    tests = two_sets()
    got = evaluate(tests)
    threshold = cell(got.ratios, detector="typicality", dataset="own", batch_size=1)["threshold"]
    nll = tests["own"].query("label == 2")["nll"]
    row = cell(got.per_class, dataset="own", label=2, batch_size=1)
    assert row["ratio"] == np.mean(np.abs(nll - score_table(2000, 2000)["nll"].mean()) > threshold)
    assert (row["ratio_low"], row["ratio_high"]) == wilson_interval(row["ratio"] * len(nll), len(nll))


def test_a_class_that_fills_no_batch_has_no_row_and_no_classes_give_an_empty_table():
    table = score_table(30, 1).assign(label=np.repeat([0, 1], [27, 3]))
    assert evaluate({"own": table}).per_class[["label", "batch_size"]].to_numpy().tolist() == [[0, 1], [0, 4], [1, 1]]
    scattered = score_table(30, 1).assign(label=np.arange(30))
    none = evaluate({"own": scattered}, batch_sizes=(4,)).per_class
    assert none.empty
    assert list(none) == list(evaluate({"own": table}).per_class)


@pytest.mark.parametrize("label", [0, 7])
def test_a_set_of_one_class_is_that_class(label):
    got = evaluate({"own": score_table(100, 1).assign(label=label)}, batch_sizes=(1,))
    row = cell(got.per_class, dataset="own")
    assert row["label"] == label
    assert row["ratio"] == cell(got.ratios, detector="typicality", dataset="own")["ratio"]


@pytest.mark.parametrize("value", [math.inf, math.nan, -math.inf])
def test_images_that_are_not_finite_are_counted_and_ood(value):
    tests = two_sets(far=100)
    tests["far"] = spoilt(score_table(100, 1), range(30), value)
    tests["none finite"] = spoilt(score_table(20, 1), range(20), value)
    clean = evaluate(tests | {"far": score_table(100, 1)}, detectors=DETECTORS).ratios
    got = evaluate(tests, detectors=DETECTORS).ratios
    assert got.groupby("dataset")["non_finite"].unique().to_dict() == {"own": 0, "far": 30, "none finite": 20}
    for name in DETECTORS:
        passed = 1 - cell(got, detector=name, dataset="far", batch_size=1)["ratio"]
        before = 1 - cell(clean, detector=name, dataset="far", batch_size=1)["ratio"]
        assert before - 0.3 <= passed + 1e-12
        assert passed <= 0.7 + 1e-12
        row = cell(got, detector=name, dataset="none finite", batch_size=4)
        assert (row["ratio"], row["auroc"], row["aupr"], row["fpr95"]) == (1, 1, 1, 0)


def test_some_held_out_images_that_are_not_finite_leave_tests_that_tell():
    held_out = spoilt(score_table(400, 9), [3, 4], math.inf)
    got = evaluate_ood(score_table(1000), held_out_protocol(held_out, two_sets()), settings())
    assert np.isfinite(got.ratios["threshold"]).all()
    assert (got.ratios[got.ratios["dataset"] == "own"]["ratio"] < 0.3).all()
    assert cell(got.ratios, detector="typicality", dataset="far", batch_size=4)["ratio"] == 1


@pytest.mark.parametrize(
    ("held_out", "sets", "changes", "message"),
    [
        (400, {"own": 20, "far": 7}, {"batch_sizes": (1, 8)}, r"far: 7\b.*\b8\b"),
        (400, {"own": 7, "far": 20}, {"batch_sizes": (8, 1)}, r"own: 7\b.*\b8\b"),
        (400, {"own": 20, "far": 0}, {"batch_sizes": (1,)}, r"far: 0\b.*\b1\b"),
        (7, {"own": 20}, {"batch_sizes": (8,)}, r"held-out images: 7\b.*\b8\b"),
        (50, {"own": 20}, {"alpha": 0.99}, r"50 held-out .*0\.99 .*\b99\b"),
    ],
)
def test_sets_that_are_too_small_are_refused_by_name(held_out, sets, changes, message):
    tests = {name: score_table(n, 3) for name, n in sets.items()}
    with pytest.raises(ValueError, match=message):
        evaluate(tests, held_out=held_out, **changes)


def test_held_out_images_that_settle_no_single_image_still_settle_the_batches_asked_for():
    got = evaluate({"own": score_table(60, 3)}, held_out=50, alpha=0.99, batch_sizes=(5,))
    assert got.power["batch_size"].tolist() == [2, 3, 5]
    rough = evaluate({"own": score_table(60, 3)}, held_out=50, alpha=0.99, batch_sizes=(5,), exact=False)
    assert rough.power["batch_size"].tolist() == [1, 2, 3, 5]


def test_power_leaves_out_batch_sizes_that_need_more_held_out_images_for_alpha():
    got = evaluate({"own": score_table(60, 3)}, held_out=100, alpha=0.9999, batch_sizes=(7,), detectors=SOME[:1])
    assert got.power["batch_size"].tolist() == [3, 5, 7]  # 102 * 101 / 2 choices of 2 images are fewer than 10,000


def test_training_scores_that_are_not_finite_are_refused():
    deal = held_out_protocol(score_table(400, 1), two_sets())
    with pytest.raises(ValueError, match=r"1 of 50 training"):
        evaluate_ood(spoilt(score_table(50), [0], math.inf), deal, settings())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_sizes": ()}, "batch_sizes is empty"),
        ({"batch_sizes": (1, 0)}, r"batch_sizes .*\b0"),
        ({"bootstraps": 0}, r"bootstraps .*\b0"),
        ({"repeats": 0}, r"repeats .*\b0"),
        *(({"alpha": alpha}, f"alpha .*, not {alpha}") for alpha in (0, 1, -1, math.nan)),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        OodSettings(**values)


def test_tables_given_are_not_changed():
    tests = two_sets()
    before = {name: table.copy() for name, table in tests.items()}
    evaluate_ood(score_table(500), split_test_protocol(tests), settings())
    for name, table in tests.items():
        pd.testing.assert_frame_equal(table, before[name])
