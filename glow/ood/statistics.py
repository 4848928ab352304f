"""Intervals and curves for decisions of the kind "belongs" or "does not": Wilson, ROC, and their resampling.

The positive class is out-of-distribution, and a larger score means further out. A score that is not finite is the
largest of all. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = [
    "ROC_STATISTICS",
    "Estimate",
    "RocCurve",
    "auroc",
    "disjoint_batches",
    "mean_interval",
    "roc_curve",
    "roc_estimates",
    "wilson_interval",
]

CONFIDENCE = 0.95
ROC_STATISTICS = ("auroc", "aupr", "fpr95")
RESAMPLES = 1000
"""Bootstrap resamples behind the intervals of AUROC, AUPR and FPR@95."""

BINS = 512
"""Bins that scores are resampled in: beyond so many, an interval costs no more for more scores. Half of them are of
equal occupancy in either set, so that a small set is not lost in a large one."""


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def wilson_interval(successes: float, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927, equation 6): 500 of 500 is at least 99.24 %, not 100 %.

    `successes` may be a mean over repeats, and so not whole.

    Raises:
        ValueError: for no trials, or more successes than trials.
    """
    if trials < 1:
        raise ValueError("a proportion needs at least one trial")
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must be between 0 and {trials}, not {successes}")
    z = stats.norm.ppf((1 + confidence) / 2)
    p = successes / trials
    centre = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    low = 0.0 if successes == 0 else max(0.0, float(centre - half))
    high = 1.0 if successes == trials else min(1.0, float(centre + half))
    return low, high


