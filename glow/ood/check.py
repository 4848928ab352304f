"""Check whether a batch of images belongs to what a model was trained on, and which of the images do not.

`Calibration` is what a trained model keeps for this: the scores of training and held-out images, and of corrupted ones
by which `glow.ood.recommend` chooses a detector. `ImageCheck` fits the detectors once, and then judges any number of
batches by their score tables (`glow.scoring.score`). Neither needs torch, MLflow or Ray.

A batch is judged as a whole by two permutation tests (`glow.ood.calibration`), one with the recommended detector and
one with the typicality test. It belongs unless the smaller of the two p-values, multiplied by 2 (Bonferroni), is at
most 1 - alpha. So a batch from the distribution of the held-out images is called strange with a probability of at most
1 - alpha. The list of single images (`glow.ood.conformal`) has no influence on this verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd

from glow.ood.calibration import as_largest, batch_p_value, check_alpha
from glow.ood.conformal import flagged, least_listed
from glow.ood.detectors import MAHALANOBIS, NEAREST, Detector, fit_detectors
from glow.ood.recommendation import recommend
from glow.ood.typicality import BatchTest, TypicalityTest

REFERENCES = 5000
"""Largest number of training images of which a calibration keeps the whole scores, and not only the NLL."""

CHOICES = 10_000
"""Least number of random choices of images behind the p-value of a batch."""

TYPICALITY = "typicality"


PARTS = ("train", "held_out", "corrupted")
"""The score tables of a calibration."""

REFERENCE = "references."
"""The name of an array of `Calibration.references` in a file begins with this."""


@dataclass(frozen=True)
class Calibration:
    """The scores with which a trained model judges new images.

    Attributes:
        train_nll: float (n,), negative log-likelihoods of all training images, in nats.
        train: score table of the training images, or of `REFERENCES` of them.
        held_out: score table of images that the model was not trained on.
        corrupted: score table of corrupted held-out images (`glow.datasets.corruptions.for_recommendation`), whose
            column ``label`` is the number of the corruption.
        noise_seed: seed of the dequantisation noise of these scores; new images are to be scored with the same seed.
        references: if the tables have the columns of `glow.features`, the arrays of its `FeatureReferences`, with which
            new images get these columns.

    Examples:
        >>> columns = ["nll", "log_det", "log_prior_1", "log_det_1", "complexity", "latent_anderson", "latent_spectrum"]
        >>> columns += ["latent_neighbours", "latent_power_1", "latent_rows_1", "latent_columns_1"]
        >>> rng = np.random.default_rng(0)
        >>> train, held_out, noisy = (
        ...     pd.DataFrame(rng.normal(mean, 1, (60, len(columns))), columns=columns).assign(finite=True, label=0)
        ...     for mean in (10, 10, 12)
        ... )
        >>> calibration = Calibration.of(train, held_out, noisy)
        >>> calibration.recommended in calibration.detectors, len(calibration.train)
        (True, 60)
    """

    train_nll: np.ndarray
    train: pd.DataFrame
    held_out: pd.DataFrame
    corrupted: pd.DataFrame
    noise_seed: int = 0
    references: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        train: pd.DataFrame,
        held_out: pd.DataFrame,
        corrupted: pd.DataFrame,
        noise_seed: int = 0,
        references: Mapping[str, np.ndarray] | None = None,
    ) -> Calibration:
        """Keep what new images are judged with, of whole score tables as the attributes describe them."""
        kept = train.sample(frac=1, random_state=0)
        if references:  # images with features first
            kept = kept.iloc[np.argsort(kept[NEAREST].isna(), kind="stable")]
        kept = kept[:REFERENCES].reset_index(drop=True)
        return cls(train["nll"].to_numpy(), kept, held_out, corrupted, noise_seed, references or {})

    def without_content(self) -> Calibration:
        """Return the calibration without features, for a program that has no encoder."""
        content = [NEAREST, MAHALANOBIS]
        tables = {part: getattr(self, part).drop(columns=content, errors="ignore") for part in PARTS}
        return replace(self, references={}, **tables)

    @cached_property
    def detectors(self) -> Mapping[str, Detector]:
        """The detectors by name, fitted to the training images."""
        fitted = {each.name: each for each in fit_detectors(self.train)}
        # H of the typicality test is the mean over all training images, as in served models.
        fitted[TYPICALITY] = replace(fitted[TYPICALITY], fit_to=partial(TypicalityTest.fit, self.train_nll))
        return fitted

    @cached_property
    def recommended(self) -> str:
        """The name of the recommended detector; ``typicality`` if too many scores are not finite to compare them."""
        kinds = [str(number) for number in range(int(self.corrupted["label"].max()) + 1)]
        try:
            return recommend(list(self.detectors.values()), self.held_out, self.corrupted, kinds).detector
        except ValueError:
            return TYPICALITY

    def save(self, path: str | Path) -> None:
        """Write the calibration to a safetensors file."""
        from safetensors.numpy import save

        columns = {f"{part}.{name}": column for part in PARTS for name, column in getattr(self, part).items()}
        columns |= {f"{REFERENCE}{name}": array for name, array in self.references.items()}
        tensors = {name: np.ascontiguousarray(column) for name, column in columns.items()}
        # Not `save_file`, whose files only their owner can read.
        Path(path).write_bytes(save({**tensors, "train_nll": self.train_nll, "noise_seed": np.array(self.noise_seed)}))

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote.

        Raises:
            ValueError: if the file has no such scores.
        """
        from safetensors.numpy import load_file

        arrays = {
            name: array.astype(np.float64) if array.dtype == np.float32 else array  # as if scored just now
            for name, array in load_file(path).items()
        }
        tables = [
            {name.removeprefix(f"{part}."): arrays[name] for name in arrays if name.startswith(f"{part}.")}
            for part in PARTS
        ]
        if not all(tables):
            raise ValueError(f"{path} lacks the scores of {' or '.join(PARTS)} images")
        train, held_out, corrupted = map(pd.DataFrame, tables)
        references = {name.removeprefix(REFERENCE): arrays[name] for name in arrays if name.startswith(REFERENCE)}
        return cls(arrays["train_nll"], train, held_out, corrupted, int(arrays["noise_seed"]), references)


