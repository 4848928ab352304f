import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from glow.comparison import (
    STATES,
    compare_images,
    conclusions,
    configuration_names,
    holm,
    paired_differences,
    summarize,
    unfinished,
)

FACTORS = ["permutation", "depth"]
PERMUTATIONS = ["reverse", "shuffle", "1x1"]
UNFINISHED = [state for state in STATES if state != "finished"]


def trial(permutation="1x1", depth=8, seed=0, nll=3.0, state="finished", reason=None, **others):
    return {
        "permutation": permutation,
        "depth": depth,
        "seed": seed,
        "state": state,
        "test_bits_per_dim": nll if state == "finished" else math.nan,
        "validation_bits_per_dim": nll - 0.1,
        "images_per_second": 100.0,
        "parameters": 1000 * depth,
        "gpu_seconds": 60.0 + seed,
        "core_seconds": 240.0,
        "reason": reason,
    } | others


def grid(nll, permutations=PERMUTATIONS, depths=(8,), seeds=range(3)):
    """A grid of finished trials, whose NLL is nll(permutation, depth, seed)."""
    units = itertools.product(permutations, depths, seeds)
    return pd.DataFrame([trial(*unit, nll=nll(*unit)) for unit in units])


def of_values(*nlls_by_value):
    """One configuration per value a, b, ..., each with these NLLs at seeds 0, 1, ..."""
    values = dict(zip("abcdefgh", nlls_by_value, strict=False))
    return pd.DataFrame(
        [trial(value, seed=seed, nll=nll) for value, nlls in values.items() for seed, nll in enumerate(nlls)]
    )


def between(differences, a, b):
    (row,) = differences[(differences["a"] == a) & (differences["b"] == b)].to_dict("records")
    return row


def assert_in_order(sentence, *facts):
    """Check that the sentence contains all facts, in this order."""
    position = 0
    for fact in facts:
        assert fact in sentence[position:]
        position = sentence.index(fact, position) + len(fact)


def noisy(n_values, seeds=5, seed=0, spread=0.02):
    """NLLs (values, seeds) with a large variance between seeds, which all values share."""
    rng = np.random.default_rng(seed)
    shift = 0.03 * np.arange(n_values)[:, None]
    return 3 + shift + rng.normal(scale=0.5, size=seeds) + rng.normal(scale=spread, size=(n_values, seeds))


# Means


def test_a_mean_has_students_interval_over_seeds():
    trials = grid(lambda permutation, depth, seed: 3 + seed**2 / 10 + depth / 100, depths=(8, 4))
    summary = summarize(trials, FACTORS)
    assert list(zip(summary["permutation"], summary["depth"], strict=True)) == [
        (permutation, depth) for permutation in PERMUTATIONS for depth in (8, 4)
    ]
    for row in summary.to_dict("records"):
        nlls = np.array([3, 3.1, 3.4]) + row["depth"] / 100
        low, high = stats.t.interval(0.95, 2, nlls.mean(), stats.sem(nlls))
        assert (row["bits_per_dim"], row["bits_per_dim_low"], row["bits_per_dim_high"], row["best"]) == pytest.approx(
            (nlls.mean(), low, high, nlls.min())
        )
        assert (row["seeds"], row["unfinished"], row["parameters"]) == (3, 0, 1000 * row["depth"])
        assert row["validation_bits_per_dim"] == pytest.approx(nlls.mean() - 0.1)
        assert (row["images_per_second"], row["gpu_seconds"], row["core_seconds"]) == (100, 61, 240)


@pytest.mark.parametrize("state", UNFINISHED)
def test_only_finished_trials_count_in_a_mean(state):
    finished = [trial(seed=0, nll=3.0), trial(seed=1, nll=3.2)]
    other = trial(seed=2, state=state) | {"test_bits_per_dim": 9.0, "images_per_second": 1e6, "gpu_seconds": 1e6}
    alone, beside = (summarize(pd.DataFrame(rows), FACTORS) for rows in (finished, [other, *finished]))
    assert beside.loc[0, "unfinished"] == 1
    pd.testing.assert_frame_equal(alone.drop(columns="unfinished"), beside.drop(columns="unfinished"))


