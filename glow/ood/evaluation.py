"""Evaluation of detectors: how often each calls batches of each data set out-of-distribution (OOD), and its ROC curve.

`evaluate_ood` takes score tables and returns tables of results. A protocol (`held_out_protocol`, `split_test_protocol`)
decides which images thresholds come from and which images are tested. This module needs no torch.

Shapes: N images or batches, M images per batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from glow.ood.calibration import check_alpha, least_held_out
from glow.ood.detectors import Detector, fit_detectors
from glow.ood.statistics import (
    ROC_STATISTICS,
    Estimate,
    disjoint_batches,
    exact_interval,
    roc_estimates,
    share_of,
    wilson_interval,
)
from glow.ood.typicality import BatchTest, Center

POWER_GRID = (1, 2, 3, 5, 7, 10, 15, 20, 25, 35, 50, 75, 100)
"""Batch sizes at which `OodResult.power` has the typicality test, up to the largest that was asked for."""

PER_CLASS_COLUMNS = ["dataset", "label", "class_name", "batch_size", "batches", "ratio", "ratio_low", "ratio_high"]

Deal = Callable[[int], tuple[pd.DataFrame, dict[str, pd.DataFrame]]]
"""A protocol: maps the number of a repeat to the score table that thresholds come from, and to the score tables to test
by the name of their data set. The test set of the model's own data comes first."""


@dataclass(frozen=True)
class OodSettings:
    """Settings of an evaluation.

    Attributes:
        batch_sizes: the batch sizes M to test.
        alpha: the share of in-distribution batches that shall pass.
        bootstraps: number of batches that a threshold is bootstrapped from, and of choices that a p-value is computed
            from, see `TypicalityTest.fit`.
        center: the images that two-sided tests take their centre from, see `TypicalityTest.fit`.
        repeats: how often thresholds and batches are drawn anew.
        exact: whether exact p-values decide, see `TypicalityTest.fit`.
        seed: seed of all random draws.

    Raises:
        ValueError: if alpha is outside (0, 1), there is no batch size, or a batch size, `bootstraps` or `repeats` is
            below 1.

    Examples:
        >>> OodSettings(batch_sizes=[1, 10], alpha=0.95).bootstraps
        10000
        >>> OodSettings(batch_sizes=[0])
        Traceback (most recent call last):
            ...
        ValueError: batch_sizes must be at least 1, not 0
    """

    batch_sizes: Sequence[int] = (1, 2, 5, 10, 25)
    alpha: float = 0.99
    bootstraps: int = 10_000
    center: Center = "train"
    repeats: int = 1
    exact: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        if not self.batch_sizes:
            raise ValueError("batch_sizes is empty: at least one batch size is needed")
        least = {"batch_sizes": min(self.batch_sizes), "bootstraps": self.bootstraps, "repeats": self.repeats}
        for name, value in least.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")


