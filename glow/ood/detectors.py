"""Detectors of out-of-distribution images, all from one score table and no second model. No torch here.

Each gives an image a score that grows further out, and a batch the mean of its images' scores; typicality folds that
mean about the centre. One procedure, `glow.ood.typicality.BatchTest`, decides for them all, so they can be compared.

Some join several statistics. There each statistic of an image becomes a p-value, the share of training images that lie
as far out, and the image's score is -log of the smallest: the largest rank, in other words.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from glow.ood.calibration import bounds_of
from glow.ood.typicality import BatchTest, Center, MeanTest, TypicalityTest, entropy

__all__ = ["DETECTORS", "Detector", "fit_detectors"]

DETECTORS = {
    "typicality": "Nalisnick et al. 2019: the distance of a batch's mean NLL from the mean of the training images",
    "likelihood": "the mean NLL of a batch itself: OOD if it is high",
    "complexity": "Serrà et al. 2020, S: the NLL less the length of the image under a lossless codec, both in bits",
    "density": "after Morningstar et al. 2021 (DoSE): how rare the log-det and the log p(z) of each level are together",
    "levels": "after Schirrmeister et al. 2020: the log-det and log p(z) of each level, too high or too low, joined",
    "latents": "Bomatter et al. 2026 (SITN): the latents' Anderson-Darling statistic and spectrum, joined",
    "neighbours": "the correlation of neighbours in the latents, which has none where they are noise",
    "whiteness": "how far each level's power and neighbour correlations are from the training images', together",
    "joint": "how far the parts of the likelihood, the complexity and what whiteness looks at are from them, together",
    "ratio": "Ren et al. 2019: the NLL less that under a background model; only where there is one",
}

BY_LEVEL = ("log_prior", "log_det")
"""Columns of each level, which are detectors of their own, too: OOD if the mean is too high or too low."""

BACKGROUND = "background_nll"
"""The column of a score table that the detector `ratio` needs."""

MOMENTS = ("latent_power", "latent_rows", "latent_columns")
"""Columns of each level that `whiteness` looks at."""

NEIGHBOURS, REFERENCES = 5, 5000

COMPONENTS = 4
"""Of the Gaussian mixture behind `density`."""

ROUNDING = 1e-5
"""Relative: the parts of a score vary by more than this, or not at all."""


@dataclass(frozen=True)
class Detector:
    """A score of images, and the test of batches that is made of it.

    Args:
        image_scores: a score table of N images -> (N,).
        fit_to: the scores of held-out images, the batch size, and what else `MeanTest.fit` takes -> the test.
    """

    name: str
    image_scores: Callable[[pd.DataFrame], np.ndarray]
    fit_to: Callable[..., BatchTest]

    def fit(
        self,
        held_out: pd.DataFrame,
        batch_size: int,
        alpha: float = 0.99,
        bootstraps: int = 10_000,
        seed: int = 0,
        *,
        exact: bool = True,
        interval: bool = True,
    ) -> BatchTest:
        """The test whose threshold comes from a score table of held-out images; of `image_scores`, it takes batches.

        The arguments are those of `TypicalityTest.fit`, which also says what is raised.
        """
        scores = self.image_scores(held_out)
        return self.fit_to(scores, batch_size, alpha, bootstraps, seed, exact=exact, interval=interval)


def fit_detectors(train: pd.DataFrame, center: Center = "train", seed: int = 0) -> list[Detector]:
    """Every detector of `DETECTORS`, and one of each column of `BY_LEVEL`, from the score table of the training images.

    Raises:
        ValueError: if the table is empty, or scores in it are not finite, or all the same.
    """
    train_nll = _nll(train)
    entropy(train_nll, "training")  # whatever the centre: scores that are not finite are refused
    levels = {name: _two_sided(train, _column(name)) for name in _by_level(train)}
    latents = {name: _one_sided(train, _column(name)) for name in ("latent_anderson", "latent_spectrum")}
    neighbours = _column("latent_neighbours")
    density = _Remembered(_rarity_among(train, seed))
    moments = _columns_of(train, MOMENTS)
    whiteness = _Remembered(_distance_among(train, moments, seed))
    joint = _Remembered(_distance_among(train, [*_columns_of(train, BY_LEVEL), *moments, "complexity"], seed))

    def of_means(name: str, scores: ImageScores) -> Detector:
        return Detector(name, scores, partial(MeanTest.fit, bounds=bounds_of(scores(train))))

    ratio = [of_means("ratio", _ratio)] if BACKGROUND in train.columns else []
    return [
        Detector("typicality", _nll, partial(TypicalityTest.fit, train_nll, center=center)),
        of_means("likelihood", _nll),
        of_means("complexity", _complexity),
        of_means("density", density),
        of_means("levels", _least_of(list(levels.values()))),
        of_means("latents", _least_of(list(latents.values()))),
        of_means("neighbours", neighbours),
        of_means("whiteness", whiteness),
        of_means("joint", joint),
        *ratio,
        *(
            Detector(name, _column(name), partial(TypicalityTest.fit, train[name].to_numpy(), center=center))
            for name in levels
        ),
    ]


ImageScores = Callable[[pd.DataFrame], np.ndarray]
"""A score table of N images -> (N,)."""


class _Remembered:
    """Scores that take long, computed once for each table."""

    def __init__(self, scores: ImageScores) -> None:
        self._scores = scores
        self._known: dict[int, tuple[weakref.ref[pd.DataFrame], np.ndarray]] = {}

    def __call__(self, table: pd.DataFrame) -> np.ndarray:
        known = self._known.get(id(table))
        if known is None or known[0]() is not table:  # an id may come again
            known = self._known[id(table)] = weakref.ref(table), self._scores(table)
        return known[1]


def _by_level(train: pd.DataFrame) -> list[str]:
    """The columns of `BY_LEVEL` that differ between images: additive couplings have no log-det."""
    return list(_varying(train[_columns_of(train, BY_LEVEL)]).columns)


def _columns_of(table: pd.DataFrame, kinds: Sequence[str]) -> list[str]:
    """The columns of these kinds, of all levels."""
    return [name for name in table.columns if name.rpartition("_")[0] in kinds]


def _varying(table: pd.DataFrame) -> pd.DataFrame:
    """The columns whose values differ by more than float32's rounding."""
    return table.loc[:, table.std(ddof=0) > ROUNDING * table.abs().mean()]