def test_one_seed_has_a_mean_without_an_interval_and_none_has_neither():
    trials = pd.DataFrame([trial("a", nll=3.5), trial("b", state="failed"), trial("b", seed=1, state="killed")])
    one, none = summarize(trials, FACTORS).to_dict("records")
    assert (one["bits_per_dim"], one["best"], one["seeds"]) == (3.5, 3.5, 1)
    assert math.isnan(one["bits_per_dim_low"])
    assert math.isnan(one["bits_per_dim_high"])
    assert (none["seeds"], none["unfinished"], none["parameters"]) == (0, 2, 8000)
    for name in ("bits_per_dim", "bits_per_dim_low", "best", "validation_bits_per_dim", "gpu_seconds"):
        assert math.isnan(none[name])


def test_a_duplicate_counts_once_and_a_failure_that_finished_later_is_not_missing():
    trials = pd.DataFrame(
        [trial("b", state="failed"), trial("a", nll=3.0), trial("a", nll=9.0), trial("b", nll=3.5), trial("b", nll=8.0)]
    )
    summary = summarize(trials, FACTORS).set_index("permutation")
    assert summary["bits_per_dim"].to_dict() == {"a": 3.0, "b": 3.5}
    assert summary["seeds"].to_dict() == {"a": 1, "b": 1}
    assert not summary["unfinished"].any()
    assert unfinished(trials, FACTORS) == []
    assert between(paired_differences(trials, FACTORS), "b", "a")["difference"] == 0.5


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_an_nll_that_is_not_finite_makes_its_mean_infinite_and_decides_nothing(bad):
    trials = of_values([3.0, 3.1, bad], [3.2, 3.3, 3.4], [bad, 3.1, bad])
    summary = summarize(trials, FACTORS).set_index("permutation")
    assert summary["bits_per_dim"].to_dict() == {"a": math.inf, "b": pytest.approx(3.3), "c": math.inf}
    assert summary["best"].to_dict() == {"a": 3.0, "b": 3.2, "c": 3.1}
    differences = paired_differences(trials, FACTORS)
    assert between(differences, "a", "b")["difference"] == math.inf
    assert between(differences, "b", "c")["difference"] == -math.inf
    assert math.isnan(between(differences, "a", "c")["difference"])
    assert differences[["low", "high", "p", "p_holm"]].isna().all(axis=None)
    (sentence,) = conclusions(differences)
    assert_in_order(sentence, "permutation: ", UNDECIDED, "b and a", "c and a", "b and c", "infinite")
    assert BETTER not in sentence


# Differences


@pytest.mark.parametrize("seeds", [2, 5, 12])
def test_a_difference_is_scipys_paired_t_test(seeds):
    a, b = noisy(2, seeds)
    (row,) = paired_differences(of_values(a, b), FACTORS).to_dict("records")
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert row["p"] == row["p_holm"] == pytest.approx(expected.pvalue)
    assert (row["difference"], row["low"], row["high"]) == pytest.approx(((a - b).mean(), *interval))
    assert (row["factor"], row["seeds"], row["configurations"]) == ("permutation", seeds, 1)


