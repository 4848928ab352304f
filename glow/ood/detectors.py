"""Detectors of out-of-distribution images, all from one score table and no second model. No torch here.

Each gives an image a score that grows further out, and a batch the mean of its images' scores; typicality folds that
mean about the centre. So one calibration (`glow.ood.typicality.calibrate`) serves them all, and they can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.mixture import GaussianMixture

from glow.ood.typicality import BatchStatistic, Center, distance_from, entropy

__all__ = ["DETECTORS", "Detector", "fit_detectors"]

DETECTORS = {
    "typicality": "Nalisnick et al. 2019: the distance of a batch's mean NLL from the mean of the training images",
    "likelihood": "the mean NLL of a batch itself: OOD if it is high",
    "complexity": "Serrà et al. 2020, S: the NLL less the length of the image under a lossless codec, both in bits",
    "density": "after Morningstar et al. 2021 (DoSE): how rare the log-det and the log p(z) of each level are together",
}

COMPONENTS = 4
"""Of the Gaussian mixture behind `density`."""

ROUNDING = 1e-5
"""Relative: the parts of a score vary by more than this, or not at all."""


@dataclass(frozen=True)
class Detector:
    """`image_scores`: a score table of N images -> (N,); `statistic_for`: the scores of held-out images -> the
    statistic (N, M) -> (N,) of batches of scores."""

    name: str
    image_scores: Callable[[pd.DataFrame], np.ndarray]
    statistic_for: Callable[[np.ndarray], BatchStatistic]


def fit_detectors(train: pd.DataFrame, center: Center = "train", seed: int = 0) -> list[Detector]:
    """Every detector of `DETECTORS`, from the score table of the training images.

    Raises:
        ValueError: if the table is empty, or scores in it are not finite, or all the same.
    """
    h = entropy(_nll(train), "training")

    def typicality_for(held_out: np.ndarray) -> BatchStatistic:
        return distance_from(h if center == "train" else entropy(held_out, "held-out"))

    return [
        Detector("typicality", _nll, typicality_for),
        Detector("likelihood", _nll, _mean_score),
        Detector("complexity", _complexity, _mean_score),
        Detector("density", _rarity_among(train, seed), _mean_score),
    ]


def _mean_score(held_out: np.ndarray) -> BatchStatistic:
    """Takes nothing from the held-out scores."""
    return _batch_mean


def _batch_mean(scores_NM: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # infinities of both signs
        return np.mean(scores_NM, axis=1)


def _nll(table: pd.DataFrame) -> np.ndarray:
    return table["nll"].to_numpy()


def _complexity(table: pd.DataFrame) -> np.ndarray:
    """Serrà et al. 2020, equation 1, in bits: -log2 p(x) - L(x)."""
    return (table["nll"] / math.log(2) - table["complexity"]).to_numpy()


def _rarity_among(train: pd.DataFrame, seed: int) -> Callable[[pd.DataFrame], np.ndarray]:
    """-log density of the log-det and log p(z) of each level under a Gaussian mixture fitted to the training images'.

    The paper multiplies one-dimensional kernel densities. The parts of a likelihood are strongly correlated, which a
    mixture with full covariances sees and a product does not, and its tails do not underflow. A part that is the same
    for every image, as the log-det of additive couplings is, says nothing: differences are float32's rounding.
    """
    parts = train[["log_det", *(name for name in train.columns if name.startswith("log_prior_"))]]
    parts = parts.loc[:, parts.std(ddof=0) > ROUNDING * parts.abs().mean()]
    if parts.empty:
        raise ValueError("the training scores are all the same: there is no density to fit")
    columns, values = list(parts.columns), parts.to_numpy()
    mean, scale = values.mean(0), values.std(0)
    components = max(1, min(COMPONENTS, len(values) // 50))
    mixture = GaussianMixture(components, reg_covar=1e-6, random_state=seed).fit((values - mean) / scale)

    def rarity(table: pd.DataFrame) -> np.ndarray:
        scores = np.full(len(table), np.inf)
        finite = np.isfinite(table[columns].to_numpy()).all(1)
        if finite.any():
            scores[finite] = -mixture.score_samples((table.loc[finite, columns].to_numpy() - mean) / scale)
        return scores

    return rarity
