r"""The typicality test for batches of images (Nalisnick, Matsukawa, Teh & Lakshminarayanan 2019).

A batch of M images is typical of a model if its mean negative log-likelihood lies near the model's entropy H:
out-of-distribution if :math:`|\frac1M \sum_m -\log p(x_m) - H| > \epsilon_M`. H is estimated by the mean over training
images, and :math:`\epsilon_M` is the alpha-quantile of the same distance over batches of held-out images. No torch
here.

Shapes: N scores or batches, M images per batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from glow.ood.calibration import NO_BOUNDS, Bounds, Choices, MeanStatistic, Threshold, bounds_of, calibrated

__all__ = ["BatchTest", "Center", "MeanTest", "TypicalityTest", "entropy"]

Center = Literal["train", "validation"]

ROUNDING = 1e-12
"""Of 1 - alpha."""


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
    choices: Choices | None
    """What exact p-values are made of; None for a test that decides by its threshold."""

    @abstractmethod
    def _of_means(self, means: np.ndarray) -> np.ndarray:
        """Mean scores -> as many statistics, larger further out."""

    def _shaped(self, scores: np.ndarray) -> np.ndarray:
        """(N, M). Raises ValueError for another M."""
        scores = np.asarray(scores)
        if scores.ndim != 2 or scores.shape[1] != self.batch_size:
            raise ValueError(f"this test takes scores of shape (N, {self.batch_size}), not {scores.shape}")
        return scores

    def statistic(self, scores_NM: np.ndarray) -> np.ndarray:
        """Scores (N, M), one row per batch -> (N,), larger further out. Raises ValueError for another M."""
        with np.errstate(invalid="ignore"):  # infinities of both signs
            return self._of_means(self._shaped(scores_NM).mean(1))

    def is_ood(self, scores_NM: np.ndarray) -> np.ndarray:
        """Scores (N, M) -> decisions (N,). A batch with a score that is not finite is OOD.

        A test with `choices` decides by p <= 1 - alpha, and so calls at most 1 - alpha of in-distribution batches OOD
        on average, however few held-out scores it was made of. Any other decides by its threshold.
        """
        if self.choices is None:
            return self.threshold.exceeded(self.statistic(scores_NM))
        return self.p_value(scores_NM) <= 1 - self.alpha + ROUNDING

    def p_value(self, scores_NM: np.ndarray) -> np.ndarray:
        """Scores (N, M) -> (N,): how often an in-distribution batch lies as far out, (1 + #{null >= d}) / (K + 1).

        With `choices` (see `glow.ood.calibration`) the p of an in-distribution batch is at most u with probability at
        most u, for every number of held-out scores; at M = 1 it is split conformal prediction's. Without them the null
        is that of the threshold, bootstrapped at M > 1, and such a p is too small where few held-out scores stand for
        heavy tails. A batch with a score that is not finite has the smallest p that there is, 1 / (K + 1).

        Raises:
            ValueError: for another M, or a test that was not made by `fit`.
        """
        if self.choices is not None:
            return self.choices.p_values(self._shaped(scores_NM), self._of_means)
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
    choices: Choices | None = field(default=None, repr=False, compare=False)

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
        bounds: Bounds = NO_BOUNDS,
    ) -> MeanTest:
        """The threshold from the scores of images that were not trained on. See `TypicalityTest.fit`; p-values at
        M > 1 clip scores to `bounds`, which come from training images (`glow.ood.calibration.bounds_of`)."""
        how = (batch_size, alpha, bootstraps, seed)
        scores_n = np.asarray(held_out_N)
        threshold, null, choices = calibrated(
            lambda _: _itself, scores_n, *how, exact=exact, interval=interval, bounds=bounds
        )
        return cls(batch_size, alpha, threshold, null, choices)

    def _of_means(self, means: np.ndarray) -> np.ndarray:
        return means


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
    choices: Choices | None = field(default=None, repr=False, compare=False)

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
            exact: decides by exact p-values, with P(false positive) <= 1 - alpha for every sample size; nearly so if
                the centre comes from these scores too. At M = 1 the threshold is then the order statistic of the
                validation scores (split conformal prediction), and decides alike. At M > 1 it is where the decision
                turns for many validation scores. Without it the threshold decides, by the bootstrap at every M.
            interval: whether the threshold shall have an interval. At M > 1 that takes 40 times the work of all else;
                without it is unbounded.

        Raises:
            ValueError: for an alpha outside (0, 1), a batch size or number of bootstraps below 1, too few validation
                scores, too many of them not finite, or any that H is made of.
        """
        h = entropy(train_nll, "training") if center == "train" else entropy(validation_nll, "held-out")

        def statistic_for(validation_n: np.ndarray) -> MeanStatistic:
            return _distance_from(h if center == "train" else entropy(validation_n, "held-out"))

        how = (batch_size, alpha, bootstraps, seed)
        scores_n = np.asarray(validation_nll)
        threshold, null, choices = calibrated(
            statistic_for, scores_n, *how, exact=exact, interval=interval, bounds=bounds_of(train_nll)
        )
        return cls(batch_size, alpha, h, threshold, null, choices)

    def _of_means(self, means: np.ndarray) -> np.ndarray:
        return _distance_from(self.center)(means)


def _itself(means: np.ndarray) -> np.ndarray:
    return means


def _distance_from(center: float) -> MeanStatistic:
    return lambda means: np.abs(means - center)


def entropy(nll_N: np.ndarray, which: str) -> float:
    """H, the mean of scores of `which` images. Raises ValueError if there are none, or some are not finite."""
    nll_N = np.asarray(nll_N, float)
    if len(nll_N) == 0:
        raise ValueError(f"there are no {which} scores to take the entropy from")
    bad = np.count_nonzero(~np.isfinite(nll_N))
    if bad:
        raise ValueError(f"{bad} of {len(nll_N)} {which} scores are not finite: the model has no entropy to test with")
    return float(nll_N.mean())