def _column(name: str) -> ImageScores:
    return lambda table: np.where(table["finite"], table[name], np.inf)


def _one_sided(train: pd.DataFrame, scores: ImageScores) -> ImageScores:
    """-log of the share of training images that score as high."""
    return _rank_among(train, scores, two_sided=False)


def _two_sided(train: pd.DataFrame, scores: ImageScores) -> ImageScores:
    """-log of twice the share of training images that score as high, or as low if those are fewer."""
    return _rank_among(train, scores, two_sided=True)


def _rank_among(train: pd.DataFrame, scores: ImageScores, *, two_sided: bool) -> ImageScores:
    ordered = np.sort(scores(train))
    n = len(ordered)

    def rank(table: pd.DataFrame) -> np.ndarray:
        values = scores(table)
        p = (n - np.searchsorted(ordered, values, "left") + 1) / (n + 1)
        if two_sided:
            as_low = (np.searchsorted(ordered, values, "right") + 1) / (n + 1)
            p = np.minimum(1, 2 * np.minimum(p, as_low))
        return np.where(table["finite"] & np.isfinite(values), -np.log(p), np.inf)

    return rank


def _least_of(ranks: Sequence[ImageScores]) -> ImageScores:
    """-log of the smallest p-value."""
    return lambda table: np.max([rank(table) for rank in ranks], axis=0)


def _nll(table: pd.DataFrame) -> np.ndarray:
    return table["nll"].to_numpy()


def _ratio(table: pd.DataFrame) -> np.ndarray:
    """Ren et al. 2019, equation 5, with the sign that grows further out: log p_background(x) - log p(x), in nats."""
    return (table["nll"] - table[BACKGROUND]).to_numpy()


def _complexity(table: pd.DataFrame) -> np.ndarray:
    """Serrà et al. 2020, equation 1, in bits: -log2 p(x) - L(x)."""
    return (table["nll"] / math.log(2) - table["complexity"]).to_numpy()


def _distance_among(train: pd.DataFrame, names: Sequence[str], seed: int) -> ImageScores:
    """How far some columns of an image are from those of the `NEIGHBOURS`-th nearest training image.

    Powers are taken as logarithms, and every column is divided by its standard deviation among the training images, of
    which at most `REFERENCES` are looked at.
    """

    def taken(table: pd.DataFrame) -> pd.DataFrame:
        powers = [name for name in names if name.startswith("latent_power")]
        return table[list(names)].assign(
            **{name: np.log(table[name].clip(lower=np.finfo(float).tiny)) for name in powers}
        )

    varying = _varying(taken(train))
    columns, mean, scale = list(varying.columns), varying.mean(), varying.std(ddof=0)
    references = varying.sample(min(len(varying), REFERENCES), random_state=seed)
    k = min(NEIGHBOURS, len(references))
    nearest = NearestNeighbors(n_neighbors=k).fit(((references - mean) / scale).to_numpy())

    def distance(table: pd.DataFrame) -> np.ndarray:
        values = ((taken(table)[columns] - mean) / scale).to_numpy()
        scores = np.full(len(table), np.inf)
        finite = table["finite"].to_numpy() & np.isfinite(values).all(1)
        if finite.any():
            scores[finite] = nearest.kneighbors(values[finite])[0][:, -1]
        return scores

    return distance


def _rarity_among(train: pd.DataFrame, seed: int) -> Callable[[pd.DataFrame], np.ndarray]:
    """-log density of the log-det and log p(z) of each level under a Gaussian mixture fitted to the training images'.

    The paper multiplies one-dimensional kernel densities. The parts of a likelihood are strongly correlated, which a
    mixture with full covariances sees and a product does not, and its tails do not underflow. A part that is the same
    for every image, as the log-det of additive couplings is, says nothing: differences are float32's rounding.
    """
    parts = _varying(train[["log_det", *(name for name in train.columns if name.startswith("log_prior_"))]])
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
