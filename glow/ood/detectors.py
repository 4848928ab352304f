"""Detectors of out-of-distribution (OOD) images, all computed from one score table.

A detector gives each image a score, which is larger the further the image is from the training data. It gives each
batch the mean score of its images; the two-sided detectors then take the distance of that mean from a centre.
`glow.ood.typicality.BatchTest` decides for all detectors in the same way, so that they can be compared. Only ``ratio``
needs a second model. ``gradients`` and the detectors of content, ``features``, ``mahalanobis`` and
``combined``, need columns that `glow.scoring.score` does not compute by default.

Some detectors join several statistics: each statistic of an image becomes a p-value, the share of training images that
are at least as extreme, and the score of the image is -log of the smallest p-value. Beyond the most extreme training
image the p-value falls exponentially with the distance from it, so that such images are still told apart.

Use `fit_detectors` to make all of them from the score table of the training images (`glow.scoring.score`). This module
needs no torch.

Shapes: N images of a score table.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from glow.ood.calibration import bounds_of
from glow.ood.typicality import BatchTest, Center, MeanTest, TypicalityTest, entropy

DETECTORS = {
    "typicality": "Nalisnick et al. 2019: distance of a batch's mean NLL from the mean NLL of the training images",
    "likelihood": "mean NLL of a batch: OOD if it is high",
    "complexity": "Serrà et al. 2020, S: NLL minus the length of the image under a lossless codec, both in bits",
    "density": "after Morningstar et al. 2021 (DoSE): rarity of the log-det and the log p(z) of each level, jointly",
    "levels": "after Schirrmeister et al. 2020: log-det and log p(z) of each level, too high or too low, joined",
    "latents": "Bomatter et al. 2026 (SITN): Anderson-Darling statistic and spectrum of the latents, joined",
    "neighbours": "correlation of neighbouring latents, which is zero if the latents are noise",
    "whiteness": "distance of each level's power and neighbour correlations from those of similar training images",
    "joint": "the same distance, in these, the complexity and the parts of the likelihood",
    "ratio": "Ren et al. 2019: NLL minus the NLL under a background model; only if there is such a model",
    "gradients": "Dauncey et al. 2024: rarity of the gradient norms of all layers; only if they were computed",
    "features": "Sun et al. 2022: distance from near training images in an encoder's features; only with an encoder",
    "mahalanobis": "Lee et al. 2018: distance from the Gaussian of the nearest class in these; only with an encoder",
    "combined": "ranks of joint and features among training images, joined (Fisher); only with an encoder",
}
"""The name of each detector and one sentence about its score."""

BY_LEVEL = ("log_prior", "log_det")
"""Columns of each level that are additional two-sided detectors: OOD if a batch's mean is too high or too low."""

BACKGROUND = "background_nll"
"""The column of a score table that the detector ``ratio`` needs: the NLL in nats under the background model."""

NEAREST, MAHALANOBIS = "feature_neighbours", "feature_mahalanobis"
"""The columns of a score table that ``features``, ``mahalanobis`` and ``combined`` need (`glow.features`)."""

OF_CONTENT = ("features", "mahalanobis", "combined")
"""The detectors that need the features of an encoder."""

MOMENTS = ("latent_power", "latent_rows", "latent_columns")
"""Columns of each level that the detector ``whiteness`` uses."""

NEIGHBOURS = 5
"""The distance to this nearest training image is the score of ``whiteness`` and ``joint``."""

REFERENCES = 5000
"""Largest number of training images that ``whiteness`` and ``joint`` compare an image with."""

COMPONENTS = 4
"""Largest number of components of the Gaussian mixture of ``density``; it has one per 50 training images."""

TAIL = 10
"""At least this many of the most extreme training images, and 1 % of all, determine how fast a tail falls."""

ROUNDING = 1e-5
"""A column whose standard deviation is below this share of its mean size is constant but for rounding."""


