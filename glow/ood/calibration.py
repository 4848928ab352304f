r"""Thresholds and p-values of statistics of a batch's mean, from the scores of held-out images. No torch here.

The statistic of a batch is a function of the mean of its images' scores. If the batch is of the same kind as the
held-out images, then any M of all these n + M images could as well have been the batch. So the share of such choices
whose statistic is as far out as the batch's own is a p-value that is right for every n, M and distribution of the
scores: a permutation test (Fisher 1935; Lehmann & Romano 2005, theorem 15.2.1). With M = 1 it is split conformal
prediction (Vovk et al. 2005).

Where scores have no bounds, one huge score determines the mean of its batch. M / (n + M) of the choices contain that
image, so the batch is never far out, even if all of its images are OOD. Therefore scores are clipped to bounds that
come from other images, the training images (`bounds_of`). The p-values stay right, because the bounds do not depend on
the images that are chosen among.

Shapes: n held-out images, N batches of M images, K choices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = [
    "NO_BOUNDS",
    "Bounds",
    "Choices",
    "MeanStatistic",
    "Threshold",
    "bounds_of",
    "calibrated",
    "check_alpha",
    "least_held_out",
    "order_statistic",
]

CONFIDENCE = 0.95

RESAMPLES = 40
INNER_BATCHES = 10_000
"""A threshold's own interval: so many resamples of the held-out scores, whose thresholds' standard deviation it is made
of, and so many batches of each at most. With fewer than the threshold's own, the interval would be wider than the
truth: it has the noise of its batches in it."""

ROUNDING = 1e-12
"""Relative: a choice of the whole batch is the batch itself, whatever the order of the sum."""

MOST_AT_ONCE = 2_000_000
"""Numbers of means that are held in memory at a time."""

Bounds = tuple[float, float]
NO_BOUNDS: Bounds = (-math.inf, math.inf)

MeanStatistic = Callable[[np.ndarray], np.ndarray]
"""Means of scores -> as many statistics, larger further out."""


@dataclass(frozen=True)
class Threshold:
    """A batch is OOD above `value`. [low, high] is where the value itself lies with 95 % confidence or more, given how
    few held-out images it comes from: up to infinity at M = 1 if they are too few to bound it. At M > 1 it is a
    percentile bootstrap, which about a hundred held-out images make too narrow (80 to 95 %)."""

    value: float
    low: float
    high: float

    def exceeded(self, statistic_N: np.ndarray) -> np.ndarray:
        """(N,) bool. A statistic that is not finite is beyond every threshold."""
        return ~(np.isfinite(statistic_N) & (statistic_N <= self.value))


@dataclass(frozen=True)
class Choices:
    """K choices of M images out of the n held-out ones and the M of a batch.

    Most choices have none of the batch's own images, and are the same for every batch: of those `held_out_K` has the
    means. Of the others, `sums_K` has the sums of the held-out images' scores, and `own_KM` which of the batch's images
    they have. Scores are clipped to `bounds`.
    """

    held_out_K: np.ndarray
    sums_K: np.ndarray
    own_KM: np.ndarray
    bounds: Bounds = NO_BOUNDS

    @classmethod
    def draw(
        cls, held_out_n: np.ndarray, batch_size: int, k: int, rng: np.random.Generator, bounds: Bounds = NO_BOUNDS
    ) -> Choices:
        """Every choice at M = 1, which are the n held-out images, and without bounds; else k of them at random."""
        n = len(held_out_n)
        if batch_size == 1:
            return cls(held_out_n, np.empty(0), np.empty((0, 1), bool))
        held_out_n = held_out_n.clip(*bounds)
        own_k = np.bincount(rng.hypergeometric(batch_size, n, batch_size, size=k), minlength=batch_size + 1)
        means_K = held_out_n[_chosen(n, batch_size, own_k[0], rng)].mean(1)
        sums_K, own_KM = np.empty(k - own_k[0]), np.zeros((k - own_k[0], batch_size), bool)
        start = 0
        for several in range(1, batch_size + 1):
            stop = start + own_k[several]
            sums_K[start:stop] = held_out_n[_chosen(n, batch_size - several, own_k[several], rng)].sum(1)
            np.put_along_axis(own_KM[start:stop], _chosen(batch_size, several, own_k[several], rng), True, axis=1)
            start = stop
        return cls(means_K, sums_K, own_KM, bounds)

    def p_values(self, scores_NM: np.ndarray, statistic: MeanStatistic) -> np.ndarray:
        """(N,): (1 + #{choices whose statistic is at least the batch's}) / (K + 1). A batch with a score that
        is not finite has the smallest p that there is."""
        k = len(self.held_out_K) + len(self.sums_K)
        finite_N = np.isfinite(scores_NM).all(1)
        with np.errstate(invalid="ignore"):
            scores_NM = scores_NM.clip(*self.bounds)
            statistic_N = statistic(scores_NM.mean(1))
            shared = np.sort(_as_largest(statistic(self.held_out_K)))
            as_far_N = len(shared) - np.searchsorted(shared, statistic_N, side="left")
            if len(self.sums_K):
                rows = max(1, MOST_AT_ONCE // self.sums_K.size)
                for start in range(0, len(scores_NM), rows):
                    part = slice(start, start + rows)
                    as_far_N[part] += self._own(scores_NM[part], statistic, statistic_N[part])
        return (1 + np.where(finite_N & np.isfinite(statistic_N), as_far_N, 0)) / (k + 1)

    def _own(self, scores_NM: np.ndarray, statistic: MeanStatistic, statistic_N: np.ndarray) -> np.ndarray:
        """Of the choices with images of the batch: how many are at least as far out (N,)."""
        means_NK = (self.sums_K + scores_NM @ self.own_KM.T.astype(float)) / scores_NM.shape[1]
        return (_as_largest(statistic(means_NK)) >= (statistic_N - ROUNDING * np.abs(statistic_N))[:, None]).sum(1)


def _chosen(n: int, m: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """k choices of m different numbers below n, (k, m)."""
    indices = rng.integers(n, size=(k, m))
    few = m * m < 4 * n  # of the choices have a number twice: they are drawn anew, else all numbers are shuffled
    while (again := np.flatnonzero(_repeats(indices))).size:
        for part in np.array_split(again, 1 if few else math.ceil(len(again) * n / MOST_AT_ONCE)):
            indices[part] = rng.integers(n, size=(len(part), m)) if few else _shuffled(n, len(part), rng)[:, :m]
    return indices


def _repeats(indices_km: np.ndarray) -> np.ndarray:
    ordered = np.sort(indices_km, axis=1)
    return (ordered[:, 1:] == ordered[:, :-1]).any(1)


def _shuffled(n: int, k: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permuted(np.tile(np.arange(n), (k, 1)), axis=1)


def bounds_of(scores_n: np.ndarray) -> Bounds:
    """The range of the finite scores, widened by its own width on either side; no bounds if they are all equal."""
    finite = np.asarray(scores_n, float)
    finite = finite[np.isfinite(finite)]
    if len(finite) == 0 or (least := float(finite.min())) == (largest := float(finite.max())):
        return NO_BOUNDS
    return 2 * least - largest, 2 * largest - least


def calibrated(
    statistic_for: Callable[[np.ndarray], MeanStatistic],
    held_out_n: np.ndarray,
    batch_size: int,
    alpha: float,
    bootstraps: int,
    seed: int,
    *,
    exact: bool = True,
    interval: bool = True,
    bounds: Bounds = NO_BOUNDS,
) -> tuple[Threshold, np.ndarray, Choices | None]:
    """The alpha-quantile of a statistic over batches of held-out scores, the statistics that it is of, and the choices
    behind exact p-values (None unless `exact`).

    Args:
        statistic_for: gives the statistic when it is told the held-out scores, of which it may take its centre.
        held_out_n: scores of images that were not trained on. One that is not finite is larger than all others.
        bounds: what p-values at M > 1 clip scores to.

    The others are those of `TypicalityTest.fit`, which also says what is raised.
    """
    check_alpha(alpha)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if bootstraps < 1:
        raise ValueError(f"bootstraps must be at least 1, not {bootstraps}")
    n, held_out_n = len(held_out_n), _as_largest(held_out_n)
    if n < max(2, batch_size):
        raise ValueError(f"{n} held-out scores are too few to calibrate batches of {batch_size}")
    rng = np.random.default_rng([seed, batch_size])
    statistic = statistic_for(held_out_n)
    if batch_size == 1 and exact:
        null = np.sort(statistic(held_out_n))
        threshold = order_statistic(null, alpha)
    else:
        null = np.sort(statistic(_batch_means(held_out_n, bootstraps, batch_size, rng)))
        value = _quantile(null, alpha)
        threshold = Threshold(value, -math.inf, math.inf)
        if interval:
            threshold = _bounded(value, statistic_for, held_out_n, batch_size, alpha, bootstraps, rng)
    if not math.isfinite(threshold.value):  # it would let everything pass
        raise ValueError(
            f"{(~np.isfinite(held_out_n)).sum()} of {n} held-out scores are not finite, so that {alpha} of the "
            f"batches of {batch_size} cannot pass: take smaller batches or a smaller alpha"
        )
    if not exact:
        return threshold, null, None
    least = math.ceil(1 / (1 - alpha) - 1e-9)
    if math.comb(n + batch_size, batch_size) < least:
        raise ValueError(f"{n} held-out scores cannot settle alpha = {alpha} for batches of {batch_size}")
    k = max(bootstraps, 10 * least)  # so many that 1 - alpha of them are some
    chooser = np.random.default_rng([seed, batch_size, k])
    return threshold, null, Choices.draw(held_out_n, batch_size, k, chooser, bounds)


def _batch_means(held_out_n: np.ndarray, k: int, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """Of k batches, drawn with replacement: (k,)."""
    with np.errstate(invalid="ignore"):
        return rng.choice(held_out_n, (k, batch_size)).mean(1)


def _bounded(
    value: float,
    statistic_for: Callable[[np.ndarray], MeanStatistic],
    held_out_n: np.ndarray,
    batch_size: int,
    alpha: float,
    bootstraps: int,
    rng: np.random.Generator,
) -> Threshold:
    """The interval of a threshold: from what resampled held-out scores give in its place."""
    batches = min(bootstraps, INNER_BATCHES)
    resampled = []
    for _ in range(RESAMPLES):
        scores_n = rng.choice(held_out_n, len(held_out_n))
        means = _batch_means(scores_n, batches, batch_size, rng)
        resampled.append(_quantile(statistic_for(scores_n)(means), alpha))
    if not np.isfinite(resampled).all():  # so many held-out scores are not finite that it might as well be infinite
        return Threshold(value, min(value, *resampled), math.inf)
    half = float(np.std(resampled, ddof=1) * stats.norm.ppf((1 + CONFIDENCE) / 2))
    return Threshold(value, value - half, value + half)


def check_alpha(alpha: float) -> None:
    """Raises ValueError for an alpha outside (0, 1)."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, both excluded, not {alpha}")