@dataclass(frozen=True)
class Verdict:
    """The result of the check of a batch.

    Attributes:
        p_values: the p-value of the batch by each detector.
        p_value: the smallest of them, multiplied by their number (Bonferroni), at most 1.
        belongs: whether `p_value` is above 1 - alpha.
        images: one row per image: a ``p_...`` of each detector, the ``statistic`` of `detector`, which is larger
            further out, and whether the image is ``flagged``, that is, on the list of those that do not belong.
        detector: name of the detector whose p-values of single images make the list.
        held_out: number n of held-out images.
        least_listed: number of images that must be further out than all held-out ones before the list has any.

    Examples:
        >>> images = pd.DataFrame({"p_typicality": [0.5, 0.001], "statistic": [7.0, 90.0], "flagged": [False, True]})
        >>> Verdict({"typicality": 0.2}, 0.2, True, images, "typicality", 999, 1).furthest.tolist()
        [1, 0]
    """

    p_values: Mapping[str, float]
    p_value: float
    belongs: bool
    images: pd.DataFrame
    detector: str
    held_out: int
    least_listed: int

    @property
    def furthest(self) -> np.ndarray:
        """The positions of all images, the furthest first."""
        return np.argsort(-as_largest(self.images["statistic"].to_numpy()), kind="stable")