@dataclass(frozen=True)
class Detector:
    """A score of images, and a recipe for the test of batches by this score.

    Attributes:
        name: the detector's name, such as one of `DETECTORS`.
        image_scores: maps a score table of N images to scores (N,). A score is larger the further the image is from the
            training data; with a two-sided detector it may be smaller instead.
        fit_to: makes the test from the scores of held-out images, the batch size and the other arguments of
            `MeanTest.fit`.

    Examples:
        >>> detector = Detector("nll", lambda table: table["nll"].to_numpy(), MeanTest.fit)
        >>> test = detector.fit(pd.DataFrame({"nll": np.arange(99.0)}), batch_size=1)
        >>> images = pd.DataFrame({"nll": [50.0, 200.0]})
        >>> test.is_ood(detector.image_scores(images)[:, None]).tolist()
        [False, True]
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
        """Make the test of batches of this detector's scores.

        Args:
            held_out: score table of images that the model was not trained on.
            batch_size: M.
            alpha: the share of in-distribution batches that shall pass.
            bootstraps: number of batches that are drawn from the held-out scores, see `TypicalityTest.fit`.
            seed: seed of all random draws.
            exact: whether exact p-values decide, see `TypicalityTest.fit`.
            interval: whether to bootstrap an interval of the threshold, see `TypicalityTest.fit`.

        Returns:
            The test. Its methods take the scores that `image_scores` returns, arranged in one row of M scores per
            batch.

        Raises:
            ValueError: for the same reasons as `TypicalityTest.fit`.
        """
        scores = self.image_scores(held_out)
        return self.fit_to(scores, batch_size, alpha, bootstraps, seed, exact=exact, interval=interval)


def fit_detectors(train: pd.DataFrame, center: Center = "train", seed: int = 0) -> list[Detector]:
    """Make every detector of `DETECTORS`, and one for each level's log p(z) and log-det, from the training images.

    Args:
        train: score table of the training images (`glow.scoring.score`).
        center: the images that two-sided detectors take their centre from, see `TypicalityTest.fit`.
        seed: seed of the fit of the Gaussian mixture behind ``density``, and of the random selection of the training
            images with which ``whiteness`` and ``joint`` compare an image.

    Returns:
        The detectors, ``typicality`` first. ``ratio`` is among them only if the table has the column
        ``background_nll``, ``gradients`` only if it has the columns ``gradient_1`` ... , and ``features``,
        ``mahalanobis`` and ``combined`` only if it has those of `glow.features`. Training images for which such columns
        are NaN are not used there. A level's log p(z) or log-det that is the same for all training images gets no
        detector.

    Raises:
        ValueError: if the table is empty, its NLLs are not all finite, or neither the log-det nor the log p(z) of any
            level differs between its images.

    Examples:
        >>> columns = ["nll", "log_det", "log_prior_1", "log_det_1", "complexity", "latent_anderson", "latent_spectrum"]
        >>> columns += ["latent_neighbours", "latent_power_1", "latent_rows_1", "latent_columns_1"]
        >>> scores = np.random.default_rng(0).normal(10, 1, (60, len(columns)))
        >>> train = pd.DataFrame(scores, columns=columns).assign(finite=True)
        >>> names = [detector.name for detector in fit_detectors(train)]
        >>> names[:4], names[-4:]
        (['typicality', 'likelihood', 'complexity', 'density'], ['whiteness', 'joint', 'log_prior_1', 'log_det_1'])
    """
    train_nll = _nll(train)
    entropy(train_nll, "training")  # scores that are not finite are refused for either centre
    # The log-det of additive couplings is the same for all images.
    levels = list(_varying(train[_columns_of(train, BY_LEVEL)]).columns)
    latents = ("latent_anderson", "latent_spectrum")
    neighbours = _column("latent_neighbours")
    density = _Remembered(_rarity_among(train, seed))
    moments = _columns_of(train, MOMENTS)
    whiteness = _Remembered(_distance_among(train, moments, seed))
    joint = _Remembered(_distance_among(train, [*_columns_of(train, BY_LEVEL), *moments, "complexity"], seed))

    def of_means(name: str, scores: ImageScores) -> Detector:
        return Detector(name, scores, partial(MeanTest.fit, bounds=bounds_of(scores(train))))

    optional = [of_means("ratio", _ratio)] if BACKGROUND in train.columns else []
    if norms := _columns_of(train, ["gradient"]):
        known = train[train[norms].notna().all(axis=1)]
        gradients = _gradient_rarity_among(known, norms)
        bounds = bounds_of(gradients(known))
        optional.append(Detector("gradients", gradients, partial(MeanTest.fit, bounds=bounds)))
    if NEAREST in train.columns:
        nearest, rare = _column(NEAREST), _column(MAHALANOBIS)
        both = _fisher([_surprise_among(train, joint), _surprise_among(train, nearest)])
        optional += [of_means("features", nearest), of_means("mahalanobis", rare), of_means("combined", both)]
    return [
        Detector("typicality", _nll, partial(TypicalityTest.fit, train_nll, center=center)),
        of_means("likelihood", _nll),
        of_means("complexity", _complexity),
        of_means("density", density),
        of_means("levels", _least_of([_rank_among(train, name, two_sided=True) for name in levels])),
        of_means("latents", _least_of([_rank_among(train, name, two_sided=False) for name in latents])),
        of_means("neighbours", neighbours),
        of_means("whiteness", whiteness),
        of_means("joint", joint),
        *optional,
        *(
            Detector(name, _column(name), partial(TypicalityTest.fit, train[name].to_numpy(), center=center))
            for name in levels
        ),
    ]


ImageScores = Callable[[pd.DataFrame], np.ndarray]
"""A function from a score table of N images to scores (N,)."""


class _Remembered:
    """A costly score that is computed once per table."""

    def __init__(self, scores: ImageScores) -> None:
        self._scores = scores
        self._known: dict[int, tuple[weakref.ref[pd.DataFrame], np.ndarray]] = {}

    def __call__(self, table: pd.DataFrame) -> np.ndarray:
        known = self._known.get(id(table))
        if known is None or known[0]() is not table:  # Python may reuse the id of a table that was deleted
            known = self._known[id(table)] = weakref.ref(table), self._scores(table)
        return known[1]


def _columns_of(table: pd.DataFrame, kinds: Sequence[str]) -> list[str]:
    """Return the columns of these kinds, of all levels."""
    return [name for name in table.columns if name.rpartition("_")[0] in kinds]


def _varying(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns whose values differ by more than the rounding of float32."""
    return table.loc[:, table.std(ddof=0) > ROUNDING * table.abs().mean()]


