r"""Statistical tests that decide whether a batch of images is out-of-distribution (OOD), such as the typicality test.

In the typicality test (Nalisnick, Matsukawa, Teh & Lakshminarayanan 2019) a batch of M images is typical of a model if
its mean negative log-likelihood is near the model's entropy H, and OOD if

.. math:: |\frac1M \sum_m -\log p(x_m) - H| > \epsilon_M.

H is estimated by the mean over training images, and :math:`\epsilon_M` is the alpha-quantile of the same distance over
batches of held-out images. `MeanTest` is the same procedure for a score that is only suspicious when it is high.

Start with `TypicalityTest.fit`. It takes scores as numpy arrays, such as the column ``nll`` of `glow.scoring.score`;
this module needs no torch.

Shapes: n training or held-out scores, N batches of M images, K statistics of held-out batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from glow.ood.calibration import NO_BOUNDS, Bounds, Choices, MeanStatistic, Threshold, bounds_of, calibrated

Center = Literal["train", "validation"]
"""The images whose mean score is the centre H of a two-sided test."""

ROUNDING = 1e-12
"""Tolerance when a p-value is compared with 1 - alpha, which is not exact: 1 - 0.9 is below 0.1."""


@dataclass(frozen=True)
class BatchTest(ABC):
    """A test of batches of M images, whose statistic is a function of the batch's mean score.

    The command line, the library and served models all make their decisions and p-values here, whatever the statistic
    is. A subclass defines the statistic.

    Attributes:
        batch_size: M.
        alpha: the share of in-distribution batches that shall pass.
        threshold: the alpha-quantile of the statistic over batches of held-out images.
        null: float (K,), the sorted statistics of the batches of held-out images that the threshold was computed from.
            Each held-out image is one batch if M = 1 and exact p-values decide; otherwise the batches are bootstrapped.
            Empty for a test that was not made by `fit`.
        choices: the choices from which exact p-values are computed (`glow.ood.calibration.Choices`); None for a test
            that decides by its threshold.

    Examples:
        >>> test: BatchTest = MeanTest.fit(np.arange(99.0), batch_size=1)
        >>> scores_NM = np.array([[50.0], [200.0]])
        >>> test.statistic(scores_NM).tolist(), test.p_value(scores_NM).tolist(), test.is_ood(scores_NM).tolist()
        ([50.0, 200.0], [0.5, 0.01], [False, True])
    """

    batch_size: int
    alpha: float
    threshold: Threshold
    null: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    choices: Choices | None = field(default=None, repr=False, compare=False)

    @abstractmethod
    def _of_means(self, means: np.ndarray) -> np.ndarray:
        """Return the statistics of mean scores, in the same shape, larger further from the training data."""

    @property
    def of_mean(self) -> MeanStatistic:
        """The function from the mean score of a batch to its statistic."""
        return self._of_means

    @property
    def bounds(self) -> Bounds:
        """The range that scores are clipped to for exact p-values; without bounds at M = 1."""
        return NO_BOUNDS if self.choices is None else self.choices.bounds

    def _shaped(self, scores: np.ndarray) -> np.ndarray:
        """Return the scores as an array (N, M), and refuse another M with a ValueError."""
        scores = np.asarray(scores)
        if scores.ndim != 2 or scores.shape[1] != self.batch_size:
            raise ValueError(f"this test takes scores of shape (N, {self.batch_size}), not {scores.shape}")
        return scores

    def statistic(self, scores_NM: np.ndarray) -> np.ndarray:
        """Return the statistic of each batch.

        Args:
            scores_NM: float (N, M), one row per batch.

        Returns:
            float (N,). A statistic is larger the further its batch is from the training data.

        Raises:
            ValueError: if the rows do not have `batch_size` scores.
        """
        with np.errstate(invalid="ignore"):  # a batch may contain infinities of both signs
            return self._of_means(self._shaped(scores_NM).mean(1))

    def is_ood(self, scores_NM: np.ndarray) -> np.ndarray:
        """Decide which batches are OOD.

        A test with `choices` decides by p <= 1 - alpha. Averaged over held-out sets, it calls at most a share 1 - alpha
        of in-distribution batches OOD, however few held-out scores there are. A test without `choices` decides by its
        threshold.

        Args:
            scores_NM: float (N, M), one row per batch.

        Returns:
            bool (N,). With `choices`, a score that is not finite counts as the upper bound of the scores, or as larger
            than all others at M = 1. Without `choices`, a batch with such a score is OOD.

        Raises:
            ValueError: if the rows do not have `batch_size` scores.
        """
        if self.choices is None:
            return self.threshold.exceeded(self.statistic(scores_NM))
        return self.p_value(scores_NM) <= 1 - self.alpha + ROUNDING

    def p_value(self, scores_NM: np.ndarray) -> np.ndarray:
        """Return the p-value of each batch.

        It tells how often an in-distribution batch is at least as far from the training data as the given batch:
        p = (1 + number of null statistics that are at least the batch's) / (K + 1).

        With `choices` (see `glow.ood.calibration`), the null statistics are those of the choices, and p is exact: for
        an in-distribution batch P(p <= u) <= u for every u, whatever the number of held-out scores. At M = 1 it is the
        p-value of split conformal prediction. Without `choices`, the null statistics are `null`, those of bootstrapped
        batches; p is then too small if few held-out scores represent a distribution with heavy tails.

        Args:
            scores_NM: float (N, M), one row per batch.

        Returns:
            float (N,), from 1 / (K + 1) to 1. Without `choices`, a batch with a score that is not finite has
            1 / (K + 1); with them, see `is_ood`.

        Raises:
            ValueError: if the rows do not have `batch_size` scores, or the test was not made by `fit`.
        """
        if self.choices is not None:
            return self.choices.p_values(self._shaped(scores_NM), self._of_means)
        k = len(self.null)
        if k == 0:
            raise ValueError(f"this test has no null statistics for p-values: make it with {type(self).__name__}.fit")
        statistic_N = self.statistic(scores_NM)
        as_far_N = k - np.searchsorted(self.null, statistic_N, side="left")
        return (1 + np.where(np.isfinite(statistic_N), as_far_N, 0)) / (k + 1)


@dataclass(frozen=True)
class MeanTest(BatchTest):
    """A one-sided test: a batch is OOD if its mean score is high. It does not notice scores that are too low.

    The attributes are those of `BatchTest`. The statistic of a batch is its mean score.

    Examples:
        >>> held_out = np.random.default_rng(0).normal(100, 5, 500)
        >>> test = MeanTest.fit(held_out, batch_size=2, bootstraps=1000, interval=False)
        >>> test.is_ood(np.array([[98.0, 101.0], [120.0, 125.0], [60.0, 70.0]])).tolist()
        [False, True, False]
    """

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
        """Make the test from the scores of images that the model was not trained on.

        Args:
            held_out_N: float (n,), scores of held-out images.
            batch_size: M.
            alpha: the share of in-distribution batches that shall pass.
            bootstraps: number of batches that are drawn from the held-out scores, see `TypicalityTest.fit`.
            seed: seed of all random draws.
            exact: whether exact p-values decide, see `TypicalityTest.fit`.
            interval: whether to bootstrap an interval of the threshold, see `TypicalityTest.fit`.
            bounds: the range to which scores are clipped before p-values at M > 1 are computed. Compute it from the
                scores of training images by `glow.ood.calibration.bounds_of`.

        Returns:
            The test.

        Raises:
            ValueError: for the same reasons as `TypicalityTest.fit`.
        """
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
    r"""A two-sided test: a batch is OOD if its mean negative log-likelihood is far from `center` on either side.

    Make it by `fit`. The scores are negative log-likelihoods in nats per image, or any other score with a typical
    value. The statistic of a batch is \|mean - H\|. `BatchTest` has the other attributes.

    Attributes:
        center: H, the mean score of the training images, or of the held-out images if `fit` was asked for it, in nats.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> train, held_out = rng.normal(100, 5, 1000), rng.normal(100, 5, 500)
        >>> test = TypicalityTest.fit(train, held_out, batch_size=2, bootstraps=1000, interval=False)
        >>> test.is_ood(np.array([[98.0, 101.0], [120.0, 125.0], [60.0, 70.0]])).tolist()
        [False, True, True]
    """

    center: float = field(kw_only=True)

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
        """Make the test: H comes from the training scores, the threshold and p-values from held-out ones.

        Args:
            train_nll: float (n,), negative log-likelihoods of the images that the model was trained on, in nats.
            validation_nll: float (n',), negative log-likelihoods of images from the same distribution that the model
                was not trained on, in nats.
            batch_size: M.
            alpha: the share of in-distribution batches that shall pass.
            bootstraps: number of batches that are drawn, with replacement, from the validation scores. Nalisnick et al.
                draw 50: at alpha = 0.99 their quantile is nearly their maximum, and the true false-positive rate of the
                test then varies between 0.2 and 8 %. With `exact`, this is also the number of random choices from which
                p-values at M > 1 are computed, but at least 10 / (1 - alpha).
            seed: seed of all random draws.
            center: the images whose mean score is H: ``"train"`` for the training images, ``"validation"`` for the
                validation images. The mean negative log-likelihood of the training images is lower, because the model
                was fitted to them. At large M this generalisation gap dominates the distance from H, because the
                standard deviation of a batch's mean falls as 1 / sqrt(M).
            exact: whether exact p-values decide, so that P(false positive) <= 1 - alpha for every number of validation
                scores (only approximately so if the centre comes from these scores too). At M = 1 the threshold is then
                an order statistic of the distances of the validation scores from H (split conformal prediction), and
                the threshold and the p-values lead to the same decisions. At M > 1 they do so in the limit of many
                validation scores. If False, the bootstrapped threshold decides at every M.
            interval: whether to bootstrap an interval of the threshold. This takes 40 times the work of everything
                else. Without it the interval is unbounded. At M = 1 with `exact` there is always an interval, and it
                takes no bootstrap.

        Returns:
            The test.

        Raises:
            ValueError: if alpha is outside (0, 1), `batch_size` or `bootstraps` is below 1, there are too few
                validation scores for the batch size or for alpha, too many of them are not finite, or any score that H
                is computed from is not finite.
        """
        h = entropy(train_nll, "training") if center == "train" else entropy(validation_nll, "held-out")

        def statistic_for(validation_n: np.ndarray) -> MeanStatistic:
            return _distance_from(h if center == "train" else entropy(validation_n, "held-out"))

        how = (batch_size, alpha, bootstraps, seed)
        scores_n = np.asarray(validation_nll)
        threshold, null, choices = calibrated(
            statistic_for, scores_n, *how, exact=exact, interval=interval, bounds=bounds_of(train_nll)
        )
        return cls(batch_size, alpha, threshold, null, choices, center=h)

    def _of_means(self, means: np.ndarray) -> np.ndarray:
        return _distance_from(self.center)(means)


def _itself(means: np.ndarray) -> np.ndarray:
    return means


def _distance_from(center: float) -> MeanStatistic:
    return lambda means: np.abs(means - center)


def entropy(nll_N: np.ndarray, which: str) -> float:
    """Estimate the entropy H of a model by the mean of the negative log-likelihoods of images.

    Args:
        nll_N: float (n,), negative log-likelihoods in nats.
        which: the kind of images, such as "training", which error messages name.

    Returns:
        H, in nats.

    Raises:
        ValueError: if there are no scores, or some are not finite.

    Examples:
        >>> entropy(np.array([99.0, 104.0]), "training")
        101.5
    """
    nll_N = np.asarray(nll_N, float)
    if len(nll_N) == 0:
        raise ValueError(f"there are no {which} scores to estimate the entropy from")
    bad = np.count_nonzero(~np.isfinite(nll_N))
    if bad:
        raise ValueError(f"{bad} of {len(nll_N)} {which} scores are not finite, so the entropy cannot be estimated")
    return float(nll_N.mean())
