r"""The typicality test for batches of images (Nalisnick, Matsukawa, Teh & Lakshminarayanan 2019).

A batch of M images is typical of a model if its mean negative log-likelihood lies near the model's entropy H:
out-of-distribution if :math:`|\frac1M \sum_m -\log p(x_m) - H| > \epsilon_M`. H is estimated by the mean over training
images, and :math:`\epsilon_M` is the alpha-quantile of the same distance over batches of held-out images. No torch
here.

Shapes: N scores or batches, M images a batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy import stats

__all__ = [
    "BatchTest",
    "Center",
    "MeanTest",
    "Threshold",
    "TypicalityTest",
    "check_alpha",
    "entropy",
    "least_held_out",
]

Center = Literal["train", "validation"]

RESAMPLES = 40
INNER_BATCHES = 10_000
"""A threshold's own interval: so many resamples of the held-out scores, whose thresholds' standard deviation it is made
of, and so many batches of each at most. With fewer than the threshold's own, the interval would be wider than the
truth: it has the noise of its batches in it."""

CONFIDENCE = 0.95

BatchStatistic = Callable[[np.ndarray], np.ndarray]
"""Scores (N, M) -> (N,), larger further out."""


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


class BatchTest(ABC):
    """A test of batches of M images by a score of each: OOD if a statistic of the batch exceeds a threshold.

    The command line, the library and served models decide and take p-values here, whatever the statistic is.
    """

    batch_size: int
    """M."""
    alpha: float
    """The share of in-distribution batches that shall pass."""
    threshold: Threshold
    null: np.ndarray
    """(K,) sorted: the statistics of which the threshold is the alpha-quantile, those of each held-out image at M = 1
    and of bootstrapped batches otherwise; empty for a test that was not fitted."""

    @abstractmethod
    def _of_batches(self, scores_NM: np.ndarray) -> np.ndarray:
        """Scores (N, M) -> the statistic (N,), larger further out."""

    def statistic(self, scores_NM: np.ndarray) -> np.ndarray:
        """Scores (N, M), one row per batch -> (N,), larger further out. Raises ValueError for another M."""
        scores_NM = np.asarray(scores_NM)
        if scores_NM.ndim != 2 or scores_NM.shape[1] != self.batch_size:
            raise ValueError(f"this test takes scores of shape (N, {self.batch_size}), not {scores_NM.shape}")
        return self._of_batches(scores_NM)

    def is_ood(self, scores_NM: np.ndarray) -> np.ndarray:
        """Scores (N, M) -> decisions (N,). A batch with a score that is not finite is OOD."""
        return self.threshold.exceeded(self.statistic(scores_NM))

    def p_value(self, scores_NM: np.ndarray) -> np.ndarray:
        """Scores (N, M) -> (N,): how often an in-distribution batch lies as far out, (1 + #{null >= d}) / (K + 1).

        At M = 1 these are conformal p-values: of an in-distribution image, p is at most u with probability at most u,
        for every number of held-out scores, and p <= 1 - alpha if and only if `is_ood`, ties included, but for the
        rounding of 1 - alpha. At M > 1 the null is bootstrapped, and since the threshold lies between two of its
        statistics, the p at which the decision turns is within 2 / (K + 1) of 1 - alpha. A batch with a score that is
        not finite has the smallest p that there is, 1 / (K + 1).

        Raises:
            ValueError: for another M, or a test that was not made by `fit`.
        """
        k = len(self.null)
        if k == 0:
            raise ValueError(f"this test has no null to take p-values from: make it with {type(self).__name__}.fit")
        statistic_N = self.statistic(scores_NM)
        as_far_N = k - np.searchsorted(self.null, statistic_N, side="left")
        return (1 + np.where(np.isfinite(statistic_N), as_far_N, 0)) / (k + 1)


@dataclass(frozen=True)
class MeanTest(BatchTest):
    """OOD if the mean score of a batch is high. It is blind to batches whose scores are too low."""

    batch_size: int
    alpha: float
    threshold: Threshold
    null: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)

    @classmethod
    def fit(
        cls,
        held_out_N: np.ndarray,
        batch_size: int,
        alpha: float = 0.99,
        bootstraps: int = 10_000,
        seed: int = 0,
        *,
        exact: bool = True,
        interval: bool = True,
    ) -> MeanTest:
        """The threshold from the scores of images that were not trained on. See `TypicalityTest.fit`."""
        threshold, null = _calibrated(
            lambda scores_N: _mean, held_out_N, batch_size, alpha, bootstraps, seed, exact=exact, interval=interval
        )
        return cls(batch_size, alpha, threshold, null)

    def _of_batches(self, scores_NM: np.ndarray) -> np.ndarray:
        return _mean(scores_NM)


@dataclass(frozen=True)
class TypicalityTest(BatchTest):
    """OOD if the mean negative log-likelihood of a batch is far from `center`, on either side.

    Made by `fit`. Likelihoods are in nats per image.
    """

    batch_size: int
    alpha: float
    center: float
    """H, nats."""
    threshold: Threshold
    null: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)

    @classmethod
    def fit(
        cls,
        train_nll: np.ndarray,
        validation_nll: np.ndarray,
        batch_size: int,
        alpha: float = 0.99,
        bootstraps: int = 10_000,
        seed: int = 0,
        *,
        center: Center = "train",
        exact: bool = True,
        interval: bool = True,
    ) -> TypicalityTest:
        """H from the training scores, the threshold from held-out ones.

        Args:
            train_nll: (N,) negative log-likelihoods of the images that the model was trained on.
            validation_nll: (N',) of images of the same kind that it was not trained on.
            batch_size: M.
            alpha: the share of in-distribution batches that shall pass.
            bootstraps: batches drawn, with replacement, from the validation scores. The paper's 50 give at alpha 0.99
                nearly their maximum, whose true false-positive rate varies between 0.2 and 8 %.
            center: ``"validation"`` takes H from there. The mean over training images is shifted by the
                generalisation gap, which dominates as the spread of a batch's mean shrinks with the root of M.
            exact: at M = 1, in place of the bootstrap, the order statistic of the validation scores with
                P(false positive) <= 1 - alpha for every sample size (split conformal prediction); nearly so if the
                centre comes from these scores too.
            interval: whether the threshold shall have an interval. At M > 1 that takes 40 times the work of all else;
                without it is unbounded.

        Raises:
            ValueError: for an alpha outside (0, 1), a batch size or number of bootstraps below 1, too few validation
                scores, too many of them not finite, or any that H is made of.
        """
        h = entropy(train_nll, "training") if center == "train" else entropy(validation_nll, "held-out")

        def statistic_for(validation: np.ndarray) -> BatchStatistic:
            return _distance_from(h if center == "train" else entropy(validation, "held-out"))

        threshold, null = _calibrated(
            statistic_for, validation_nll, batch_size, alpha, bootstraps, seed, exact=exact, interval=interval
        )
        return cls(batch_size, alpha, h, threshold, null)

    def _of_batches(self, scores_NM: np.ndarray) -> np.ndarray:
        return _distance_from(self.center)(scores_NM)


def _mean(scores_NM: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # infinities of both signs
        return np.mean(scores_NM, axis=1)


def _distance_from(center: float) -> BatchStatistic:
    return lambda scores_NM: np.abs(_mean(scores_NM) - center)


def _calibrated(
    statistic_for: Callable[[np.ndarray], BatchStatistic],
    held_out_N: np.ndarray,
    batch_size: int,
    alpha: float,
    bootstraps: int,
    seed: int,
    *,
    exact: bool = True,
    interval: bool = True,
) -> tuple[Threshold, np.ndarray]:
    """The alpha-quantile of a statistic over batches of held-out scores, and `BatchTest.null`.

    Args:
        statistic_for: gives the statistic when it is told the held-out scores, of which it may take its centre.
        held_out_N: (N,) scores of images that were not trained on. One that is not finite is larger than all others.

    The others are those of `TypicalityTest.fit`, which also says what is raised.
    """
    check_alpha(alpha)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if bootstraps < 1:
        raise ValueError(f"bootstraps must be at least 1, not {bootstraps}")
    n, held_out_N = len(held_out_N), np.where(np.isfinite(held_out_N), held_out_N, np.inf)
    if n < max(2, batch_size):
        raise ValueError(f"{n} held-out scores are too few to calibrate batches of {batch_size}")
    rng = np.random.default_rng([seed, batch_size])
    statistic = statistic_for(held_out_N)
    if batch_size == 1 and exact:
        null = np.sort(statistic(held_out_N[:, None]))
        threshold = _order_statistic(null, alpha)
    else:
        null = np.sort(statistic(rng.choice(held_out_N, (bootstraps, batch_size))))
        value = _quantile(null, alpha)
        threshold = Threshold(value, -math.inf, math.inf)
        if interval:
            threshold = _bounded(value, statistic_for, held_out_N, batch_size, alpha, bootstraps, rng)
    if not math.isfinite(threshold.value):  # it would let everything pass
        raise ValueError(
            f"{np.isinf(held_out_N).sum()} of {n} held-out scores are not finite, so that {alpha} of the batches of "
            f"{batch_size} cannot pass: take smaller batches or a smaller alpha"
        )
    return threshold, null


def _bounded(
    value: float,
    statistic_for: Callable[[np.ndarray], BatchStatistic],
    held_out_N: np.ndarray,
    batch_size: int,
    alpha: float,
    bootstraps: int,
    rng: np.random.Generator,
) -> Threshold:
    """The interval of a threshold: from what resampled held-out scores give in its place."""
    batches = min(bootstraps, INNER_BATCHES)
    resampled = [
        _quantile(statistic_for(scores)(rng.choice(scores, (batches, batch_size))), alpha)
        for scores in rng.choice(held_out_N, (RESAMPLES, len(held_out_N)))
    ]
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


def _order_statistic(sorted_N: np.ndarray, alpha: float) -> Threshold:
    """The smallest of N held-out values that a new one exceeds with probability at most 1 - alpha, which is the
    ceil(alpha (N + 1))-th. Its interval holds the true quantile: order statistics about it (binomial)."""
    n = len(sorted_N)
    rank = math.ceil(alpha * (n + 1) - 1e-9)
    if rank > n:
        raise ValueError(
            f"{n} held-out scores cannot settle alpha = {alpha} for single images: it takes {least_held_out(alpha)}"
        )
    low, high = stats.binom.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], n, alpha).astype(int)
    ranked = [-math.inf, *sorted_N.tolist(), math.inf]  # from rank 1; with few scores no rank bounds the quantile
    return Threshold(ranked[rank], ranked[min(low, rank)], ranked[max(high + 1, rank)])


def entropy(nll_N: np.ndarray, which: str) -> float:
    """H, the mean of scores of `which` images. Raises ValueError if there are none, or some are not finite."""
    nll_N = np.asarray(nll_N, float)
    if len(nll_N) == 0:
        raise ValueError(f"there are no {which} scores to take the entropy from")
    bad = np.count_nonzero(~np.isfinite(nll_N))
    if bad:
        raise ValueError(f"{bad} of {len(nll_N)} {which} scores are not finite: the model has no entropy to test with")
    return float(nll_N.mean())