def test_seeds_are_the_units_however_many_configurations_there_are():
    rng = np.random.default_rng(0)
    nlls = {unit: rng.normal(3) for unit in itertools.product("ab", (8, 16, 32), range(4))}
    trials = grid(lambda *unit: nlls[unit], permutations="ab", depths=(8, 16, 32), seeds=range(4))
    row = between(paired_differences(trials[::-1], FACTORS), "b", "a")
    a_S, b_S = (np.mean([[nlls[value, d, s] for s in range(4)] for d in (8, 16, 32)], axis=0) for value in "ab")
    expected = stats.ttest_rel(b_S, a_S)
    assert (row["seeds"], row["configurations"]) == (4, 3)
    assert (row["p"], row["difference"]) == pytest.approx((expected.pvalue, (b_S - a_S).mean()))
    assert (row["low"], row["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_effects_in_a_grid_are_recovered_exactly_without_noise():
    effect = {"reverse": 0.03, "shuffle": 0.01, "1x1": 0.0, 8: 0.2, 16: 0.05, 32: 0.06}
    trials = grid(lambda p, d, seed: 3 + effect[p] + effect[d] + math.sin(seed), depths=(32, 8, 16), seeds=range(4))
    differences = paired_differences(trials, FACTORS)
    pairs = list(zip(differences["factor"], differences["a"], differences["b"], strict=True))
    assert pairs == [
        *(("permutation", *pair) for pair in itertools.combinations(PERMUTATIONS, 2)),
        *[("depth", 8, 16), ("depth", 16, 32)],
    ]
    for row in differences.to_dict("records"):
        exact = pytest.approx(effect[row["a"]] - effect[row["b"]], abs=1e-12)
        assert (row["difference"], row["low"], row["high"]) == (exact, exact, exact)
        assert (row["p"], row["p_holm"], row["seeds"], row["configurations"]) == (0, 0, 4, 3)


@pytest.mark.parametrize(("step", "p"), [(0.1, 0.0), (0.0, 1.0), (1e6, 0.0)])
def test_constant_differences_collapse_to_a_point(step, p):
    a = np.array([3.1, 2.7, 3.3])
    (row,) = paired_differences(of_values(a + step, a), FACTORS).to_dict("records")
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((step,) * 3, abs=1e-8)
    assert row["p"] == pytest.approx(p, abs=1e-12)


def test_the_paired_interval_covers_as_often_as_it_says_and_is_narrower_than_the_unpaired():
    """The values differ by 0.03 on average; the difference varies between seeds, which are therefore the units."""
    rng = np.random.default_rng(1)
    repetitions, depths, seeds, truth = 120, (8, 16), 4, 0.03
    covered, narrower = 0, 0
    for _ in range(repetitions):
        of_seed = rng.normal(scale=0.5, size=seeds)
        of_value = rng.normal([[0.0], [truth]], 0.02, (2, seeds))
        nlls = 3 + of_seed + of_value[:, None] + rng.normal(scale=0.01, size=(2, len(depths), seeds))
        columns = np.array(list(itertools.product((0, 1), depths, range(seeds))))
        trials = pd.DataFrame(columns, columns=["value", "depth", "seed"])
        trials = trials.assign(state="finished", test_bits_per_dim=nlls.ravel())
        row = paired_differences(trials, ["value", "depth"]).loc[0]
        assert row["factor"] == "value"
        covered += bool(row["low"] <= -truth <= row["high"])
        unpaired = stats.ttest_ind(*nlls.mean(axis=1)).confidence_interval(0.95)
        narrower += row["high"] - row["low"] < unpaired.high - unpaired.low
    assert abs(covered / repetitions - 0.95) < 3 * math.sqrt(0.95 * 0.05 / repetitions)
    assert narrower > 0.99 * repetitions


@pytest.mark.parametrize("state", UNFINISHED)
def test_a_seed_that_did_not_finish_drops_its_pair_only(state):
    a, b, c = noisy(3)
    trials = of_values(a, b, c)
    trials.loc[(trials["permutation"] == "a") & (trials["seed"] == 1), "state"] = state  # its NLL must not be used
    differences = paired_differences(trials, FACTORS)
    kept = [0, 2, 3, 4]
    row = between(differences, "a", "b")
    assert (row["seeds"], row["difference"]) == (4, pytest.approx((a - b)[kept].mean()))
    assert row["p"] == pytest.approx(stats.ttest_rel(a[kept], b[kept]).pvalue)
    assert between(differences, "b", "c")["seeds"] == 5


def test_only_configurations_with_all_seeds_enter_so_that_seeds_average_over_the_same():
    trials = grid(lambda p, d, seed: d / 10 * (p == "a") + 3, permutations="ab", depths=(1, 2, 4))
    trials.loc[(trials["depth"] == 4) & (trials["seed"] == 2) & (trials["permutation"] == "b"), "state"] = "failed"
    row = between(paired_differences(trials, FACTORS), "a", "b")
    assert (row["seeds"], row["configurations"]) == (3, 2)
    assert row["difference"] == pytest.approx(0.15)  # the mean over depths 1 and 2


def test_where_no_configuration_has_all_seeds_the_one_with_most_enters():
    trials = grid(lambda p, d, seed: d / 10 * (p == "a") + 3, permutations="ab", depths=(1, 2, 4), seeds=range(4))
    lost = {(1, 0), (1, 1), (2, 3), (4, 0), (4, 1), (4, 2)}
    units = zip(trials["depth"], trials["seed"], strict=True)
    trials["state"] = ["failed" if unit in lost else "finished" for unit in units]
    row = between(paired_differences(trials, FACTORS), "a", "b")
    assert (row["seeds"], row["configurations"], row["difference"]) == (3, 1, pytest.approx(0.2))


def test_one_seed_gives_a_difference_alone_and_no_pair_not_even_that():
    trials = pd.DataFrame([trial("a", nll=3.5), trial("b", nll=3.25), trial("c", depth=16, nll=1.0)])
    differences = paired_differences(trials, FACTORS)
    one, none = between(differences, "a", "b"), between(differences, "a", "c")
    assert (one["difference"], one["seeds"], one["configurations"]) == (0.25, 1, 1)
    assert (none["seeds"], none["configurations"]) == (0, 0)
    for value in (none["difference"], *(row[name] for row in (one, none) for name in ("low", "high", "p", "p_holm"))):
        assert math.isnan(value)
    (depth,) = differences[differences["factor"] == "depth"].to_dict("records")
    assert (depth["a"], depth["b"], depth["seeds"]) == (8, 16, 0)


def test_equal_values_at_other_seeds_are_no_pair():
    trials = pd.DataFrame([trial("a", seed=0), trial("b", seed=1)])
    assert paired_differences(trials, FACTORS)["seeds"].tolist() == [0]


def test_a_factor_with_one_value_has_no_differences_and_one_factor_suffices():
    trials = of_values([3.0, 3.1], [3.2, 3.4])
    assert set(paired_differences(trials, FACTORS)["factor"]) == {"permutation"}
    alone = paired_differences(trials.drop(columns="depth"), ["permutation"])
    pd.testing.assert_frame_equal(alone, paired_differences(trials, FACTORS))


def test_values_keep_their_kind_beside_factors_of_other_kinds():
    rows = [trial(depth=depth, seed=seed, lr=lr) for depth in (8, 16) for lr in (1e-3, 5e-4) for seed in (0, 1)]
    differences = paired_differences(pd.DataFrame(rows), ["depth", "lr"])
    assert [(row["a"], row["b"]) for row in differences.to_dict("records")] == [(8, 16), (5e-4, 1e-3)]
    assert isinstance(differences["a"][0], int)


# Holm


def test_holm_by_hand():
    """The products are 0.005 x 4, 0.01 x 3, 0.03 x 2 and 0.04 x 1, which the one before raises to 0.06."""
    adjusted = holm(np.array([0.01, 0.04, 0.03, math.nan, 0.005]))
    assert adjusted.tolist() == pytest.approx([0.03, 0.06, 0.06, math.nan, 0.02], nan_ok=True)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 20])