def _column(name: str) -> ImageScores:
    """Score an image by one column, or by infinity if its scores are not finite."""
    return lambda table: np.where(table["finite"], table[name], np.inf)


def _rank_among(train: pd.DataFrame, name: str, *, two_sided: bool) -> ImageScores:
    """Score an image by -log of the share of training images that have at least its value in a column.

    If `two_sided`, it is twice the share of those with at least, or at most, its value, whichever is smaller.
    """
    scores = _column(name)
    of_train = scores(train)
    as_high, as_low = _log_share(of_train), _log_share(-of_train)

    def rank(table: pd.DataFrame) -> np.ndarray:
        values = scores(table)
        finite = table["finite"].to_numpy() & np.isfinite(values)
        known = np.where(finite, values, 0.0)
        log_p = as_high(known)
        if two_sided:
            log_p = np.minimum(0, math.log(2) + np.minimum(log_p, as_low(-known)))
        return np.where(finite, -log_p, np.inf)

    return rank


def _log_share(of_train: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that gives for each value the log of the share of training values that are at least as large.

    Beyond the largest training value the share falls exponentially, as fast as among the `TAIL` largest.
    """
    ordered = np.sort(of_train)
    n = len(ordered)
    start = ordered[-min(n, max(TAIL, n // 100) + 1)]
    scale = (ordered - start)[ordered > start].mean() if ordered[-1] > start else np.inf

    def log_share(values: np.ndarray) -> np.ndarray:
        shares = (n - np.searchsorted(ordered, values, "left") + 1) / (n + 1)
        return np.log(shares) - np.maximum(0, values - ordered[-1]) / scale

    return log_share


def _least_of(ranks: Sequence[ImageScores]) -> ImageScores:
    """Join several ranks: the largest is -log of the smallest p-value."""
    return lambda table: np.max([rank(table) for rank in ranks], axis=0)


def _surprise_among(train: pd.DataFrame, scores: ImageScores) -> ImageScores:
    """Score an image by -log of the share of training images with at least its score."""
    of_train = scores(train)
    log_share = _log_share(of_train[np.isfinite(of_train)])

    def surprise(table: pd.DataFrame) -> np.ndarray:
        values = scores(table)
        finite = np.isfinite(values)
        return np.where(finite, -log_share(np.where(finite, values, 0.0)), np.where(np.isnan(values), np.nan, np.inf))

    return surprise


def _fisher(surprises: Sequence[ImageScores]) -> ImageScores:
    """Join p-values by their product (Fisher 1932). Held-out images calibrate it, so they may depend on each other."""
    return lambda table: np.sum([surprise(table) for surprise in surprises], axis=0)


def _nll(table: pd.DataFrame) -> np.ndarray:
    return table["nll"].to_numpy()


def _ratio(table: pd.DataFrame) -> np.ndarray:
    """Return log p_background(x) - log p(x) in nats (Ren et al. 2019, equation 5, with the opposite sign)."""
    return (table["nll"] - table[BACKGROUND]).to_numpy()


def _complexity(table: pd.DataFrame) -> np.ndarray:
    """Return -log2 p(x) - L(x) in bits (Serrà et al. 2020, equation 1)."""
    return (table["nll"] / math.log(2) - table["complexity"]).to_numpy()


def _where_finite(finite_N: np.ndarray, scores_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the scores of the images for which `finite_N` is True, and infinity for the others."""
    scores = np.full(len(finite_N), np.inf)
    if finite_N.any():
        scores[finite_N] = scores_of(finite_N)
    return scores


def _distance_among(train: pd.DataFrame, names: Sequence[str], seed: int) -> ImageScores:
    """Score an image by its Euclidean distance from the `NEIGHBOURS`-th nearest training image in some columns.

    Powers enter as logarithms. Every column is divided by its standard deviation among the training images, of which at
    most `REFERENCES` are compared with.
    """
    from sklearn.neighbors import NearestNeighbors  # here, because a training imports this module: it takes 0.5 s

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
        finite = table["finite"].to_numpy() & np.isfinite(values).all(1)
        return _where_finite(finite, lambda chosen: nearest.kneighbors(values[chosen])[0][:, -1])

    return distance


def _gradient_rarity_among(train: pd.DataFrame, norms: Sequence[str]) -> ImageScores:
    """Score an image by -log density, but for a constant, of its layers' gradient norms.

    The logarithms of the norms are taken to be independent and normal, with the means and standard deviations of the
    training images (Dauncey et al. 2024).
    """

    def logs(table: pd.DataFrame) -> np.ndarray:
        return np.log(table[list(norms)].clip(lower=np.finfo(float).tiny).to_numpy())

    of_train = logs(train)
    mean, scale = of_train.mean(0), of_train.std(0)
    varies = scale > ROUNDING * np.abs(of_train).mean(0)

    def rarity(table: pd.DataFrame) -> np.ndarray:
        _check_measured(table, norms)
        squares = ((logs(table) - mean)[:, varies] / scale[varies]) ** 2
        return np.where(table["finite"] & np.isfinite(squares).all(1), squares.sum(1) / 2, np.inf)

    return rarity


def _check_measured(table: pd.DataFrame, norms: Sequence[str]) -> None:
    """Raise ValueError if at least half of the images have no gradient norms, so that they were not asked for."""
    missing = table.loc[table["finite"], list(norms)].isna().all(axis=1)
    if missing.any() and missing.sum() >= len(missing) // 2:
        raise ValueError(
            f"{missing.sum()} of {len(missing)} images have no gradient norms: score them with gradient_stride=1"
        )


def _rarity_among(train: pd.DataFrame, seed: int) -> Callable[[pd.DataFrame], np.ndarray]:
    """Score an image by -log density of its log-det and each level's log p(z) under a Gaussian mixture.

    The mixture is fitted to the training images. DoSE (Morningstar et al. 2021) multiplies one-dimensional kernel
    densities instead. But the parts of a likelihood are strongly correlated, which a mixture with full covariances
    models and a product does not, and its tails do not underflow. Parts that are the same for every image, such as the
    log-det of additive couplings, are left out, because they differ by float32 rounding only.
    """
    from sklearn.mixture import GaussianMixture  # as above

    parts = _varying(train[["log_det", *(name for name in train.columns if name.startswith("log_prior_"))]])
    if parts.empty:
        raise ValueError("the training scores are all equal, so no density can be fitted to them")
    columns, values = list(parts.columns), parts.to_numpy()
    mean, scale = values.mean(0), values.std(0)
    components = max(1, min(COMPONENTS, len(values) // 50))
    mixture = GaussianMixture(components, reg_covar=1e-6, random_state=seed).fit((values - mean) / scale)

    def rarity(table: pd.DataFrame) -> np.ndarray:
        values = table[columns].to_numpy()
        finite = np.isfinite(values).all(1)
        return _where_finite(finite, lambda chosen: -mixture.score_samples((values[chosen] - mean) / scale))

    return rarity
