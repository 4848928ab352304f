"""What an ablation says: means over seeds, paired differences between configurations, and sentences about both.

A configuration is a value for each factor (permutation, depth, ...); a trial is a configuration at a seed. An equal
seed is an equal order of the data and equal noise, so trials are compared within a seed. Trials come as a table with a
row a trial and these columns, of which each function needs some:

- one for each factor: str, int or float, none missing
- ``seed``: int; ``state``: one of `STATES`, "stopped" being ended early by a scheduler
- ``test_bits_per_dim``, ``validation_bits_per_dim`` (of the best epoch)
- ``images_per_second``, ``parameters``, ``gpu_seconds``, ``core_seconds``
- ``reason``: why a trial failed or was stopped, or None

Only finished trials count in a mean, and one a configuration and seed: the first. A finished trial whose test NLL is
not finite has an infinite one. A trial that did not finish is not missing if its configuration finished at its seed in
another trial. A table with no rows may lack columns. No torch here.
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
from scipy import stats

from glow.ood.statistics import Estimate, mean_interval

__all__ = ["STATES", "conclusions", "configuration_names", "holm", "paired_differences", "summarize", "unfinished"]

STATES = ("finished", "stopped", "failed", "killed", "running", "waiting")
ENDED = {"failed": "failed", "stopped": "ended early, stopped by a scheduler"}
SIGNIFICANCE = 0.05
ROUNDING = 1e-12
"""In bits/dim. Differences that differ by less are one: sums of floats are no more exact."""

NEEDED = ["seed", "state", "test_bits_per_dim"]
MEANS = ["validation_bits_per_dim", "images_per_second", "gpu_seconds", "core_seconds"]
SUMMARY_COLUMNS = [
    *("seeds", "unfinished", "bits_per_dim", "bits_per_dim_low", "bits_per_dim_high", "best"),
    *("validation_bits_per_dim", "images_per_second", "parameters", "gpu_seconds", "core_seconds"),
]
DIFFERENCE_COLUMNS = ["factor", "a", "b", "difference", "low", "high", "p", "p_holm", "seeds", "configurations"]

Nlls = dict[Hashable, dict[int, float]]  # by the configuration of the other factors, then by the seed


def summarize(trials: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """What each configuration came to.

    Returns:
        A row a configuration, in order of first appearance: the factors; `seeds` that finished and trials that are
        missing (`unfinished`); test `bits_per_dim`, a mean with Student's 95 % t interval over seeds
        (`bits_per_dim_low`, `bits_per_dim_high`; NaN for one seed), and the lowest (`best`); `parameters`; and means
        over finished trials of `validation_bits_per_dim`, `images_per_second`, `gpu_seconds` and `core_seconds`. A
        configuration of which nothing finished has NaN.

    Raises:
        ValueError: for no factors, an absent column or factor value, or an unknown state.
    """
    trials = _checked(trials, factors, [*NEEDED, "parameters", *MEANS])
    rows = []
    for _, group in trials.groupby(list(factors), sort=False):
        finished, missing = _split(group, factors)
        nll_S = finished["test_bits_per_dim"].to_numpy()
        estimate = mean_interval(nll_S) if len(nll_S) else Estimate(np.nan, np.nan, np.nan)
        parameters = map(int, group["parameters"].dropna())  # any trial's: they are the configuration's
        row: dict[str, Any] = {factor: group[factor].tolist()[0] for factor in factors}
        row |= {"seeds": len(finished), "unfinished": len(missing)}
        row |= {"bits_per_dim": estimate.value, "bits_per_dim_low": estimate.low, "bits_per_dim_high": estimate.high}
        row |= {"best": min(nll_S.tolist(), default=np.nan), "parameters": next(parameters, np.nan)}
        rows.append(row | {name: float(finished[name].astype(float).mean()) for name in MEANS})
    return pd.DataFrame(rows, columns=[*factors, *SUMMARY_COLUMNS])


def paired_differences(trials: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """What one value of a factor gains over another, all other factors and the seed being equal.

    A difference is averaged over the configurations of the other factors within a seed, so that seeds are the
    independent units of Student's paired t test and interval (Student 1908). Only configurations that are paired at
    every seed at which any is enter, so that all seeds average over the same; if there is none, the one with the most
    paired seeds does. Raises ValueError as `summarize` does.

    Returns:
        A row a pair of values (`a`, `b`) of each factor that has at least two: all pairs, or the neighbours in
        ascending order for numbers. `difference` is the mean test NLL of a less that of b in bits/dim, `low` to `high`
        its 95 % interval, `p` two-sided and `p_holm` the same adjusted within the factor. `seeds` and
        `configurations` (of the other factors) are those averaged over. One seed, or an infinite NLL, leaves the
        interval and p NaN; no pair the difference too. Differences that are all equal are taken as certain.
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
    for name in ("a", "b"):  # a depth of 8 stays one where other factors are fractions
        table[name] = pd.Series([row[name] for row in rows], dtype=object)
    return table