@dataclass
class OodResult:
    """Results of an evaluation, as tables.

    M is the number of images per batch. Ratios and rates are between 0 and 1. Intervals have a confidence of 95 % (for
    those of thresholds see `Threshold`); the interval of a column ``x`` is in ``x_low`` and ``x_high``. With several
    repeats, ``ratio``, ``ratio_sd`` and ``power`` use all of them, and all other values are those of the first repeat.

    Attributes:
        ratios: one row per detector, data set and M: ``batches``; ``left_out``, the number of images that are left
            over because they do not fill a batch; ``non_finite``, the number of images whose likelihood, or a part of
            it, is not finite; ``ratio``, the share of batches that are called OOD (mean over repeats, with Wilson's
            interval for the number of batches of one repeat) and ``ratio_sd``, its standard deviation over repeats;
            ``threshold``; and ``auroc``, ``aupr`` and ``fpr95`` against the model's own test set (NaN for that set
            itself). Their intervals cover other samples of as many test images of both sets, under this model.
        power: ``ratio`` of the detector ``typicality``, at the batch sizes that were asked for, and also at the smaller
            batch sizes of `POWER_GRID` for which there are enough held-out images.
        per_class: ``ratio`` of the detector ``typicality`` over batches of a single class, for classes with enough
            images for a batch.
        control: the share of batches of the model's own test set that are called OOD, per detector and M. A share
            ``alpha`` (`OodSettings`) of these batches is meant to pass. The interval of the share (Clopper & Pearson)
            also accounts for the uncertainty of the threshold; ``as_expected`` tells whether the interval contains the
            intended share, 1 - alpha.
        statistics: for each (detector, data set, M) the statistics (N,) of the batches of the first repeat.

    Examples:
        >>> empty = pd.DataFrame()
        >>> result = OodResult(ratios=pd.DataFrame({"ratio": [0.01]}), power=empty, per_class=empty, control=empty)
        >>> result.ratios["ratio"].tolist(), result.statistics
        ([0.01], {})
    """

    ratios: pd.DataFrame
    power: pd.DataFrame
    per_class: pd.DataFrame
    control: pd.DataFrame
    statistics: dict[tuple[str, str, int], np.ndarray] = field(default_factory=dict)


def held_out_protocol(validation: pd.DataFrame, tests: Mapping[str, pd.DataFrame]) -> Deal:
    """Return the default protocol: thresholds from held-out images, and tests on all images of each test set.

    Args:
        validation: score table of images that the model was not trained on.
        tests: score tables to test, by the name of the data set. The model's own test set comes first.

    Returns:
        The protocol, which gives every repeat the same images.

    Examples:
        >>> validation, test = pd.DataFrame({"nll": [1.0, 2.0]}), pd.DataFrame({"nll": [3.0]})
        >>> held_out, tested = held_out_protocol(validation, {"mnist": test})(0)
        >>> len(held_out), {name: len(table) for name, table in tested.items()}
        (2, {'mnist': 1})
    """
    return lambda repeat: (validation, dict(tests))


def split_test_protocol(tests: Mapping[str, pd.DataFrame], seed: int = 0) -> Deal:
    """Return a protocol for models without held-out images: thresholds from one half of the model's own test set.

    The other half is tested, and at most as many images of every other data set. Each repeat draws the images anew.

    Args:
        tests: score tables to test, by the name of the data set. The model's own test set comes first.
        seed: seed of the draws.

    Returns:
        The protocol.

    Examples:
        >>> tests = {"mnist": pd.DataFrame({"nll": range(10)}), "noise": pd.DataFrame({"nll": range(30)})}
        >>> held_out, tested = split_test_protocol(tests)(0)
        >>> len(held_out), {name: len(table) for name, table in tested.items()}
        (5, {'mnist': 5, 'noise': 5})
        >>> set(held_out["nll"]) & set(tested["mnist"]["nll"])
        set()
    """

    def deal(repeat: int) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
        rng = np.random.default_rng([seed, repeat])
        shuffled = {name: table.iloc[rng.permutation(len(table))] for name, table in tests.items()}
        own, *others = shuffled
        half = len(shuffled[own]) // 2
        dealt = {own: shuffled[own].iloc[half : 2 * half]} | {name: shuffled[name].iloc[:half] for name in others}
        return shuffled[own].iloc[:half], dealt

    return deal