def least_held_out(alpha: float) -> int:
    """How many held-out scores the exact threshold at M = 1 takes: with fewer, none of theirs is large enough."""
    return math.ceil(alpha / (1 - alpha) * (1 - 1e-9))  # whole numbers survive rounding


def _quantile(distances_K: np.ndarray, alpha: float) -> float:
    position = alpha * (len(distances_K) - 1)
    ranks = [math.floor(position), math.ceil(position)]
    below, above = np.partition(distances_K, ranks)[ranks]
    return float(below if below == above else below + (position % 1) * (above - below))


def order_statistic(sorted_n: np.ndarray, alpha: float) -> Threshold:
    """The smallest of n held-out values that a new one exceeds with probability at most 1 - alpha, which is the
    ceil(alpha (n + 1))-th. Its interval holds the true quantile: order statistics about it (binomial)."""
    n = len(sorted_n)
    rank = math.ceil(alpha * (n + 1) - 1e-9)
    if rank > n:
        raise ValueError(
            f"{n} held-out scores cannot settle alpha = {alpha} for single images: it takes {least_held_out(alpha)}"
        )
    low, high = stats.binom.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], n, alpha).astype(int)
    ranked = [-math.inf, *sorted_n.tolist(), math.inf]  # from rank 1; with few scores no rank bounds the quantile
    return Threshold(ranked[rank], ranked[min(low, rank)], ranked[max(high + 1, rank)])


def _as_largest(statistic: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(statistic), statistic, np.inf)
