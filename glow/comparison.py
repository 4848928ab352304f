"""Statistics of an ablation: means over seeds, paired differences between configurations, and sentences about them.

A configuration is one value per factor (permutation, depth, ...); a trial is the training of a configuration with a
seed. Trials with the same seed see the data in the same order and with the same noise, so they are compared within a
seed. All functions except `holm` and `compare_images` take a table with one row per trial and these columns, of which
each function needs some:

- one column per factor: str, int or float, without missing values
- ``seed``: int; ``state``: one of `STATES`, where "stopped" means ended early by a scheduler
- ``test_bits_per_dim`` and ``validation_bits_per_dim``: NLLs of the model of the best epoch
- ``images_per_second``: training speed; ``parameters``: number of parameters of the model
- ``gpu_seconds`` and ``core_seconds``: duration of the trial times its number of GPUs, or of CPU cores
- ``reason``: why a trial failed or was stopped, or None

Only finished trials enter a mean. If several trials of a configuration and seed finished, the first one counts. A
finished trial whose test NLL is not finite counts as infinite. A trial is missing if it did not finish and no other
trial of its configuration and seed finished. A table without rows may lack columns. This module needs no torch.

Figures of these tables are in `glow.figures.comparison`.
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from glow.ood.statistics import Estimate, mean_interval

STATES = ("finished", "stopped", "failed", "killed", "running", "waiting")
"""States of a trial."""

ENDED = {"failed": "failed", "stopped": "ended early, stopped by a scheduler"}
"""States that a trial cannot finish from, in the words of `unfinished`."""

SIGNIFICANCE = 0.05
"""Holm-adjusted p-values below this decide between two values of a factor."""

ROUNDING = 1e-12
"""Differences, in bits/dim, that are closer than this count as equal, because sums of floats are not more exact."""

NEEDED = ["seed", "state", "test_bits_per_dim"]
MEANS = ["validation_bits_per_dim", "images_per_second", "gpu_seconds", "core_seconds"]
SUMMARY_COLUMNS = [
    *("seeds", "unfinished", "bits_per_dim", "bits_per_dim_low", "bits_per_dim_high", "best"),
    *("validation_bits_per_dim", "images_per_second", "parameters", "gpu_seconds", "core_seconds"),
]
DIFFERENCE_COLUMNS = ["factor", "a", "b", "difference", "low", "high", "p", "p_holm", "seeds", "configurations"]

Nlls = dict[Hashable, dict[int, float]]
"""Test NLLs by the configuration of the other factors, then by the seed."""


def summarize(trials: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """Summarize the results of each configuration over its seeds.

    Args:
        trials: table of trials, see the module.
        factors: names of the columns that make a configuration.

    Returns:
        One row per configuration, in order of first appearance: the factors; ``seeds``, the number of seeds that
        finished, and ``unfinished``, the number of missing trials; ``bits_per_dim``, the mean test NLL over the seeds,
        with Student's 95 % t interval (``bits_per_dim_low``, ``bits_per_dim_high``; NaN for one seed); ``best``, the
        lowest test NLL of a seed; ``parameters``; and means over finished trials of ``validation_bits_per_dim``,
        ``images_per_second``, ``gpu_seconds`` and ``core_seconds``. A configuration without finished trials has NaN.

    Raises:
        ValueError: if there are no factors, a column or the value of a factor is missing, or a state is unknown.

    Examples:
        >>> trials = pd.DataFrame({"depth": [8, 8, 16], "seed": [0, 1, 0], "test_bits_per_dim": [3.5, 3.7, 3.4]})
        >>> costs = dict.fromkeys(["validation_bits_per_dim", "images_per_second", "gpu_seconds", "core_seconds"], 1.0)
        >>> table = summarize(trials.assign(state="finished", parameters=1000, **costs), ["depth"])
        >>> table[["depth", "seeds", "bits_per_dim", "best"]].round(3).to_numpy().tolist()
        [[8.0, 2.0, 3.6, 3.5], [16.0, 1.0, 3.4, 3.4]]
    """
    trials = _checked(trials, factors, [*NEEDED, "parameters", *MEANS])
    rows = []
    for _, group in trials.groupby(list(factors), sort=False):
        finished, missing = _split(group, factors)
        nll_S = finished["test_bits_per_dim"].to_numpy()
        estimate = mean_interval(nll_S) if len(nll_S) else Estimate(np.nan, np.nan, np.nan)
        parameters = map(int, group["parameters"].dropna())  # the same for all trials of a configuration
        row: dict[str, Any] = {factor: group[factor].tolist()[0] for factor in factors}
        row |= {"seeds": len(finished), "unfinished": len(missing)}
        row |= {"bits_per_dim": estimate.value, "bits_per_dim_low": estimate.low, "bits_per_dim_high": estimate.high}
        row |= {"best": min(nll_S.tolist(), default=np.nan), "parameters": next(parameters, np.nan)}
        rows.append(row | {name: float(finished[name].astype(float).mean()) for name in MEANS})
    return pd.DataFrame(rows, columns=[*factors, *SUMMARY_COLUMNS])


def paired_differences(trials: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """Compare two values of a factor while all other factors and the seed are equal.

    For each seed, the difference is averaged over the configurations of the other factors. So the seeds are the
    independent units of Student's paired t-test and interval (Student 1908).

    A configuration of the other factors is paired at a seed if its trials with both values finished at this seed. All
    seeds average over the same configurations: those that are paired at every seed at which any configuration is
    paired. If there is no such configuration, only the one with the most paired seeds is used.

    Args:
        trials: table of trials, see the module.
        factors: names of the columns that make a configuration.

    Returns:
        One row per pair of values (``a``, ``b``) of each factor that has at least two values. If the values are
        numbers, only neighbours in ascending order form pairs; otherwise, every two values do. ``difference`` is the
        mean test NLL of a minus that of b in bits/dim, ``low`` to ``high`` its 95 % interval, ``p`` its two-sided
        p-value, and ``p_holm`` this p-value after Holm's adjustment over the pairs of the factor. ``seeds`` and
        ``configurations`` are the numbers of seeds and of configurations of the other factors that were averaged over.
        With one seed, or an infinite NLL, the interval and the p-values are NaN; if no configuration is paired, the
        difference is NaN, too. If all differences are equal, the interval is a point and p is 0, or 1 for a difference
        of 0.

    Raises:
        ValueError: for the same reasons as `summarize`.

    Examples:
        >>> trials = pd.DataFrame({"depth": [8, 8, 8, 16, 16, 16], "seed": [0, 1, 2] * 2, "state": "finished"})
        >>> trials["test_bits_per_dim"] = [3.50, 3.70, 3.60, 3.41, 3.59, 3.50]
        >>> row = paired_differences(trials, ["depth"]).iloc[0]
        >>> row["a"], row["b"], [round(float(row[name]), 3) for name in ("difference", "low", "high")]
        (8, 16, [0.1, 0.075, 0.125])
    """
    trials = _checked(trials, factors, NEEDED)
    finished, _ = _split(trials, factors)
    rows: list[dict[str, Any]] = []
    for factor in factors:
        others = [other for other in factors if other != factor]
        distinct = list(dict.fromkeys(trials[factor].tolist()))
        pairs = itertools.pairwise(sorted(distinct)) if _numeric(distinct) else itertools.combinations(distinct, 2)
        nlls: dict[Hashable, Nlls] = {}  # by the value of this one
        for value, *rest, seed, nll in _tuples(finished, [factor, *others, "seed", "test_bits_per_dim"]):
            nlls.setdefault(value, {}).setdefault(tuple(rest), {})[seed] = nll
        tests = [{"factor": factor, "a": a, "b": b} | _paired_test(nlls.get(a, {}), nlls.get(b, {})) for a, b in pairs]
        adjusted = holm(np.array([test["p"] for test in tests], dtype=float))
        rows += [test | {"p_holm": p} for test, p in zip(tests, adjusted.tolist(), strict=True)]
    table = pd.DataFrame(rows, columns=DIFFERENCE_COLUMNS)
    for name in ("a", "b"):  # as objects, so that a depth of 8 does not become 8.0 if another factor is a float
        table[name] = pd.Series([row[name] for row in rows], dtype=object)
    return table


def holm(p_N: np.ndarray) -> np.ndarray:
    """Adjust the p-values of a family of tests by Holm's step-down method (Holm 1979).

    The i-th smallest of n p-values is multiplied by n - i + 1. If a product before it is larger, that product is used
    instead. The result is limited to 1. If all hypotheses with an adjusted p-value below 0.05 are rejected, the
    probability of one or more false rejections is at most 5 %.

    Args:
        p_N: float (N,), the p-values. NaN is not counted as a test.

    Returns:
        float (N,), the adjusted p-values; NaN where there was NaN.

    Examples:
        >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    adjusted_N = np.full(len(p_N), np.nan)
    known = np.flatnonzero(~np.isnan(p_N))
    ascending = known[np.argsort(p_N[known], kind="stable")]
    steps = p_N[ascending] * np.arange(len(known), 0, -1)
    adjusted_N[ascending] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted_N