def test_holm_lies_between_the_raw_and_bonferronis_in_the_same_order(n):
    p = np.random.default_rng(n).uniform(size=n) ** 3
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, n * p)).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


def test_p_is_adjusted_within_a_factor():
    rng = np.random.default_rng(3)
    trials = grid(lambda *_: rng.normal(3), depths=(8, 16, 32), seeds=range(6))
    differences = paired_differences(trials, FACTORS)
    for _, rows in differences.groupby("factor"):
        assert rows["p_holm"].tolist() == pytest.approx(holm(rows["p"].to_numpy()).tolist())
    assert (differences["p_holm"] > differences["p"]).any()
    assert differences["p_holm"].tolist() != pytest.approx(holm(differences["p"].to_numpy()).tolist())


# Sentences

BETTER = "lower test NLL"
UNDECIDED = "not decide"


def difference(factor, a, b, value, low=math.nan, high=math.nan, p=math.nan, seeds=3):
    row = {"factor": factor, "a": a, "b": b, "difference": value, "low": low, "high": high, "p": p, "p_holm": p}
    return row | {"seeds": seeds, "configurations": int(seeds > 0)}


def said(*rows):
    return conclusions(pd.DataFrame(rows))


def test_what_is_decided_is_said_with_the_better_first_and_then_what_is_not():
    permutation, depth = said(
        difference("permutation", "reverse", "shuffle", 0.02, -0.003, 0.043, 0.07),
        difference("permutation", "reverse", "1x1", 0.031, 0.02, 0.042, 0.001),
        difference("permutation", "1x1", "shuffle", -0.011, -0.018, -0.004, 0.02),
        difference("depth", 8.0, 16.0, 0.05, 0.04, 0.06, 0.001),
        difference("depth", 16.0, 32.0, -0.02, -0.03, -0.01, 0.01, seeds=2),
    )
    assert_in_order(
        permutation,
        *("permutation: 1x1 ", BETTER, "reverse by 0.031", "95 % interval", "0.020 to 0.042", "3 seeds"),
        *("shuffle by 0.011", "(0.004 to 0.018)"),
        *(UNDECIDED, "shuffle and reverse", "0.020, ", "-0.003 to 0.043"),
    )
    assert_in_order(
        depth,
        *("depth: 16 ", BETTER, "8 by 0.050", "95 % interval", "0.040 to 0.060", "3 seeds"),
        *("32 by 0.020", "0.010 to 0.030", "2 seeds"),
    )
    assert UNDECIDED not in depth


