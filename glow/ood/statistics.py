"""Intervals of proportions and means, and ROC curves, whose statistics have intervals.

A ROC curve shows how well scores separate out-of-distribution (OOD) images or batches from in-distribution ones. The
positive class is OOD, and a larger score means further from the training data. A score that is not finite counts as
infinity. This module needs no torch.

Shapes: N values, K bins or distinct scores, R resamples, P points of a curve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from glow.ood.calibration import CONFIDENCE, as_largest

ROC_STATISTICS = ("auroc", "aupr", "fpr95")
"""Names of the statistics that `roc_estimates` returns."""

BOOTSTRAPPED = ("aupr", "fpr95")
"""Names of the statistics of `roc_estimates` whose intervals are bootstrapped."""

RESAMPLES = 1000
"""Bootstrap resamples behind the intervals of AUPR and FPR@95."""

BINS = 512
"""Largest number of bins that scores are resampled in, so that an interval costs the same for any number of scores.
Their edges follow the mean of the ranks within each set, so that a small set is resolved as well as a large one."""


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval.

    Attributes:
        value: the estimate.
        low: lower end of the interval; NaN if it is unknown.
        high: upper end of the interval; NaN if it is unknown.

    Examples:
        >>> estimate = Estimate(3.21, low=3.18, high=3.24)
        >>> f"{estimate.value} ({estimate.low} to {estimate.high}) bits/dim"
        '3.21 (3.18 to 3.24) bits/dim'
    """

    value: float
    low: float
    high: float


def wilson_interval(successes: float, trials: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (Wilson 1927, equation 6).

    Let p = successes / trials, n = trials, and z the (1 + confidence) / 2 quantile of the standard normal distribution.
    The ends of the interval are

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n).

    At a proportion of 0 or 100 % this interval still has a width, unlike the interval of the normal approximation.

    Args:
        successes: number of successes. It need not be an integer, because it may be a mean over repeats.
        trials: number of trials. It need not be an integer either, because it may be an effective number.
        confidence: confidence level.

    Returns:
        The lower and upper end, in [0, 1].

    Raises:
        ValueError: if there are no trials, or `successes` is not between 0 and `trials`.

    Examples:
        >>> low, high = wilson_interval(500, 500)
        >>> round(low, 4), high
        (0.9924, 1.0)
    """
    if trials < 1:
        raise ValueError("a proportion needs at least one trial")
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must be between 0 and {trials}, not {successes}")
    z = special.ndtri((1 + confidence) / 2)
    p = successes / trials
    centre = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    low = 0.0 if successes == 0 else max(0.0, float(centre - half))
    high = 1.0 if successes == trials else min(1.0, float(centre + half))
    return low, high


def share_of(ood_N: np.ndarray) -> dict[str, float]:
    """Return the share of batches that are called OOD, as columns of a table of results.

    Args:
        ood_N: bool (N,), the decision about each batch.

    Returns:
        ``batches``, which is N; ``ratio``, the share; and ``ratio_low`` to ``ratio_high``, its `wilson_interval`.

    Examples:
        >>> share_of(np.array([True, True]))["ratio"]
        1.0
    """
    low, high = wilson_interval(int(ood_N.sum()), len(ood_N))
    return {"batches": len(ood_N), "ratio": float(ood_N.mean()), "ratio_low": low, "ratio_high": high}


def exact_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the exact interval of a proportion (Clopper & Pearson 1934).

    Unlike `wilson_interval` it contains the true proportion with at least the given confidence for every number of
    trials and every proportion, so it is the one to compare a proportion with an intended one.

    Args:
        successes: number of successes.
        trials: number of trials.
        confidence: confidence level.

    Returns:
        The lower and upper end, in [0, 1].

    Examples:
        >>> low, high = exact_interval(1, 14)
        >>> round(low, 4), round(high, 4)
        (0.0018, 0.3387)
    """
    failures, tail = trials - successes, (1 - confidence) / 2
    low = special.betaincinv(successes, failures + 1, tail) if successes else 0.0
    high = special.betaincinv(successes + 1, failures, 1 - tail) if failures else 1.0
    return float(low), float(high)