@dataclass(frozen=True)
class ImageComparison:
    """The difference of two models in the NLL of the same images, see `compare_images`.

    Attributes:
        difference_N: float (N,), the NLL of each image under a minus that under b; NaN for an image that is left out.
        estimate: the mean difference and its 95 % interval.
        p: two-sided p-value of the mean.
        left_out: number of images that are left out, because their NLL is not finite under a model.

    Examples:
        >>> comparison = compare_images(np.array([3.0, np.inf, 4.0]), np.array([2.0, 2.0, 2.0]))
        >>> comparison.difference_N.tolist(), comparison.estimate.value, comparison.left_out
        ([1.0, nan, 2.0], 1.5, 1)
    """

    difference_N: np.ndarray
    estimate: Estimate
    p: float
    left_out: int

    def extremes(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions of the images that differ most in either direction, at most `number` each.

        Returns:
            The images on which a is better than b by most, then those on which b is better, each with the largest
            difference first.

        Examples:
            >>> a_better, b_better = compare_images(np.array([3.0, 1.0, 4.0]), np.array([2.0, 2.0, 2.0])).extremes(1)
            >>> a_better.tolist(), b_better.tolist()
            ([1], [2])
        """
        ascending = np.argsort(self.difference_N, kind="stable")  # NaN comes last
        signed = np.sign(self.difference_N[ascending])
        return ascending[signed < 0][:number], ascending[signed > 0][::-1][:number]


def compare_images(nll_a_N: np.ndarray, nll_b_N: np.ndarray) -> ImageComparison:
    """Compare two models by their NLLs of the same images, with Student's paired t-test and interval (Student 1908).

    Pairing removes the variation of the NLL between images, which is far larger than most differences of models. The
    interval covers the mean difference over all images like these, of exactly these two models: other seeds of the same
    settings would differ, too (`paired_differences`).

    Args:
        nll_a_N: float (N,), NLLs under model a.
        nll_b_N: float (N,), NLLs of the same images under model b.

    Returns:
        The comparison. If fewer than two images have a finite NLL under both models, the interval and p are NaN.

    Raises:
        ValueError: if the numbers of images differ.

    Examples:
        >>> comparison = compare_images(np.array([3.0, 5.0, 4.1]), np.array([3.1, 5.2, 4.1]))
        >>> estimate = comparison.estimate
        >>> [round(float(value), 3) for value in (estimate.value, estimate.low, estimate.high, comparison.p)]
        [-0.1, -0.348, 0.148, 0.225]
    """
    if np.shape(nll_a_N) != np.shape(nll_b_N):
        raise ValueError(f"a has {len(nll_a_N)} images, and b has {len(nll_b_N)}")
    finite_N = np.isfinite(nll_a_N) & np.isfinite(nll_b_N)
    difference_N = np.full(len(finite_N), np.nan)
    difference_N[finite_N] = nll_a_N[finite_N] - nll_b_N[finite_N]
    return ImageComparison(difference_N, *_t_test(difference_N[finite_N].tolist()), int((~finite_N).sum()))


def conclusions(differences: pd.DataFrame) -> list[str]:
    """State in one sentence per factor which of its values are better, and which pairs of values remain undecided.

    A value is better if its test NLL is lower at a Holm-adjusted p < 0.05. In each pair the value that was observed to
    be better comes first, so that differences are positive.

    Args:
        differences: the table that `paired_differences` returns.

    Returns:
        The sentences, with differences and 95 % intervals in bits/dim.

    Raises:
        KeyError: if a column is missing and the table has rows.

    Examples:
        >>> row = {"factor": "depth", "a": 8, "b": 16, "difference": 0.1, "low": 0.075, "high": 0.125, "p_holm": 0.003}
        >>> conclusions(pd.DataFrame([row | {"seeds": 3}]))
        ['depth: 16 has a lower test NLL than 8 by 0.100 bits/dim (95 % interval 0.075 to 0.125, 3 seeds).']
    """
    by_factor: dict[str, list[_Comparison]] = {}
    for row in differences.to_dict("records"):
        by_factor.setdefault(row["factor"], []).append(_Comparison.of(row))
    return [_conclusion(factor, comparisons) for factor, comparisons in by_factor.items()]


def unfinished(trials: pd.DataFrame, factors: Sequence[str]) -> list[str]:
    """State in sentences which trials are missing from the means.

    The sentences list failed and stopped trials by reason, warn of configurations whose mean is too optimistic because
    a scheduler stopped their worse seeds, and count the trials that may still finish.

    Args:
        trials: table of trials, see the module.
        factors: names of the columns that make a configuration.

    Returns:
        The sentences; an empty list if no trial is missing.

    Raises:
        ValueError: for the same reasons as `summarize`.

    Examples:
        >>> trials = pd.DataFrame({"depth": [8, 16], "seed": 0, "state": ["finished", "failed"]})
        >>> trials = trials.assign(test_bits_per_dim=[3.5, np.nan], reason=[None, "out of memory"])
        >>> unfinished(trials, ["depth"])
        ['1 trial failed (out of memory): depth 16 (seed 0).']
    """
    trials = _checked(trials, factors, [*NEEDED, "reason"])
    trials = trials.assign(configuration=configuration_names(trials, factors))
    finished, missing = _split(trials, factors)
    # Line breaks are removed, because a reason may be an error message of many lines.
    reasons = ["no reason given" if pd.isna(reason) else " ".join(str(reason).split()) for reason in missing["reason"]]
    sentences = []
    for state, verb in ENDED.items():
        of_state = missing.assign(reason=reasons)[missing["state"] == state]
        for reason, rows in of_state.groupby("reason", sort=False):
            by_name = rows.groupby("configuration", sort=False)["seed"]
            places = [f"{name!s} (seed{'s' * (len(of) > 1)} {', '.join(map(str, of))})" for name, of in by_name]
            sentences.append(f"{len(rows)} trial{'s' * (len(rows) > 1)} {verb} ({reason!s}): {'; '.join(places)}.")
    flattered = []
    for name, of_it in trials.groupby("configuration", sort=False):
        stopped = missing.loc[(missing["configuration"] == name) & (missing["state"] == "stopped"), "seed"].nunique()
        if stopped and (finished["configuration"] == name).any():
            flattered.append(f"{name!s} ({stopped} of {of_it['seed'].nunique()} seeds stopped)")
    if flattered:
        sentences.append(
            "The mean of a configuration is too optimistic if a scheduler stopped some of its seeds, because the worst "
            f"seeds are left out: {'; '.join(flattered)}."
        )
    if others := [state for state in missing["state"] if state not in ENDED]:
        counts = ", ".join(f"{others.count(state)} {state}" for state in STATES if state in others)
        sentences.append(f"{len(others)} trial{'s have' if len(others) > 1 else ' has'} not finished ({counts}).")
    return sentences


def configuration_names(trials: pd.DataFrame, factors: Sequence[str]) -> pd.Series:
    """Name the configuration of each trial, such as "1x1, depth 8".

    A name contains the factors that vary among the trials, or all factors if none varies. Numbers follow the name of
    their factor.

    Args:
        trials: table of trials, see the module.
        factors: names of the columns that make a configuration.

    Returns:
        The names, with the index of `trials`.

    Raises:
        ValueError: for the same reasons as `summarize`.

    Examples:
        >>> trials = pd.DataFrame({"permutation": ["1x1", "reverse"], "depth": [8, 16], "width": 64})
        >>> configuration_names(trials, ["permutation", "depth", "width"]).tolist()
        ['1x1, depth 8', 'reverse, depth 16']
    """
    trials = _checked(trials, factors, [])
    named = [factor for factor in factors if trials[factor].nunique() > 1] or list(factors)
    prefixes = [f"{factor} " if _numeric(trials[factor]) else "" for factor in named]
    names = [
        ", ".join(prefix + _text(value) for prefix, value in zip(prefixes, values, strict=True))
        for values in _tuples(trials, named)
    ]
    return pd.Series(names, index=trials.index, name="configuration", dtype=object)


@dataclass(frozen=True)
class _Comparison:
    """A row of differences, turned so that `difference` is positive: the NLL of `better` was lower by so much."""

    better: str
    worse: str
    difference: float
    low: float
    high: float
    p_holm: float
    seeds: int

    @classmethod
    def of(cls, row: Mapping[Hashable, Any]) -> _Comparison:
        a, b, difference, low, high = _text(row["a"]), _text(row["b"]), row["difference"], row["low"], row["high"]
        if difference <= 0:
            a, b, difference, low, high = b, a, abs(difference), -high, -low
        return cls(b, a, difference, low, high, row["p_holm"], row["seeds"])

    def told(self, first: _Comparison) -> tuple[str, str]:
        """Return the text of the difference and the text of its interval.

        `first` is the first comparison of the sentence; only its texts contain units. The values have 3 decimal places,
        or up to 6 if a value other than 0 would be shown as 0.
        """
        values = [self.difference, self.low, self.high]
        places = next(n for n in (3, 4, 5, 6) if n == 6 or all(round(value, n) or not value for value in values))
        # Adding 0.0 turns -0.0 into 0.0, which avoids "-0.000".
        difference, low, high = (f"{round(value, places) + 0.0:.{places}f}" for value in values)
        if self is first:
            return f"{difference} bits/dim", f"95 % interval {low} to {high}, {self.seeds} seeds"
        return difference, f"{low} to {high}" + ("" if self.seeds == first.seeds else f", {self.seeds} seeds")


def _conclusion(factor: str, comparisons: Sequence[_Comparison]) -> str:
    """Return the sentence about one factor."""
    if not any(c.seeds for c in comparisons):
        return f"{factor}: no two finished trials differ in {factor} alone, so its effect is unknown."
    finite = [c for c in comparisons if c.seeds and math.isfinite(c.difference)]
    # The value that wins the most comparisons comes first.
    finite = sorted(finite, key=lambda c: -sum(other.better == c.better for other in finite))
    decided = [c for c in finite if c.p_holm < SIGNIFICANCE]
    undecided = [c for c in finite if c.seeds > 1 and c not in decided]
    single = [c for c in finite if c.seeds == 1]
    told = {c: c.told([*decided, *undecided, *single][0]) for c in finite}
    clauses = _by_better("{} has a lower test NLL than ", decided, {c: f"{told[c][0]} ({told[c][1]})" for c in decided})
    if undecided:
        # Intervals are not adjusted: one can lie above zero although the adjusted p-value does not decide.
        adjusted = {c: f", Holm-adjusted p {c.p_holm:.3f}" if c.low > 0 else "" for c in undecided}
        pairs = [f"between {c.better} and {c.worse} ({', '.join(told[c])}{adjusted[c]})" for c in undecided]
        clauses.append(f"the data do not decide {', nor '.join(pairs)}")
    if single:
        observed = "; ".join(_by_better("{} lower than ", single, {c: told[c][0] for c in single}))
        where = "" if single == finite else " of the others"
        clauses.append(f"only one seed{where}, so the data do not decide; observed: {observed}")
    if infinite := [f"between {c.better} and {c.worse}" for c in comparisons if c.seeds and c not in finite]:
        clauses.append(f"the data do not decide {', nor '.join(infinite)}, because a test NLL is infinite")
    if unpaired := [f"between {c.better} and {c.worse}" for c in comparisons if not c.seeds]:
        clauses.append(f"no two finished trials differ in {factor} alone {', nor '.join(unpaired)}")
    return f"{factor}: {'; '.join(clauses)}."


def _by_better(phrase: str, comparisons: Sequence[_Comparison], by: Mapping[_Comparison, str]) -> list[str]:
    """Return one clause per better value, with the values that it was compared with."""
    return [
        phrase.format(better) + " and than ".join(f"{c.worse} by {by[c]}" for c in comparisons if c.better == better)
        for better in dict.fromkeys(c.better for c in comparisons)
    ]


def _paired_test(of_a: Nlls, of_b: Nlls) -> dict[str, float]:
    """Compare the NLLs of two values: return a row of the differences without the names."""
    shared = {c: sorted(of_a[c].keys() & of_b[c].keys()) for c in of_a if c in of_b}
    most = max(shared, key=lambda c: len(shared[c]), default=None)
    if most is None or not shared[most]:
        return dict.fromkeys(("difference", "low", "high", "p"), np.nan) | {"seeds": 0, "configurations": 0}
    every = set().union(*shared.values())
    balanced = [c for c in shared if len(shared[c]) == len(every)] or [most]
    # Summed by Python, because numpy warns of infinity minus infinity.
    differences = [sum(of_a[c][seed] - of_b[c][seed] for c in balanced) / len(balanced) for seed in shared[balanced[0]]]
    estimate, p = _t_test(differences)
    found = {"difference": estimate.value, "low": estimate.low, "high": estimate.high, "p": p}
    return found | {"seeds": len(differences), "configurations": len(balanced)}


def _t_test(differences: Sequence[float]) -> tuple[Estimate, float]:
    """Return the mean of paired differences with its 95 % t interval, and the two-sided p-value of the t-test."""
    n = len(differences)
    mean = sum(differences) / n if n else np.nan
    if n < 2 or not math.isfinite(mean):
        return Estimate(mean, np.nan, np.nan), np.nan
    if np.ptp(differences) <= ROUNDING:
        return Estimate(mean, mean, mean), float(abs(mean) <= ROUNDING)
    standard_error = np.std(differences, ddof=1) / math.sqrt(n)
    p = 2 * special.stdtr(n - 1, -abs(mean) / standard_error)  # scipy.stats would add a second to each command
    return mean_interval(np.array(differences)), float(p)


def _checked(trials: pd.DataFrame, factors: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Return the trials, with all columns if there are no rows, and refuse an impossible table with a ValueError."""
    if not factors:
        raise ValueError("a configuration needs at least one factor")
    if not len(trials):
        return trials.reindex(columns=[*factors, *columns])
    if absent := [name for name in [*factors, *columns] if name not in trials]:
        raise ValueError(f"the trials have no column {', '.join(absent)}")
    if unknown := [factor for factor in factors if trials[factor].isna().any()]:
        raise ValueError(f"some trials have no value of {', '.join(unknown)}")
    if "state" in columns and (states := set(trials["state"]) - set(STATES)):
        raise ValueError(f"unknown state {', '.join(sorted(map(str, states)))}: the states are {', '.join(STATES)}")
    return trials


def _split(trials: pd.DataFrame, factors: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the finished trials, one per configuration and seed and with infinity for NaN, and the missing ones."""
    unit = [*factors, "seed"]
    is_finished = trials["state"] == "finished"
    finished = trials[is_finished].drop_duplicates(unit)
    nll_N = finished["test_bits_per_dim"].to_numpy(dtype=float)
    units = set(_tuples(finished, unit))
    is_missing = [not done and of not in units for done, of in zip(is_finished, _tuples(trials, unit), strict=True)]
    finished = finished.assign(test_bits_per_dim=np.where(np.isfinite(nll_N), nll_N, np.inf))
    return finished, trials.loc[np.array(is_missing, dtype=bool)]


def _tuples(trials: pd.DataFrame, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return one tuple per row; without columns these are empty tuples, where `itertuples` returns nothing."""
    return [tuple(row) for row in trials[list(columns)].to_numpy(dtype=object)]


def _numeric(values: Iterable[Any]) -> bool:
    return all(isinstance(value, numbers.Real) for value in values)


def _text(value: Any) -> str:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return f"{value:.12g}" if is_number else str(value)  # this format writes 8.0 as "8"