def mean_interval(values_N: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """The mean with its t interval. One value, or one that is not finite, gives a NaN interval."""
    if len(values_N) == 0:
        raise ValueError("a mean needs at least one value")
    if not np.isfinite(values_N).all():
        return Estimate(np.inf, np.nan, np.nan)
    mean = float(np.mean(values_N))
    if len(values_N) == 1:
        return Estimate(mean, np.nan, np.nan)
    half = float(stats.sem(values_N) * stats.t.ppf((1 + confidence) / 2, len(values_N) - 1))
    return Estimate(mean, mean - half, mean + half)


def disjoint_batches(n: int, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """Indices (n // batch_size, batch_size) of images dealt at random into batches that share none.

    The n % batch_size images that fill no batch are left out.

    Raises:
        ValueError: if there are fewer images than a batch takes.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if n < batch_size:
        raise ValueError(f"{n} images do not fill a batch of {batch_size}")
    batches = n // batch_size
    return rng.permutation(n)[: batches * batch_size].reshape(batches, batch_size)


@dataclass(frozen=True)
class RocCurve:
    """At every threshold from none to all: the share of in-distribution scores (false positives) and of OOD scores
    (true positives) at or above it. Both (P,), from 0 to 1."""

    false_positives: np.ndarray
    true_positives: np.ndarray


def roc_curve(in_scores: np.ndarray, out_scores: np.ndarray) -> RocCurve:
    """The ROC of telling OOD scores from in-distribution ones. Raises ValueError if either has none."""
    in_counts, out_counts = _count(*_both(in_scores, out_scores), bins=None)
    return RocCurve(_cumulative(in_counts), _cumulative(out_counts))


def auroc(in_scores: np.ndarray, out_scores: np.ndarray) -> float:
    """The probability that an OOD score is above an in-distribution one, ties by half. Raises ValueError if either set
    has none."""
    counts = _count(*_both(in_scores, out_scores), bins=None)
    return float(_statistics(*(each[None] for each in counts))["auroc"][0])


def roc_estimates(
    in_scores: np.ndarray, out_scores: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES
) -> dict[str, Estimate]:
    """``auroc``, ``aupr`` (average precision) and ``fpr95`` (false positives at the threshold that finds 95 % of OOD),
    each with a percentile bootstrap interval over both sets.

    The values are exact. Resampling n scores and counting them in bins is a multinomial draw over the bins, so the
    intervals cost ``resamples * BINS`` at most, however many scores there are. Where the two sets do not overlap, no
    resample does, and an interval of AUROC 1 is [1, 1]: it then says less than the ratio's Wilson interval.

    Raises:
        ValueError: if either set has no scores.
    """
    in_scores, out_scores = _both(in_scores, out_scores)
    exact = _statistics(*(counts[None] for counts in _count(in_scores, out_scores, bins=None)))
    if in_scores.max() < out_scores.min():  # as in every resample
        return {name: Estimate(*3 * (float(value[0]),)) for name, value in exact.items()}
    binned = _count(in_scores, out_scores, bins=BINS)
    shifted = _statistics(*(counts[None] for counts in binned))
    resampled = _statistics(
        *(rng.multinomial(counts.sum(), counts / counts.sum(), size=resamples) for counts in binned)
    )
    estimates = {}
    for name, (value,) in exact.items():
        # Binning shifts a statistic by up to a bin.
        unbinned = np.clip(resampled[name] - shifted[name] + value, 0, 1)
        low, high = np.quantile(unbinned, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        estimates[name] = Estimate(float(value), min(float(low), float(value)), max(float(high), float(value)))
    return estimates


def _both(in_scores: np.ndarray, out_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    for name, scores in (("in-distribution", in_scores), ("OOD", out_scores)):
        if len(scores) == 0:
            raise ValueError(f"there are no {name} scores: a ROC needs some of both kinds")
    return _as_largest(in_scores), _as_largest(out_scores)


def _as_largest(scores: np.ndarray) -> np.ndarray:
    """Scores that are not finite become infinity, above all others."""
    return np.where(np.isfinite(scores), scores, np.inf)


def _count(in_scores: np.ndarray, out_scores: np.ndarray, bins: int | None) -> tuple[np.ndarray, np.ndarray]:
    """How many scores of each set lie in each bin, the highest bin first. Without `bins`, a bin a distinct score."""
    values, where = np.unique(np.concatenate([in_scores, out_scores]), return_inverse=True)
    size = len(values)
    if bins is not None and size > bins:
        # Equal scores stay in one bin. The middle ranks of a value among each set's, from 0 to 1, settle which.
        split = np.split(where, [len(in_scores)])
        counts = [np.bincount(part, minlength=size) for part in split]
        middle = sum((np.cumsum(count) - count / 2) / count.sum() for count in counts) / 2
        where, size = (middle * bins).astype(int)[where], bins
    where = size - 1 - where
    in_where, out_where = np.split(where, [len(in_scores)])
    return np.bincount(in_where, minlength=size), np.bincount(out_where, minlength=size)


def _cumulative(counts: np.ndarray) -> np.ndarray:
    """(..., K) counts -> (..., K + 1) shares found by each threshold, from 0 to 1."""
    found = np.cumsum(counts, -1)
    return np.concatenate([np.zeros((*found.shape[:-1], 1)), found / found[..., -1:]], -1)


def _statistics(in_counts: np.ndarray, out_counts: np.ndarray) -> dict[str, np.ndarray]:
    """(R, K) counts of R resamples, the highest bin first -> each statistic (R,)."""
    false, true = np.cumsum(in_counts, -1), np.cumsum(out_counts, -1)
    n_in, n_out = false[:, -1:], true[:, -1:]
    # The probability that an OOD score is above an in-distribution one, ties by half.
    auroc = (in_counts * (true - out_counts / 2)).sum(-1) / (n_in * n_out)[:, 0]
    # Average precision: the sum of (step in recall) x precision.
    aupr = (out_counts * true / np.maximum(true + false, 1)).sum(-1) / n_out[:, 0]
    first = (true >= 0.95 * n_out).argmax(-1)
    fpr95 = np.take_along_axis(false, first[:, None], -1)[:, 0] / n_in[:, 0]
    return dict(zip(ROC_STATISTICS, (auroc, aupr, fpr95), strict=True))