def test_the_best_of_all_comes_first_and_an_end_near_zero_has_no_sign():
    (sentence,) = said(
        difference("f", "a", "b", 0.02, 0.01, 0.03, 0.01),
        difference("f", "a", "c", 0.03, 0.02, 0.04, 0.01),
        difference("f", "b", "c", 0.01, -1e-9, 0.02, 0.06),
        difference("f", "b", "d", -0.01, -0.02, -0.005, 0.01),
        difference("f", "c", "d", -0.02, -0.03, -0.01, 0.01),
    )
    assert_in_order(
        sentence,
        *("f: c ", BETTER, "a by 0.030", "0.020 to 0.040", "3 seeds", "d by 0.020", "0.010 to 0.030"),
        *("b ", BETTER, "a by 0.020", "0.010 to 0.030", "d by 0.010", "0.005 to 0.020"),
        *(UNDECIDED, "c and b", "(0.010000,", " 0.000000 to 0.020000"),
    )


def test_what_is_undecided_is_said_in_full_and_with_its_p_where_the_interval_alone_would_decide():
    (sentence,) = said(
        difference("scale", "exp", "sigmoid", -0.004, -0.02, 0.012, 0.4),
        difference("scale", "exp", "none", 0.01, 0.0002, 0.0198, 0.06),
    )
    assert_in_order(
        sentence,
        *("scale: ", UNDECIDED, "exp and sigmoid", "0.004 bits/dim", "95 % interval", "-0.012 to 0.020", "3 seeds"),
        *("none and exp", "0.0100, ", "0.0002 to 0.0198", "Holm-adjusted p 0.060"),
    )
    assert BETTER not in sentence
    assert sentence.count("Holm") == 1


def test_one_seed_decides_nothing_and_shows_the_observed_order():
    trials = of_values([3.5], [3.25], [3.75])
    (sentence,) = conclusions(paired_differences(trials, FACTORS))
    assert_in_order(sentence, "permutation: ", "one seed", UNDECIDED, "observed: b ", "a by 0.250 bits/dim")
    assert_in_order(sentence, "c by 0.500", "a ", "c by 0.250")
    assert BETTER not in sentence
    (both,) = said(difference("f", "a", "b", -0.1, -0.2, -0.05, 0.01), difference("f", "a", "c", -0.2, seeds=1))
    assert_in_order(both, "f: a ", BETTER, "3 seeds", "one seed", UNDECIDED, "observed: a ", "c by 0.200")


def test_nothing_is_said_of_a_factor_without_pairs():
    trials = pd.DataFrame([trial("a", 8), trial("b", 16), trial("a", 16, state="failed")])
    for factor, sentence in zip(FACTORS, conclusions(paired_differences(trials, FACTORS)), strict=True):
        assert sentence.startswith(f"{factor}: no ")
        assert BETTER not in sentence
        assert UNDECIDED not in sentence
    (sentence,) = said(
        difference("f", "a", "b", -0.1, -0.2, 0.05, 0.3), difference("f", "a", "c", math.nan, math.nan, seeds=0)
    )
    assert_in_order(sentence, UNDECIDED, "a and b", "; no two ", "c and a")