def evaluate_ood(
    train: pd.DataFrame,
    deal: Deal,
    settings: OodSettings,
    class_names: Mapping[str, Sequence[str]] | None = None,
    detectors: Sequence[Detector] | None = None,
) -> OodResult:
    """Test every data set with every detector at every batch size.

    Args:
        train: score table of the training images (`glow.scoring.score`).
        deal: a protocol, such as `held_out_protocol` or `split_test_protocol` return.
        settings: batch sizes, alpha and the other settings.
        class_names: for each data set the names of its labels; labels without names are shown as numbers.
        detectors: the detectors to test. The first, usually typicality, also gives the tables `power` and `per_class`.
            None for all detectors that `fit_detectors` makes from `train`.

    Returns:
        The tables of results.

    Raises:
        ValueError: if a data set has fewer images than a batch takes, there are too few held-out images for alpha, too
            many of their scores are not finite, or a training score is not finite.

    Examples:
        >>> from glow.ood.typicality import MeanTest
        >>> nll = Detector("likelihood", lambda table: table["nll"].to_numpy(), MeanTest.fit)
        >>> def images(*scores):
        ...     return pd.DataFrame({"nll": scores, "label": 0, "finite": True})
        >>> protocol = held_out_protocol(images(*range(99)), {"own": images(50, 60), "far": images(99, 150)})
        >>> result = evaluate_ood(images(50), protocol, OodSettings(batch_sizes=[1]), detectors=[nll])
        >>> result.ratios[["detector", "dataset", "ratio", "auroc"]].to_numpy().tolist()
        [['likelihood', 'own', 0.0, nan], ['likelihood', 'far', 1.0, 1.0]]
    """
    detectors = detectors or fit_detectors(train, settings.center, settings.seed)
    deals = [deal(repeat) for repeat in range(settings.repeats)]
    _check_sizes(deals[0], settings)
    asked = sorted(set(settings.batch_sizes))
    typicality = detectors[0]
    cells = [_Cell.compute(detector, m, deals, settings) for detector in detectors for m in asked]
    extra = [m for m in POWER_GRID if m < max(asked) and m not in asked and _enough(len(deals[0][0]), m, settings)]
    power = [_Cell.compute(typicality, m, deals, settings) for m in extra]
    power += [cell for cell in cells if cell.detector == typicality.name]
    rng = np.random.default_rng(settings.seed)
    return OodResult(
        ratios=pd.DataFrame([row for cell in cells for row in cell.rows(rng)]),
        power=pd.DataFrame(
            [row for cell in sorted(power, key=lambda cell: cell.batch_size) for row in cell.ratio_rows()]
        )[["dataset", "batch_size", "batches", "ratio", "ratio_low", "ratio_high"]],
        per_class=_per_class(cells[: len(asked)], typicality, deals[0][1], settings, class_names or {}),
        control=pd.DataFrame([cell.control(settings.alpha) for cell in cells]),
        statistics={
            (cell.detector, name, cell.batch_size): statistics[0]
            for cell in cells
            for name, statistics in cell.statistics.items()
        },
    )