def holm(p_N: np.ndarray) -> np.ndarray:
    """(N,) p values of one family -> (N,) adjusted by Holm's step-down method (Holm 1979). NaN stays, uncounted."""
    adjusted_N = np.full(len(p_N), np.nan)
    known = np.flatnonzero(~np.isnan(p_N))
    ascending = known[np.argsort(p_N[known], kind="stable")]
    steps = p_N[ascending] * np.arange(len(known), 0, -1)
    adjusted_N[ascending] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted_N


def conclusions(differences: pd.DataFrame) -> list[str]:
    """A sentence a factor: which values have a lower test NLL at a Holm-adjusted p < 0.05, and which pairs the data do
    not decide between. Of a pair, the one observed to be better comes first, and the difference is positive, in
    bits/dim. `differences` come from `paired_differences`; KeyError without its columns, unless it has no rows."""
    by_factor: dict[str, list[_Comparison]] = {}
    for row in differences.to_dict("records"):
        by_factor.setdefault(row["factor"], []).append(_Comparison.of(row))
    return [_conclusion(factor, comparisons) for factor, comparisons in by_factor.items()]


def unfinished(trials: pd.DataFrame, factors: Sequence[str]) -> list[str]:
    """Sentences on what is missing from the means: failed and stopped trials by reason, configurations that are
    flattered as their worse seeds were stopped, and trials that may still finish. None if nothing is missing.
    Raises ValueError as `summarize` does."""
    trials = _checked(trials, factors, [*NEEDED, "reason"])
    trials = trials.assign(configuration=configuration_names(trials, factors))
    finished, missing = _split(trials, factors)
    # A reason may be an error message of many lines.
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
            "Where a scheduler stopped some seeds of a configuration, the mean of the others flatters it, since those "
            f"that did badly are left out: {'; '.join(flattered)}."
        )
    if others := [state for state in missing["state"] if state not in ENDED]:
        counts = ", ".join(f"{others.count(state)} {state}" for state in STATES if state in others)
        sentences.append(f"{len(others)} trial{'s have' if len(others) > 1 else ' has'} not finished ({counts}).")
    return sentences


def configuration_names(trials: pd.DataFrame, factors: Sequence[str]) -> pd.Series:
    """Index of trials -> their configurations as words, such as "1x1, depth 8": the factors that vary among the trials
    (all if none does), numbers after their factor's name. Raises ValueError as `summarize` does."""
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
    """A row of differences the way round that it is told: `better` was observed to be `difference` lower."""

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
        """The difference and its interval: in full for a sentence's first, and with digits enough not to seem zero."""
        values = [self.difference, self.low, self.high]
        places = next(n for n in (3, 4, 5, 6) if n == 6 or all(round(value, n) or not value for value in values))
        difference, low, high = (f"{round(value, places) + 0.0:.{places}f}" for value in values)  # + 0.0: no "-0.000"
        if self is first:
            return f"{difference} bits/dim", f"95 % interval {low} to {high}, {self.seeds} seeds"
        return difference, f"{low} to {high}" + ("" if self.seeds == first.seeds else f", {self.seeds} seeds")


def _conclusion(factor: str, comparisons: Sequence[_Comparison]) -> str:
    if not any(c.seeds for c in comparisons):
        return f"{factor}: no two finished trials differ in {factor} alone, so nothing is said of it."
    finite = [c for c in comparisons if c.seeds and math.isfinite(c.difference)]
    finite = sorted(finite, key=lambda c: -sum(other.better == c.better for other in finite))  # the best of all first
    decided = [c for c in finite if c.p_holm < SIGNIFICANCE]
    undecided = [c for c in finite if c.seeds > 1 and c not in decided]
    single = [c for c in finite if c.seeds == 1]
    told = {c: c.told([*decided, *undecided, *single][0]) for c in finite}
    clauses = _by_better("{} has a lower test NLL than ", decided, {c: f"{told[c][0]} ({told[c][1]})" for c in decided})
    if undecided:
        # An interval is not adjusted, and may lie above zero where the adjusted p does not decide.
        adjusted = {c: f", Holm-adjusted p {c.p_holm:.3f}" if c.low > 0 else "" for c in undecided}
        pairs = [f"between {c.better} and {c.worse} ({', '.join(told[c])}{adjusted[c]})" for c in undecided]
        clauses.append(f"the data do not decide {', nor '.join(pairs)}")
    if single:
        observed = "; ".join(_by_better("{} lower than ", single, {c: told[c][0] for c in single}))
        where = "" if single == finite else " of the others"
        clauses.append(f"one seed{where}, so the data do not decide; observed: {observed}")
    if infinite := [f"between {c.better} and {c.worse}" for c in comparisons if c.seeds and c not in finite]:
        clauses.append(f"the data do not decide {', nor '.join(infinite)}, as a test NLL is infinite")
    if unpaired := [f"between {c.better} and {c.worse}" for c in comparisons if not c.seeds]:
        clauses.append(f"no two finished trials differ in {factor} alone {', nor '.join(unpaired)}")
    return f"{factor}: {'; '.join(clauses)}."