def test_simulated_trials_decide_a_large_effect_and_not_one_that_is_absent():
    a, b = noisy(2, spread=0.002)
    c = b + np.array([1, -1, 1, -1, 0.5]) / 1000
    (sentence,) = conclusions(paired_differences(of_values(a, b, c), FACTORS))
    assert_in_order(sentence, "permutation: a ", BETTER, "b by 0.028 bits/dim", "95 %", UNDECIDED, "b and c")
    assert sentence.count(BETTER) == 1


def test_missing_trials_are_told_by_reason_and_where_they_flatter():
    trials = pd.DataFrame(
        [
            *(trial("a", seed=seed, state="failed", reason="CUDA out\n  of memory") for seed in (0, 1)),
            trial("b", seed=0, state="failed", reason="CUDA out of memory"),
            trial("b", seed=1, state="failed"),
            trial("b", seed=2),
            *(trial("a", 16, seed, state="stopped", reason="ASHA") for seed in (1, 2)),
            trial("a", 16, seed=0),
            *(trial("b", 16, seed, state="stopped", reason="ASHA") for seed in (0, 1)),
            trial("c", seed=0, state="running"),
            trial("c", seed=1, state="killed"),
            trial("c", seed=2, state="running"),
        ]
    )
    a8, b8, a16, b16 = (f"{permutation}, depth {depth} " for depth in (8, 16) for permutation in "ab")
    expected = [
        ("3 trials failed", "(CUDA out of memory)", a8 + "(seeds 0, 1)", b8 + "(seed 0)"),
        ("1 trial failed", b8 + "(seed 1)"),
        ("4 trials ", "(ASHA)", a16 + "(seeds 1, 2)", b16 + "(seeds 0, 1)"),
        ("optimistic", a16, "2 of 3"),
        ("3 trials have not", "1 killed, 2 running"),
    ]
    for sentence, facts in zip(unfinished(trials, FACTORS), expected, strict=True):
        assert_in_order(sentence, *facts)
    assert b16 not in unfinished(trials, FACTORS)[3]


def test_nothing_is_missing_where_all_finished_and_one_trial_is_singular():
    trials = of_values([3.0, 3.1], [3.2, 3.3])
    assert unfinished(trials, FACTORS) == []
    trials.loc[0, "state"] = "waiting"
    (sentence,) = unfinished(trials, FACTORS)
    assert_in_order(sentence, "1 trial has not", "1 waiting")


def test_configurations_are_named_by_what_varies():
    trials = pd.DataFrame([trial("1x1", 8, lr=1e-3), trial("reverse", 8, lr=5e-4)], index=[7, 3])
    names = configuration_names(trials, [*FACTORS, "lr"])
    assert names.to_dict() == {7: "1x1, lr 0.001", 3: "reverse, lr 0.0005"}
    assert configuration_names(trials[:1].astype({"depth": float}), FACTORS).to_dict() == {7: "1x1, depth 8"}


# Empty and impossible tables


@pytest.mark.parametrize("trials", [pd.DataFrame(), of_values([3.0])[:0]], ids=["no columns", "no rows"])
def test_no_trials_give_empty_tables_and_no_sentences(trials):
    whole = of_values([3.0], [3.1])
    for function in (summarize, paired_differences):
        assert function(trials, FACTORS).empty
        assert list(function(trials, FACTORS)) == list(function(whole, FACTORS))
    assert conclusions(paired_differences(trials, FACTORS)) == []
    assert unfinished(trials, FACTORS) == []
    assert configuration_names(trials, FACTORS).empty


def test_trials_that_all_failed_give_tables_without_values():
    trials = of_values([3.0, 3.1], [3.1, 3.2]).assign(state="failed", test_bits_per_dim=math.nan)
    assert summarize(trials, FACTORS)[["seeds", "unfinished"]].to_numpy().tolist() == [[0, 2], [0, 2]]
    differences = paired_differences(trials, FACTORS)
    assert differences["seeds"].tolist() == [0]
    assert differences[["difference", "low", "high", "p", "p_holm"]].isna().all(axis=None)