class ImageCheck:
    """The fitted detectors of a model, which judge batches of images.

    Args:
        calibration: the scores of the model's training and held-out images.
        detector: name of the detector to use in addition to the typicality test; None for the recommended one.

    Attributes:
        detector: name of that detector.
        detectors: the typicality test and that detector, by name.
        calibration: the scores.

    Raises:
        ValueError: if there is no such detector, or the scores fit none.

    Examples:
        >>> columns = ["nll", "log_det", "log_prior_1", "log_det_1", "complexity", "latent_anderson", "latent_spectrum"]
        >>> columns += ["latent_neighbours", "latent_power_1", "latent_rows_1", "latent_columns_1"]
        >>> rng = np.random.default_rng(0)
        >>> def scores(mean, n):
        ...     return pd.DataFrame(rng.normal(mean, 1, (n, len(columns))), columns=columns).assign(finite=True)
        >>> check = ImageCheck(Calibration.of(scores(10, 60), scores(10, 500), scores(13, 60).assign(label=0)), "joint")
        >>> verdict = check(pd.concat([scores(10, 30), scores(30, 10)], ignore_index=True), fdr=0.01)
        >>> verdict.belongs, int(verdict.images["flagged"][:30].sum()), int(verdict.images["flagged"][30:].sum())
        (False, 0, 10)
    """

    def __init__(self, calibration: Calibration, detector: str | None = None) -> None:
        self.calibration, self.detector = calibration, detector or calibration.recommended
        known = calibration.detectors
        if self.detector not in known:
            raise ValueError(f"there is no detector {self.detector!r}: use one of {', '.join(known)}")
        self.detectors: dict[str, Detector] = {name: known[name] for name in (TYPICALITY, self.detector)}
        self._of_images: dict[str, BatchTest] = {
            # The confidence level has no influence on p-values, and 0.5 takes the fewest held-out images.
            name: each.fit(calibration.held_out, 1, 0.5, interval=False)
            for name, each in self.detectors.items()
        }

    def p_values(self, scores: pd.DataFrame) -> pd.DataFrame:
        """Return the conformal p-values of single images (`glow.ood.conformal`).

        Args:
            scores: score table of N images.

        Returns:
            N rows, one column for each detector, such as ``p_typicality``, and the ``statistic`` of `detector`.
        """
        columns = {
            f"p_{name}": test.p_value(self.detectors[name].image_scores(scores)[:, None])
            for name, test in self._of_images.items()
        }
        of_images = self.detectors[self.detector].image_scores(scores)[:, None]
        return pd.DataFrame({**columns, "statistic": self._of_images[self.detector].statistic(of_images)})

    def batch_p_value(self, name: str, scores: pd.DataFrame, choices: int = CHOICES, seed: int = 0) -> float:
        """Return the p-value of a batch by one detector (`glow.ood.calibration.batch_p_value`).

        Args:
            name: name of the detector, one of `detectors`.
            scores: score table of the images of the batch.
            choices: number of random choices. For a batch of one image they are the held-out images.
            seed: seed of the random choices.
        """
        each, known = self.detectors[name], self.calibration.held_out
        if len(scores) == 1:
            return float(self._of_images[name].p_value(each.image_scores(scores)[:, None])[0])
        # A test of pairs has the statistic and the bounds of scores, which do not depend on the size of the batch.
        pairs = each.fit(known, 2, 0.5, bootstraps=1, interval=False)
        of_known, of_batch = each.image_scores(known), each.image_scores(scores)
        return batch_p_value(of_known, of_batch, pairs.of_mean, choices, seed, pairs.bounds)

    def __call__(self, scores: pd.DataFrame, alpha: float = 0.99, fdr: float = 0.1, seed: int = 0) -> Verdict:
        """Judge a batch.

        Args:
            scores: score table of the images of the batch.
            alpha: the share of batches of images that belong which shall be found to belong.
            fdr: the false discovery rate of the list of images.
            seed: seed of the random choices behind the p-values of the batch.

        Returns:
            The verdict.

        Raises:
            ValueError: if the batch is empty, or so few images are held out that no batch of this size could be found
                not to belong.
        """
        m, n, tests = len(scores), len(self.calibration.held_out), len(self.detectors)
        check_alpha(alpha)
        _check_possible(n, m, alpha, tests)
        images = self.p_values(scores)
        choices = max(CHOICES, math.ceil(10 * tests / (1 - alpha)))
        found = {name: self.batch_p_value(name, scores, choices, seed) for name in self.detectors}
        p_value = min(1.0, tests * min(found.values()))
        listed = flagged(images[f"p_{self.detector}"].to_numpy(), fdr)
        return Verdict(
            found,
            p_value,
            bool(p_value > 1 - alpha + 1e-12),  # 1 - 0.9 is below 0.1
            images.assign(flagged=listed),
            self.detector,
            n,
            least_listed(n, m, fdr),
        )


def _check_possible(n: int, m: int, alpha: float, tests: int) -> None:
    """Raise ValueError if no p-value of a batch of m images can be small enough for alpha."""
    if m == 0:
        raise ValueError("there are no images to check")
    log_choices = math.lgamma(n + m + 1) - math.lgamma(n + 1) - math.lgamma(m + 1)
    if log_choices < math.log(tests / (1 - alpha)) - 1e-9:
        raise ValueError(
            f"{n} held-out images are too few for alpha = {alpha} and {m} image{'s' * (m > 1)}, because no batch of "
            "this size could be found not to belong"
        )