def mean_interval(values_N: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Return the mean with Student's t interval (Student 1908).

    Args:
        values_N: float (N,).
        confidence: confidence level.

    Returns:
        The mean and its interval. The interval is NaN if there is only one value. If a value is not finite, the mean is
        infinity and the interval NaN.

    Raises:
        ValueError: if there are no values.

    Examples:
        >>> estimate = mean_interval(np.array([3.2, 3.3, 3.4]))
        >>> round(estimate.value, 3), round(estimate.low, 3), round(estimate.high, 3)
        (3.3, 3.052, 3.548)
    """
    if len(values_N) == 0:
        raise ValueError("a mean needs at least one value")
    if not np.isfinite(values_N).all():
        return Estimate(np.inf, np.nan, np.nan)
    mean = float(np.mean(values_N))
    if len(values_N) == 1:
        return Estimate(mean, np.nan, np.nan)
    standard_error = np.std(values_N, ddof=1) / math.sqrt(len(values_N))
    half = float(standard_error * special.stdtrit(len(values_N) - 1, (1 + confidence) / 2))
    return Estimate(mean, mean - half, mean + half)


def disjoint_batches(n: int, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """Split images at random into batches that have no image in common.

    Args:
        n: number of images.
        batch_size: M.
        rng: the source of randomness.

    Returns:
        int (n // M, M), the indices of each batch's images. The n % M images that do not fill a batch are left out.

    Raises:
        ValueError: if `batch_size` is below 1, or there are fewer images than one batch takes.

    Examples:
        >>> batches = disjoint_batches(7, 3, np.random.default_rng(0))
        >>> batches.shape, len(np.unique(batches))
        ((2, 3), 6)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if n < batch_size:
        raise ValueError(f"{n} images do not fill a batch of {batch_size}")
    batches = n // batch_size
    return rng.permutation(n)[: batches * batch_size].reshape(batches, batch_size)


@dataclass(frozen=True)
class RocCurve:
    """A receiver operating characteristic: the rates of false and true positives at every threshold.

    Attributes:
        false_positives: float (P,), ascending from 0 to 1, the share of in-distribution scores at or above each
            threshold.
        true_positives: float (P,), ascending from 0 to 1, the share of OOD scores at or above each threshold.

    Examples:
        >>> curve = roc_curve(in_scores=np.array([1.0, 2.0]), out_scores=np.array([2.0, 3.0]))
        >>> list(zip(curve.false_positives.tolist(), curve.true_positives.tolist(), strict=True))
        [(0.0, 0.0), (0.0, 0.5), (0.5, 1.0), (1.0, 1.0)]
    """

    false_positives: np.ndarray
    true_positives: np.ndarray


def roc_curve(in_scores: np.ndarray, out_scores: np.ndarray) -> RocCurve:
    """Return the ROC curve of separating OOD scores from in-distribution scores.

    Args:
        in_scores: float (N,), scores of in-distribution images or batches.
        out_scores: float (N',), scores of OOD images or batches.

    Returns:
        The curve, with one point per distinct score and the origin.

    Raises:
        ValueError: if either set has no scores.

    Examples:
        >>> roc_curve(np.array([1.0, 2.0]), np.array([3.0, 4.0])).true_positives.tolist()
        [0.0, 0.5, 1.0, 1.0, 1.0]
    """
    in_counts, out_counts = _count(*_both(in_scores, out_scores), bins=None)
    return RocCurve(_cumulative(in_counts), _cumulative(out_counts))


def auroc(in_scores: np.ndarray, out_scores: np.ndarray) -> float:
    """Return the area under the ROC curve.

    It is the probability that a random OOD score is larger than a random in-distribution score, where a tie counts
    half.

    Args:
        in_scores: float (N,), scores of in-distribution images or batches.
        out_scores: float (N',), scores of OOD images or batches.

    Returns:
        The AUROC, in [0, 1]: 1/2 for chance, 1 for perfect separation.

    Raises:
        ValueError: if either set has no scores.

    Examples:
        >>> auroc(np.array([1.0, 2.0]), np.array([2.0, 3.0]))
        0.875
    """
    counts = _count(*_both(in_scores, out_scores), bins=None)
    return float(_statistics(*(each[None] for each in counts))["auroc"][0])


def auroc_estimate(in_scores: np.ndarray, out_scores: np.ndarray) -> Estimate:
    """Return the area under the ROC curve with an interval that needs no resampling.

    The interval is Wilson's for a proportion A = AUROC in n_e trials, where the effective number of trials is

    n_e = A (1 - A) / V.

    V is the variance of A by DeLong, DeLong & Clarke-Pearson (1988): the variance of the share of the other set that a
    score is ordered correctly with, divided by the number of scores, summed over both sets. Near A = 1 a sample has few
    scores in the wrong order, and may have none by luck, so that V is too small or 0. Therefore n_e is limited

    - to at most 4 N N' / (N + N'), its value near A = 1 under the exponential model of Hanley & McNeil (1982);
    - to at least min(N, N'), the number of pairs that have no score in common. It is this number if V is 0, or if a set
      has only one score, which has no variance.

    So the interval still has a width if the sets are separated. Near A = 1 it covers the true AUROC in more than 95 %
    of samples. It covers it in fewer if one set is small and its scores are skewed: in 92 % at A = 0.95 with
    exponential scores of 300 and 30 images.

    Args:
        in_scores: float (N,), scores of in-distribution images or batches.
        out_scores: float (N',), scores of OOD images or batches.

    Returns:
        The AUROC, as `auroc` returns it, and its interval over samples of both sets of the same size. Scores of
        different batches must be independent, so the batches must have no image in common.

    Raises:
        ValueError: if either set has no scores.

    Examples:
        >>> estimate = auroc_estimate(np.arange(100.0), np.arange(100.0, 200.0))
        >>> estimate.value, round(estimate.low, 3), estimate.high
        (1.0, 0.963, 1.0)
    """
    return _auroc_estimate(*_count(*_both(in_scores, out_scores), bins=None))


def _auroc_estimate(in_counts: np.ndarray, out_counts: np.ndarray) -> Estimate:
    """Return `auroc_estimate` from the counts of each distinct score, the highest first."""
    above, below = _shares_above(out_counts), 1 - _shares_above(in_counts)
    value = float((out_counts * below).sum() / out_counts.sum())
    n_in, n_out = int(in_counts.sum()), int(out_counts.sum())
    effective: float = min(n_in, n_out)
    variance = _variance_of_mean(above, in_counts) + _variance_of_mean(below, out_counts)
    if variance > 0:
        effective = min(max(value * (1 - value) / variance, effective), 4 * n_in * n_out / (n_in + n_out))
    return Estimate(value, *wilson_interval(value * effective, effective))


def _shares_above(counts: np.ndarray) -> np.ndarray:
    """Return for each distinct score, the highest first, the share of a set above it, where a tie counts half."""
    return (np.cumsum(counts) - counts / 2) / counts.sum()


def _variance_of_mean(values: np.ndarray, counts: np.ndarray) -> float:
    """Return the sample variance of values that occur `counts` times, by their number; infinity for one value."""
    n = int(counts.sum())
    return float(counts @ (values - counts @ values / n) ** 2 / (n - 1) / n) if n > 1 else np.inf


def roc_estimates(
    in_scores: np.ndarray, out_scores: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES
) -> dict[str, Estimate]:
    """Return the AUROC, AUPR and FPR@95 with their intervals.

    The interval of the AUROC is that of `auroc_estimate`. Those of AUPR and FPR@95 are percentile bootstrap intervals
    over both sets, for which scores are counted in at most `BINS` bins. A resample is a multinomial draw over the bins,
    so that the cost does not grow with the number of scores. The values themselves are computed from all scores.

    If all OOD scores are larger than all in-distribution scores, the same is true in every resample. The intervals of
    AUPR and FPR@95 then have no width, and the interval of the AUROC tells more.

    Args:
        in_scores: float (N,), scores of in-distribution images or batches.
        out_scores: float (N',), scores of OOD images or batches.
        rng: the source of randomness.
        resamples: number of bootstrap resamples.

    Returns:
        ``auroc``, see `auroc`; ``aupr``, the average precision; and ``fpr95``, the false-positive rate at the largest
        threshold that finds 95 % of OOD scores.

    Raises:
        ValueError: if either set has no scores.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> found = roc_estimates(rng.normal(0, 1, 200), rng.normal(2, 1, 200), rng, resamples=100)
        >>> {name: round(estimate.value, 2) for name, estimate in found.items()}
        {'auroc': 0.92, 'aupr': 0.92, 'fpr95': 0.3}
        >>> found["auroc"].low < found["auroc"].value < found["auroc"].high
        True
    """
    in_scores, out_scores = _both(in_scores, out_scores)
    counted = _count(in_scores, out_scores, bins=None)
    exact = _statistics(*(counts[None] for counts in counted))
    estimates = {"auroc": _auroc_estimate(*counted)}
    if in_scores.max() < out_scores.min():  # as in every resample
        return estimates | {name: Estimate(*3 * (float(exact[name][0]),)) for name in BOOTSTRAPPED}
    binned = _count(in_scores, out_scores, bins=BINS)
    shifted = _statistics(*(counts[None] for counts in binned))
    resampled = _statistics(
        *(rng.multinomial(counts.sum(), counts / counts.sum(), size=resamples) for counts in binned)
    )
    for name in BOOTSTRAPPED:
        (value,) = exact[name]
        # Binning changes a statistic a little: the difference is taken off every resample.
        unbinned = np.clip(resampled[name] - shifted[name] + value, 0, 1)
        low, high = np.quantile(unbinned, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        estimates[name] = Estimate(float(value), min(float(low), float(value)), max(float(high), float(value)))
    return estimates


def _both(in_scores: np.ndarray, out_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both sets with infinity for what is not finite, and refuse an empty one."""
    for name, scores in (("in-distribution", in_scores), ("OOD", out_scores)):
        if len(scores) == 0:
            raise ValueError(f"there are no {name} scores, but a ROC curve needs scores of both kinds")
    return as_largest(in_scores), as_largest(out_scores)


def _count(in_scores: np.ndarray, out_scores: np.ndarray, bins: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Count the scores of each set in each bin, the highest bin first. Without `bins` each distinct score has a bin."""
    values, where = np.unique(np.concatenate([in_scores, out_scores]), return_inverse=True)
    size = len(values)
    if bins is not None and size > bins:
        # The bin of a score follows from the mean of its relative ranks in both sets, so equal scores share a bin.
        split = np.split(where, [len(in_scores)])
        counts = [np.bincount(part, minlength=size) for part in split]
        middle = sum((np.cumsum(count) - count / 2) / count.sum() for count in counts) / 2
        where, size = (middle * bins).astype(int)[where], bins
    where = size - 1 - where
    in_where, out_where = np.split(where, [len(in_scores)])
    return np.bincount(in_where, minlength=size), np.bincount(out_where, minlength=size)


def _cumulative(counts: np.ndarray) -> np.ndarray:
    """Turn counts (..., K) into the shares (..., K + 1) at or above each threshold, from 0 to 1."""
    found = np.cumsum(counts, -1)
    return np.concatenate([np.zeros((*found.shape[:-1], 1)), found / found[..., -1:]], -1)


def _statistics(in_counts: np.ndarray, out_counts: np.ndarray) -> dict[str, np.ndarray]:
    """Compute each statistic (R,) from the counts (R, K) of R resamples, the highest bin first."""
    false, true = np.cumsum(in_counts, -1), np.cumsum(out_counts, -1)
    n_in, n_out = false[:, -1:], true[:, -1:]
    # The probability that an OOD score is larger than an in-distribution one, where a tie counts half.
    auroc = (in_counts * (true - out_counts / 2)).sum(-1) / (n_in * n_out)[:, 0]
    # Average precision: the sum of (step in recall) x precision.
    aupr = (out_counts * true / np.maximum(true + false, 1)).sum(-1) / n_out[:, 0]
    first = (true >= 0.95 * n_out).argmax(-1)
    fpr95 = np.take_along_axis(false, first[:, None], -1)[:, 0] / n_in[:, 0]
    return dict(zip(ROC_STATISTICS, (auroc, aupr, fpr95), strict=True))