@pytest.mark.parametrize("function", [summarize, paired_differences, unfinished])
@pytest.mark.parametrize(
    ("change", "factors", "message"),
    [
        ({}, [], "one factor"),
        ({}, ["permutation", "width"], "no column width"),
        ({"depth": math.nan}, FACTORS, "value of depth"),
        ({"state": "FINISHED"}, FACTORS, "unknown state FINISHED"),
    ],
)
def test_impossible_tables_are_refused(function, change, factors, message):
    with pytest.raises(ValueError, match=message):
        function(pd.DataFrame([trial(), trial(seed=1) | change]), factors)


def nlls_of_images(rng, images, difference=0.01, spread=0.05):
    """NLLs of images under two models: alike, with long tails to one side, and a known mean difference a - b."""
    of_b = rng.gamma(4.0, 0.5, images)
    return of_b + difference + spread * (rng.gamma(2.0, 1.0, images) - 2.0), of_b


@pytest.mark.parametrize("images", [2, 30, 10_000])
def test_images_are_compared_as_by_the_paired_t_test_of_scipy(images):
    a, b = nlls_of_images(np.random.default_rng(images), images)
    found, expected = compare_images(a, b), stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(
        [found.estimate.value, found.estimate.low, found.estimate.high, found.p],
        [np.mean(a - b), interval.low, interval.high, expected.pvalue],
        rtol=1e-9,
    )
    np.testing.assert_allclose(found.difference_N, a - b)


@pytest.mark.slow
@pytest.mark.parametrize("images", [100, 2000])
def test_the_interval_of_paired_images_covers_the_true_difference(images):
    rng, trials = np.random.default_rng(0), 2000
    comparisons = [compare_images(*nlls_of_images(rng, images, difference=0.01)) for _ in range(trials)]
    covered = sum(each.estimate.low <= 0.01 <= each.estimate.high for each in comparisons)
    # Five standard deviations of a count at 95 %, and up to a percent because the differences are skewed.
    assert abs(covered / trials - 0.95) < 0.01 + 5 * math.sqrt(0.95 * 0.05 / trials)
    rejected = sum(compare_images(*nlls_of_images(rng, images, difference=0.0)).p < 0.05 for _ in range(trials))
    assert abs(rejected / trials - 0.05) < 0.01 + 5 * math.sqrt(0.95 * 0.05 / trials)


def test_pairing_resolves_a_difference_that_is_lost_in_the_variation_between_images():
    a, b = nlls_of_images(np.random.default_rng(0), 1000, difference=0.02)
    assert compare_images(a, b).p < 1e-6
    assert stats.ttest_ind(a, b).pvalue > 0.5


def test_images_without_a_finite_nll_under_a_model_are_left_out_and_counted():
    a, b = np.array([1.0, np.inf, 3.0, np.nan, 2.0, np.inf]), np.array([2.0, 1.0, 3.5, 1.0, np.inf, np.inf])
    found = compare_images(a, b)
    assert found.left_out == 4
    np.testing.assert_array_equal(found.difference_N, [-1.0, np.nan, -0.5, np.nan, np.nan, np.nan])
    assert found.estimate == compare_images(a[[0, 2]], b[[0, 2]]).estimate
    nothing = compare_images(a[1:2], b[1:2])
    assert (nothing.left_out, [*map(len, nothing.extremes(3))]) == (1, [0, 0])
    assert all(map(math.isnan, (nothing.estimate.value, nothing.estimate.low, nothing.p)))


def test_equal_models_differ_by_exactly_nothing():
    nlls = np.random.default_rng(0).normal(size=50)
    found = compare_images(nlls, nlls.copy())
    assert (found.estimate.value, found.estimate.low, found.estimate.high, found.p) == (0, 0, 0, 1)
    assert [*map(len, found.extremes(3))] == [0, 0]


def test_the_images_that_differ_most_come_first_on_the_side_of_the_better_model():
    found = compare_images(np.array([0.0, -3.0, 2.0, np.nan, -1.0, 5.0, 0.5]), np.zeros(7))
    assert [side.tolist() for side in found.extremes(2)] == [[1, 4], [5, 2]]
    assert [side.tolist() for side in found.extremes(9)] == [[1, 4], [5, 2, 6]]


def test_models_are_not_compared_on_different_numbers_of_images():
    with pytest.raises(ValueError, match="a has 2 images, and b has 3"):
        compare_images(np.zeros(2), np.zeros(3))
