"""Thresholds and p-values for batches of images, from the scores of held-out images.

`glow.ood.typicality` builds its tests on this module, which needs no torch. Read it to learn why the decisions are
valid; use it directly to calibrate another statistic.

The statistic of a batch of M images is a function of the mean of their scores. A larger statistic means that the batch
is further from the training data. If the batch comes from the same distribution as the n held-out images, then any M of
all n + M images could equally well have been the batch. Call such M images a choice. The share of choices whose
statistic is at least as large as the statistic of the batch is a valid p-value for every n, M and distribution of the
scores: this is a permutation test (Fisher 1935; Lehmann & Romano 2005, theorem 15.2.1). For M = 1 it is split conformal
prediction (Vovk et al. 2005).

Unbounded scores need care. An image with a huge score determines the mean of every choice that contains the image, and
a share M / (n + M) of the choices does. So the p-value of a batch with such an image can hardly be smaller than this
share, even if all images of the batch are OOD. Therefore scores are clipped to bounds that come from the training
images (`bounds_of`). The p-values stay valid, because the bounds do not depend on the n + M images that the choices are
made from.

Shapes: n held-out images, N batches of M images, K choices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

CONFIDENCE = 0.95
"""Confidence level of all intervals."""

RESAMPLES = 40
"""Number of bootstrap resamples of the held-out scores. The standard deviation of their thresholds gives the interval
of a threshold."""

INNER_BATCHES = 10_000
"""Largest number of batches drawn from each resample. A resample that draws fewer batches than the threshold itself did
adds sampling noise, which widens the interval."""

ROUNDING = 1e-12
"""Relative tolerance when two statistics are compared. The choice that consists of the whole batch is the batch itself,
but its mean is summed in another order."""

HUGE = 1e300
"""Number that replaces scores that are not finite if there are no bounds. Its sums are finite."""

MOST_AT_ONCE = 2_000_000
"""Largest number of means that are held in memory at a time."""

Bounds = tuple[float, float]
"""The smallest and the largest score after clipping."""

NO_BOUNDS: Bounds = (-math.inf, math.inf)
"""Bounds that clip nothing."""

MeanStatistic = Callable[[np.ndarray], np.ndarray]
"""A function from mean scores to statistics of the same shape, which are larger further from the training data."""


@dataclass(frozen=True)
class Threshold:
    """The largest statistic at which a batch still passes, with its 95 % confidence interval.

    The interval shows how precisely the held-out images determine the threshold. If M = 1 and exact p-values decide,
    the ends of the interval are order statistics, and the interval contains the true quantile with a probability of at
    least 95 %, whatever the distribution of the scores. Otherwise the interval is bootstrapped, and extends 1.96
    bootstrap standard deviations to each side of the threshold. With only about a hundred held-out images a
    bootstrapped interval is too narrow: it contains the true quantile with a probability of 80 to 95 %.

    Attributes:
        value: a batch is OOD if its statistic is larger.
        low: lower end of the interval; -infinity if the held-out images do not bound it.
        high: upper end of the interval; infinity if the held-out images do not bound it.

    Examples:
        >>> Threshold(value=2.0, low=1.8, high=2.3).exceeded(np.array([1.0, 2.0, 2.5, np.nan])).tolist()
        [False, False, True, True]
    """

    value: float
    low: float
    high: float

    def exceeded(self, statistic_N: np.ndarray) -> np.ndarray:
        """Return which statistics are larger than the threshold.

        Args:
            statistic_N: float (N,).

        Returns:
            bool (N,). A statistic that is not finite exceeds every threshold.
        """
        return ~(np.isfinite(statistic_N) & (statistic_N <= self.value))


@dataclass(frozen=True)
class Choices:
    """K choices of M images out of the n held-out images and the M images of a batch.

    The same choices serve every batch. If n is much larger than M, most choices contain no image of the batch, and
    their means are computed once. The others are stored as two parts, a sum over held-out images and a mask over the
    images of the batch.

    Attributes:
        held_out_K: float (K0,), mean scores of the choices that contain no image of the batch.
        sums_K: float (K1,), for each other choice the sum of the scores of its held-out images; K0 + K1 = K.
        own_KM: bool (K1, M), for each choice in `sums_K`, which images of the batch it contains.
        bounds: the range that scores are clipped to.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> choices = Choices.draw(np.arange(99.0), batch_size=1, k=1000, rng=rng)
        >>> choices.p_values(np.array([[50.0], [98.0], [200.0]]), lambda means: means).tolist()
        [0.5, 0.02, 0.01]
    """

    held_out_K: np.ndarray
    sums_K: np.ndarray
    own_KM: np.ndarray
    bounds: Bounds = NO_BOUNDS

    @classmethod
    def draw(
        cls, held_out_n: np.ndarray, batch_size: int, k: int, rng: np.random.Generator, bounds: Bounds = NO_BOUNDS
    ) -> Choices:
        """Draw K choices at random; each choice of M of the n + M images is equally likely.

        Args:
            held_out_n: float (n,), scores of held-out images.
            batch_size: M.
            k: the number K of choices. At M = 1 it is ignored: then the choices are the n held-out images, and scores
                are not clipped.
            rng: the source of randomness.
            bounds: the range that scores are clipped to.

        Returns:
            The choices.
        """
        n = len(held_out_n)
        if batch_size == 1:
            return cls(held_out_n, np.empty(0), np.empty((0, 1), bool))
        held_out_n = _limited(held_out_n, bounds)
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
        """Return the p-value of each batch.

        p = (1 + number of choices whose statistic is at least the batch's) / (K + 1). Counting the batch itself as one
        more choice keeps the p-value valid although the choices are random (Phipson & Smyth 2010).

        Args:
            scores_NM: float (N, M), one row per batch.
            statistic: the function from mean scores to statistics.

        Returns:
            float (N,), from 1 / (K + 1) to 1. A score that is not finite counts as the upper bound, in the batch as in
            the held-out images, so that p stays valid if some in-distribution images have such scores.
        """
        k = len(self.held_out_K) + len(self.sums_K)
        with np.errstate(invalid="ignore"):
            scores_NM = _limited(scores_NM, self.bounds)
            statistic_N = statistic(scores_NM.mean(1))
            shared = np.sort(as_largest(statistic(self.held_out_K)))
            as_far_N = len(shared) - np.searchsorted(shared, statistic_N, side="left")
            if len(self.sums_K):
                rows = max(1, MOST_AT_ONCE // self.sums_K.size)
                for start in range(0, len(scores_NM), rows):
                    part = slice(start, start + rows)
                    as_far_N[part] += self._own(scores_NM[part], statistic, statistic_N[part])
        return (1 + as_far_N) / (k + 1)

    def _own(self, scores_NM: np.ndarray, statistic: MeanStatistic, statistic_N: np.ndarray) -> np.ndarray:
        """Count the choices with images of the batch whose statistic is at least the batch's, (N,)."""
        means_NK = (self.sums_K + scores_NM @ self.own_KM.T.astype(float)) / scores_NM.shape[1]
        return (as_largest(statistic(means_NK)) >= (statistic_N - ROUNDING * np.abs(statistic_N))[:, None]).sum(1)


MOST_TESTED = 20_000
"""Largest number of images of a batch that `batch_p_value` uses: beyond it, the held-out images limit the power."""


def batch_p_value(
    held_out_n: np.ndarray,
    scores_M: np.ndarray,
    statistic: MeanStatistic,
    k: int,
    seed: int = 0,
    bounds: Bounds = NO_BOUNDS,
) -> float:
    """Return the p-value of a single batch of any size M, which may be larger than n.

    It is the permutation test of `Choices` and of the module, with K choices for this batch alone. `Choices` serves
    many batches of one size, and so takes a memory of K M values. This function makes one choice after the other, and
    sums over the smaller of its two sides.

    Args:
        held_out_n: float (n,), scores of held-out images.
        scores_M: float (M,), scores of the batch. `MOST_TESTED` of them, chosen at random, are used if there are more.
        statistic: the function from mean scores to statistics.
        k: the number K of random choices.
        seed: seed of the choices.
        bounds: the range that scores are clipped to, which must come from other images.

    Returns:
        The p-value, from 1 / (K + 1) to 1.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> held_out, batch = rng.normal(0, 1, 50), rng.normal(0.5, 1, 400)
        >>> batch_p_value(held_out, batch, np.abs, k=999) < 0.05
        True
    """
    rng = np.random.default_rng([seed, len(scores_M)])
    if len(scores_M) > MOST_TESTED:
        scores_M = rng.choice(scores_M, MOST_TESTED, replace=False)
    n, m = len(held_out_n), len(scores_M)
    pooled = _limited(np.concatenate([held_out_n, scores_M]), bounds)
    observed = float(statistic(pooled[n:].mean(keepdims=True))[0])
    tolerance = ROUNDING * max(abs(observed), float(np.median(np.abs(pooled))))
    side = min(n, m)  # either the M that are chosen, or the n that are left out
    chosen = (rng.choice(n + m, side, replace=False, shuffle=False) for _ in range(k))
    sums_K = np.fromiter((pooled[indices].sum() for indices in chosen), float, k)
    means_K = (sums_K if m <= n else pooled.sum() - sums_K) / m
    as_far = int(np.count_nonzero(as_largest(statistic(means_K)) >= observed - tolerance))
    return (1 + as_far) / (k + 1)


def _chosen(n: int, m: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Draw k times m different numbers below n, (k, m)."""
    indices = rng.integers(n, size=(k, m))
    # Rows that contain a number twice are replaced. If such rows are few, drawing them again is faster than shuffling
    # all n numbers for each.
    few = m * m < 4 * n
    while (again := np.flatnonzero(_repeats(indices))).size:
        for part in np.array_split(again, 1 if few else math.ceil(len(again) * n / MOST_AT_ONCE)):
            indices[part] = rng.integers(n, size=(len(part), m)) if few else _shuffled(n, len(part), rng)[:, :m]
    return indices


def _repeats(indices_km: np.ndarray) -> np.ndarray:
    """Return which rows contain a number twice."""
    ordered = np.sort(indices_km, axis=1)
    return (ordered[:, 1:] == ordered[:, :-1]).any(1)


def _shuffled(n: int, k: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permuted(np.tile(np.arange(n), (k, 1)), axis=1)


def bounds_of(scores_n: np.ndarray) -> Bounds:
    """Return the range of the finite scores, widened by its width on each side.

    Args:
        scores_n: float (n,), scores of training images.

    Returns:
        (2 min - max, 2 max - min), or `NO_BOUNDS` if no score is finite or all are equal.

    Examples:
        >>> bounds_of(np.array([1.0, 2.0, 4.0, np.inf]))
        (-2.0, 7.0)
    """
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
    """Calibrate a statistic of batches from held-out scores.

    The threshold is the alpha-quantile of the statistic over batches of M held-out images. At M = 1 with `exact`, each
    of the n images is one batch, and the quantile is an order statistic. Otherwise the batches are bootstrapped: their
    images are drawn with replacement.

    Args:
        statistic_for: a function that receives the held-out scores (n,) and returns the statistic. The statistic may
            depend on these scores, such as on their mean.
        held_out_n: float (n,), scores of images that the model was not trained on. Scores that are not finite count as
            infinity.
        batch_size: M.
        alpha: the share of in-distribution batches that shall pass.
        bootstraps: number of bootstrapped batches, and of choices. There are at least 10 / (1 - alpha) choices.
        seed: seed of all random draws.
        exact: whether to draw the choices (`Choices`) that exact p-values are computed from.
        interval: whether to bootstrap the threshold's interval, which takes up to 40 times the work of everything else.
            If False, the interval is unbounded. At M = 1 with `exact` there is always an interval, at no cost.
        bounds: the range that scores are clipped to for exact p-values at M > 1.

    Returns:
        The threshold; the sorted statistics of the batches that it was computed from, (n,) at M = 1 with `exact`,
        otherwise (bootstraps,); and the choices, or None if `exact` is False.

    Raises:
        ValueError: if alpha is outside (0, 1), `batch_size` or `bootstraps` is below 1, there are too few held-out
            scores for the batch size or for alpha, or so many of them are not finite that the threshold is infinite.

    Examples:
        >>> threshold, null, choices = calibrated(lambda _: lambda means: means, np.arange(99.0), 1, 0.95, 1000, seed=0)
        >>> threshold, len(null)
        (Threshold(value=94.0, low=88.0, high=98.0), 99)
        >>> choices.p_values(np.array([[95.0]]), lambda means: means).tolist()
        [0.05]
    """
    check_alpha(alpha)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if bootstraps < 1:
        raise ValueError(f"bootstraps must be at least 1, not {bootstraps}")
    n, held_out_n = len(held_out_n), as_largest(held_out_n)
    if n < max(2, batch_size):
        raise ValueError(
            f"{n} held-out scores are too few to calibrate batches of {batch_size}: it takes {max(2, batch_size)}"
        )
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
    if not math.isfinite(threshold.value):  # an infinite threshold would let every batch pass
        raise ValueError(
            f"{(~np.isfinite(held_out_n)).sum()} of {n} held-out scores are not finite, so a share of {alpha} of the "
            f"batches of {batch_size} cannot pass: use smaller batches or a smaller alpha"
        )
    if not exact:
        return threshold, null, None
    if n < (needed := least_held_out(alpha, batch_size)):
        raise ValueError(
            f"{n} held-out scores are too few for alpha = {alpha} and batches of {batch_size}: it takes {needed}"
        )
    least = math.ceil(1 / (1 - alpha) - 1e-9)
    k = max(bootstraps, 10 * least)  # at least about 10 choices must lie above the threshold
    chooser = np.random.default_rng([seed, batch_size, k])
    return threshold, null, Choices.draw(held_out_n, batch_size, k, chooser, bounds)


def _batch_means(held_out_n: np.ndarray, k: int, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """Return the means (k,) of k batches that are drawn with replacement."""
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
    """Bootstrap the interval of a threshold: resample the held-out scores and compute its threshold from each."""
    batches = min(bootstraps, INNER_BATCHES)
    resampled = []
    for _ in range(RESAMPLES):
        scores_n = rng.choice(held_out_n, len(held_out_n))
        means = _batch_means(scores_n, batches, batch_size, rng)
        resampled.append(_quantile(statistic_for(scores_n)(means), alpha))
    if not np.isfinite(resampled).all():  # with so many held-out scores not finite, the threshold may be infinite
        return Threshold(value, min(value, *resampled), math.inf)
    half = float(np.std(resampled, ddof=1) * special.ndtri((1 + CONFIDENCE) / 2))
    return Threshold(value, value - half, value + half)


def check_alpha(alpha: float) -> None:
    """Raise an error unless alpha is a share between 0 and 1.

    Args:
        alpha: the share of in-distribution batches that shall pass.

    Raises:
        ValueError: if alpha is not strictly between 0 and 1.

    Examples:
        >>> check_alpha(0.99)
        >>> check_alpha(1.0)
        Traceback (most recent call last):
            ...
        ValueError: alpha must be between 0 and 1, both excluded, not 1.0
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, both excluded, not {alpha}")


def least_held_out(alpha: float, batch_size: int = 1) -> int:
    """Return the smallest number n of held-out scores with which an exact test can call a batch of M images OOD.

    The smallest p-value is one divided by the number of choices of M of the n + M images, and it must be at most
    1 - alpha. For M = 1, n is alpha / (1 - alpha), rounded up: with fewer held-out scores, a new in-distribution score
    exceeds even the largest of them with a probability above 1 - alpha. For M > 1, n is also at least M.

    Args:
        alpha: the share of in-distribution batches that shall pass.
        batch_size: M.

    Returns:
        The number of scores.

    Examples:
        >>> least_held_out(0.99), least_held_out(0.95), least_held_out(0.99, batch_size=2)
        (99, 19, 13)
    """
    alone = math.ceil(alpha / (1 - alpha) * (1 - 1e-9))  # the factor keeps rounding from adding one to a whole number
    if batch_size == 1:
        return alone
    return next(n for n in itertools.count(batch_size) if math.comb(n + batch_size, batch_size) > alone)


def _quantile(distances_K: np.ndarray, alpha: float) -> float:
    """Return the alpha-quantile, interpolated linearly; unlike `np.quantile`, infinite values do not make it NaN."""
    position = alpha * (len(distances_K) - 1)
    ranks = [math.floor(position), math.ceil(position)]
    below, above = np.partition(distances_K, ranks)[ranks]
    return float(below if below == above else below + (position % 1) * (above - below))


def order_statistic(sorted_n: np.ndarray, alpha: float) -> Threshold:
    """Return the smallest held-out value that a new value exceeds with probability at most 1 - alpha.

    It is the ceil(alpha (n + 1))-th smallest value (split conformal prediction, Vovk et al. 2005). The interval of the
    threshold contains the true alpha-quantile with a probability of at least 95 % for every distribution. The ends of
    the interval are order statistics too. Their ranks are quantiles of the binomial (n, alpha) distribution, because
    the number of held-out values below the true alpha-quantile has this distribution.

    Args:
        sorted_n: float (n,), the statistics of held-out images in ascending order.
        alpha: the share of in-distribution images that shall pass.

    Returns:
        The threshold with its interval, whose ends are infinite where n is too small to bound the quantile.

    Raises:
        ValueError: if n is smaller than `least_held_out` of alpha.

    Examples:
        >>> order_statistic(np.arange(1.0, 1000.0), alpha=0.99)
        Threshold(value=990.0, low=982.0, high=996.0)
    """
    from scipy.stats import binom  # here, because a training imports this module and does not need it: it takes 0.5 s

    n = len(sorted_n)
    rank = math.ceil(alpha * (n + 1) - 1e-9)
    if rank > n:
        raise ValueError(
            f"{n} held-out scores are too few for alpha = {alpha} and single images: it takes {least_held_out(alpha)}"
        )
    low, high = binom.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], n, alpha).astype(int)
    ranked = [-math.inf, *sorted_n.tolist(), math.inf]  # ranks count from 1, and 0 and n + 1 bound nothing
    return Threshold(ranked[rank], ranked[min(low, rank)], ranked[max(high + 1, rank)])


def _limited(scores: np.ndarray, bounds: Bounds) -> np.ndarray:
    """Clip scores to bounds; those that are not finite become the upper bound, or `HUGE` if there is none."""
    return np.where(np.isfinite(scores), scores, HUGE).clip(*bounds)


def as_largest(statistic: np.ndarray) -> np.ndarray:
    """Replace values that are not finite by infinity.

    Examples:
        >>> as_largest(np.array([1.0, np.nan, -np.inf])).tolist()
        [1.0, inf, inf]
    """
    return np.where(np.isfinite(statistic), statistic, np.inf)