def _by_better(phrase: str, comparisons: Sequence[_Comparison], by: Mapping[_Comparison, str]) -> list[str]:
    return [
        phrase.format(better) + " and than ".join(f"{c.worse} by {by[c]}" for c in comparisons if c.better == better)
        for better in dict.fromkeys(c.better for c in comparisons)
    ]


def _paired_test(of_a: Nlls, of_b: Nlls) -> dict[str, float]:
    """The NLLs of either value -> all of a row but its names."""
    shared = {c: sorted(of_a[c].keys() & of_b[c].keys()) for c in of_a if c in of_b}
    most = max(shared, key=lambda c: len(shared[c]), default=None)
    if most is None or not shared[most]:
        return dict.fromkeys(("difference", "low", "high", "p"), np.nan) | {"seeds": 0, "configurations": 0}
    every = set().union(*shared.values())
    balanced = [c for c in shared if len(shared[c]) == len(every)] or [most]
    # Summed by Python, to which infinity less infinity is no cause for a warning.
    differences = [sum(of_a[c][seed] - of_b[c][seed] for c in balanced) / len(balanced) for seed in shared[balanced[0]]]
    n, mean, low, high, p = len(differences), sum(differences) / len(differences), np.nan, np.nan, np.nan
    if n > 1 and math.isfinite(mean):
        constant = np.ptp(differences) <= ROUNDING
        estimate = Estimate(mean, mean, mean) if constant else mean_interval(np.array(differences))
        low, high = estimate.low, estimate.high
        p = float(abs(mean) <= ROUNDING if constant else 2 * stats.t.sf(abs(mean) / stats.sem(differences), n - 1))
    return {"difference": mean, "low": low, "high": high, "p": p, "seeds": n, "configurations": len(balanced)}


def _checked(trials: pd.DataFrame, factors: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    if not factors:
        raise ValueError("a configuration needs at least one factor")
    if not len(trials):
        return trials.reindex(columns=[*factors, *columns])
    if absent := [name for name in [*factors, *columns] if name not in trials]:
        raise ValueError(f"the trials have no column {', '.join(absent)}")
    if unknown := [factor for factor in factors if trials[factor].isna().any()]:
        raise ValueError(f"some trials have no value of {', '.join(unknown)}")
    if "state" in columns and (states := set(trials["state"]) - set(STATES)):
        raise ValueError(f"unknown state {', '.join(sorted(map(str, states)))}: not one of {', '.join(STATES)}")
    return trials


def _split(trials: pd.DataFrame, factors: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Finished trials, one a configuration and seed, with an NLL that is finite or infinity; and the missing ones."""
    unit = [*factors, "seed"]
    is_finished = trials["state"] == "finished"
    finished = trials[is_finished].drop_duplicates(unit)
    nll_N = finished["test_bits_per_dim"].to_numpy(dtype=float)
    units = set(_tuples(finished, unit))
    is_missing = [not done and of not in units for done, of in zip(is_finished, _tuples(trials, unit), strict=True)]
    finished = finished.assign(test_bits_per_dim=np.where(np.isfinite(nll_N), nll_N, np.inf))
    return finished, trials.loc[np.array(is_missing, dtype=bool)]


def _tuples(trials: pd.DataFrame, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """A tuple a row; empty ones for no columns, where `itertuples` gives none."""
    return [tuple(row) for row in trials[list(columns)].to_numpy(dtype=object)]


def _numeric(values: Iterable[Any]) -> bool:
    return all(isinstance(value, numbers.Real) for value in values)


def _text(value: Any) -> str:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return f"{value:.12g}" if is_number else str(value)  # 8.0 is "8"
