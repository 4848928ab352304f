r"""The typicality test for batches of images (Nalisnick, Matsukawa, Teh & Lakshminarayanan 2019).

A batch of M images is typical of a model if its mean negative log-likelihood lies near the model's entropy H:
out-of-distribution if :math:`|\frac1M \sum_m -\log p(x_m) - H| > \epsilon_M`. H is estimated by the mean over training
images, and :math:`\epsilon_M` is the alpha-quantile of the same distance over batches of held-out images. No torch
here.

Shapes: N scores or batches, M images a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

__all__ = [
    "Center",
    "Threshold",
    "TypicalityTest",
    "calibrate",
    "check_alpha",
    "distance_from",
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


@dataclass(frozen=True)
class TypicalityTest:
    """A test of batches of `batch_size` images, made by `fit`. Likelihoods are in nats an image."""

    batch_size: int
    alpha: float
    center: float
    """H, nats."""
    threshold: Threshold

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

        Raises:
            ValueError: for an alpha outside (0, 1), a batch size or number of bootstraps below 1, too few validation
                scores, too many of them not finite, or any that H is made of.
        """
        h = entropy(train_nll, "training") if center == "train" else entropy(validation_nll, "validation")

        def statistic_for(validation: np.ndarray) -> BatchStatistic:
            return distance_from(h if center == "train" else entropy(validation, "validation"))

        threshold = calibrate(statistic_for, validation_nll, batch_size, alpha, bootstraps, seed, exact=exact)
        return cls(batch_size, alpha, h, threshold)

    def statistic(self, nll_NM: np.ndarray) -> np.ndarray:
        """Scores (N, M), one row a batch -> |mean - H| (N,) in nats. Raises ValueError for another M."""
        nll_NM = np.asarray(nll_NM)
        if nll_NM.ndim != 2 or nll_NM.shape[1] != self.batch_size:
            raise ValueError(f"this test takes scores of shape (N, {self.batch_size}), not {nll_NM.shape}")
        return distance_from(self.center)(nll_NM)

    def is_ood(self, nll_NM: np.ndarray) -> np.ndarray:
        """Scores (N, M) -> decisions (N,). A batch with a score that is not finite is OOD."""
        return self.threshold.exceeded(self.statistic(nll_NM))


def distance_from(center: float) -> BatchStatistic:
    """The typicality of batches of scores: |mean - center|."""

    def statistic(nll_NM: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # infinities of both signs
            return np.abs(np.mean(nll_NM, axis=1) - center)

    return statistic


def calibrate(
    statistic_for: Callable[[np.ndarray], BatchStatistic],
    held_out_N: np.ndarray,
    batch_size: int,
    alpha: float,
    bootstraps: int,
    seed: int = 0,
    *,
    exact: bool = True,
) -> Threshold:
    """The alpha-quantile of a statistic over batches of held-out scores, with its own interval.

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
    if batch_size == 1 and exact:
        threshold = _order_statistic(np.sort(statistic_for(held_out_N)(held_out_N[:, None])), alpha)
    else:
        threshold = _bootstrap(statistic_for, held_out_N, batch_size, alpha, bootstraps, rng)
    if not math.isfinite(threshold.value):  # it would let everything pass
        raise ValueError(
            f"{np.isinf(held_out_N).sum()} of {n} held-out scores are not finite, so that {alpha} of the batches of "
            f"{batch_size} cannot pass: take smaller batches or a smaller alpha"
        )
    return threshold


def _bootstrap(
    statistic_for: Callable[[np.ndarray], BatchStatistic],
    held_out_N: np.ndarray,
    batch_size: int,
    alpha: float,
    bootstraps: int,
    rng: np.random.Generator,
) -> Threshold:
    value = _bootstrap_quantile(statistic_for(held_out_N), held_out_N, batch_size, alpha, bootstraps, rng)
    resampled = [
        _bootstrap_quantile(statistic_for(scores), scores, batch_size, alpha, min(bootstraps, INNER_BATCHES), rng)
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


def _bootstrap_quantile(
    statistic: BatchStatistic,
    scores_N: np.ndarray,
    batch_size: int,
    alpha: float,
    batches: int,
    rng: np.random.Generator,
) -> float:
    distances = statistic(rng.choice(scores_N, (batches, batch_size)))
    position = alpha * (batches - 1)
    ranks = [math.floor(position), math.ceil(position)]
    below, above = np.partition(distances, ranks)[ranks]
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