@dataclass(frozen=True)
class _Cell:
    """The results of one detector at one batch size, with one entry per repeat in each list.

    `statistics` and `ood` contain, for each data set, the statistic and the decision of each batch; the model's own
    test set comes first.
    """

    detector: str
    batch_size: int
    tests: list[BatchTest]
    statistics: dict[str, list[np.ndarray]]
    ood: dict[str, list[np.ndarray]]
    tables: dict[str, pd.DataFrame]

    @classmethod
    def compute(
        cls,
        detector: Detector,
        m: int,
        deals: Sequence[tuple[pd.DataFrame, dict[str, pd.DataFrame]]],
        settings: OodSettings,
    ) -> _Cell:
        tests = []
        statistics: dict[str, list[np.ndarray]] = {}
        ood: dict[str, list[np.ndarray]] = {}
        for repeat, (held_out, tables) in enumerate(deals):
            seed = settings.seed + repeat
            test = detector.fit(held_out, m, settings.alpha, settings.bootstraps, seed, exact=settings.exact)
            tests.append(test)
            for index, (name, table) in enumerate(tables.items()):
                batches = disjoint_batches(len(table), m, np.random.default_rng([seed, m, index]))
                scores = detector.image_scores(table)[batches]
                statistics.setdefault(name, []).append(test.statistic(scores))
                ood.setdefault(name, []).append(test.is_ood(scores))
        return cls(detector.name, m, tests, statistics, ood, deals[0][1])

    def rows(self, rng: np.random.Generator) -> list[dict[str, Any]]:
        """Return the rows of `OodResult.ratios` for this detector and batch size, one per data set."""
        own, *others = (repeats[0] for repeats in self.statistics.values())
        itself = dict.fromkeys(ROC_STATISTICS, Estimate(np.nan, np.nan, np.nan))
        rows = self.ratio_rows()
        for row, told in zip(rows, [itself, *(roc_estimates(own, other, rng) for other in others)], strict=True):
            for name, estimate in told.items():
                row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        return rows

    def ratio_rows(self) -> list[dict[str, Any]]:
        return [self._ratio_row(name) for name in self.statistics]

    def _ratio_row(self, name: str) -> dict[str, Any]:
        table, repeats = self.tables[name], self.ood[name]
        ratios = [ood.mean() for ood in repeats]
        batches = len(repeats[0])
        low, high = wilson_interval(float(np.mean(ratios)) * batches, batches)
        first = self.tests[0].threshold
        return {
            "detector": self.detector,
            "dataset": name,
            "batch_size": self.batch_size,
            "batches": batches,
            "left_out": len(table) - batches * self.batch_size,
            "non_finite": int((~table["finite"]).sum()),
            "ratio": float(np.mean(ratios)),
            "ratio_low": low,
            "ratio_high": high,
            "ratio_sd": float(np.std(ratios, ddof=1)) if len(ratios) > 1 else np.nan,
            "threshold": first.value,
            "threshold_low": first.low,
            "threshold_high": first.high,
        }

    def control(self, alpha: float) -> dict[str, Any]:
        """Return the share of the own test set's batches that are called OOD, compared with 1 - alpha."""
        own = next(iter(self.statistics.values()))[0]
        called = int(next(iter(self.ood.values()))[0].sum())
        threshold, n = self.tests[0].threshold, len(own)

        def beyond(value: float) -> int:
            return int(replace(threshold, value=value).exceeded(own).sum())

        low = exact_interval(min(called, beyond(threshold.high)), n)[0]
        high = exact_interval(max(called, beyond(threshold.low)), n)[1]
        return {
            "detector": self.detector,
            "batch_size": self.batch_size,
            "batches": n,
            "ratio": called / n,
            "ratio_low": low,
            "ratio_high": high,
            "as_expected": low <= 1 - alpha <= high,
        }


def _enough(held_out: int, m: int, settings: OodSettings) -> bool:
    """Return whether a test of batches of M images is possible with this number of held-out images."""
    return not settings.exact or held_out >= least_held_out(settings.alpha, m)


def _check_sizes(deal: tuple[pd.DataFrame, dict[str, pd.DataFrame]], settings: OodSettings) -> None:
    largest = max(settings.batch_sizes)
    held_out, tests = deal
    for name, table in {"the held-out images": held_out, **tests}.items():
        if len(table) < largest:
            raise ValueError(f"{name}: {len(table)} images do not fill a batch of {largest}: use smaller batch sizes")


def _per_class(
    cells: Sequence[_Cell],
    typicality: Detector,
    tests: Mapping[str, pd.DataFrame],
    settings: OodSettings,
    class_names: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """Return how often batches of a single class are called OOD by the tests of the first repeat."""
    rows = []
    for name, table in tests.items():
        names = class_names.get(name)
        for label in np.unique(table["label"]).tolist():
            scores = typicality.image_scores(table[table["label"] == label])
            for cell in cells:
                if len(scores) < cell.batch_size:
                    continue
                rng = np.random.default_rng([settings.seed, cell.batch_size, label])
                batches = disjoint_batches(len(scores), cell.batch_size, rng)
                class_name = names[label] if names else str(label)
                row = {"dataset": name, "label": label, "class_name": class_name, "batch_size": cell.batch_size}
                rows.append(row | share_of(cell.tests[0].is_ood(scores[batches])))
    return pd.DataFrame(rows, columns=PER_CLASS_COLUMNS)
