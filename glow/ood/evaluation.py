"""Score tables -> how often each data set is called out-of-distribution, by each detector, at each batch size.

Shapes: N images or batches, M images a batch. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from glow.ood.calibration import check_alpha, least_held_out
from glow.ood.detectors import Detector, fit_detectors
from glow.ood.statistics import ROC_STATISTICS, Estimate, disjoint_batches, roc_estimates, wilson_interval
from glow.ood.typicality import BatchTest, Center

__all__ = ["Deal", "OodResult", "OodSettings", "evaluate_ood", "held_out_protocol", "report_protocol"]

POWER_GRID = (1, 2, 3, 5, 7, 10, 15, 20, 25, 35, 50, 75, 100)
REPORT_IMAGES = 5000
"""Of each test set, in the course report's protocol."""

PER_CLASS_COLUMNS = ["dataset", "label", "class_name", "batch_size", "batches", "ratio", "ratio_low", "ratio_high"]

Deal = Callable[[int], tuple[pd.DataFrame, dict[str, pd.DataFrame]]]
"""Repeat -> (score table that thresholds come from, score tables to test by the data set's name, its own first)."""


@dataclass(frozen=True)
class OodSettings:
    """How data sets are tested.

    Args:
        batch_sizes: every M to test.
        alpha: the share of in-distribution batches that shall pass.
        bootstraps: batches behind a threshold.
        center: where H comes from, see `TypicalityTest.fit`.
        repeats: times that thresholds and batches are drawn anew.
        exact: see `TypicalityTest.fit`.
        seed: of all draws.

    Raises:
        ValueError: for a value that cannot be.
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
            raise ValueError("batch_sizes names no batch size")
        for name, values in (
            ("batch_sizes", self.batch_sizes),
            ("bootstraps", [self.bootstraps]),
            ("repeats", [self.repeats]),
        ):
            if min(values) < 1:
                raise ValueError(f"{name} must be at least 1, not {min(values)}")


@dataclass
class OodResult:
    """Tables of a test. Ratios and rates lie between 0 and 1, intervals are 95 %; the columns of an interval of `x` are
    `x_low` and `x_high`.

    Args:
        ratios: a row a detector, data set and M: `batches`, `left_out` (images that fill no batch), `non_finite`
            (images), `ratio` called OOD (mean over repeats, with Wilson's interval for the batches of one) and
            `ratio_sd` over repeats; `threshold`; `auroc`, `aupr` and `fpr95` against the model's own test set (NaN for
            that set itself).
        power: `ratio` of typicality for more values of M than were asked for.
        per_class: `ratio` of typicality over batches of one class, where a class fills one.
        control: of the model's own test set: `ratio` for each detector and M, with an interval that allows for the
            uncertainty of the threshold too, so of 95 % or more, and `as_expected`, whether 1 - alpha lies in it.
        statistics: (detector, data set, M) -> what batches came to, (N,), in the first repeat.
    """

    ratios: pd.DataFrame
    power: pd.DataFrame
    per_class: pd.DataFrame
    control: pd.DataFrame
    statistics: dict[tuple[str, str, int], np.ndarray] = field(default_factory=dict)


def held_out_protocol(validation: pd.DataFrame, tests: Mapping[str, pd.DataFrame]) -> Deal:
    """Thresholds from images that were held out of training, and tests on all images of each test set."""
    return lambda repeat: (validation, dict(tests))


def report_protocol(tests: Mapping[str, pd.DataFrame], seed: int = 0, images: int = REPORT_IMAGES) -> Deal:
    """The course report's: half of the model's own test set (5,000 images at most) gives the thresholds and the other
    half is tested, with 5,000 images at most of each other set. Halves and images are drawn anew in each repeat."""

    def deal(repeat: int) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
        rng = np.random.default_rng([seed, repeat])
        shuffled = {name: table.iloc[rng.permutation(len(table))] for name, table in tests.items()}
        own, *others = shuffled
        half = min(images, len(shuffled[own]) // 2)
        dealt = {own: shuffled[own].iloc[half : 2 * half]} | {name: shuffled[name].iloc[:images] for name in others}
        return shuffled[own].iloc[:half], dealt

    return deal


def evaluate_ood(
    train: pd.DataFrame,
    deal: Deal,
    settings: OodSettings,
    class_names: Mapping[str, Sequence[str]] | None = None,
    detectors: Sequence[Detector] | None = None,
) -> OodResult:
    """Tests every data set by every detector at every M.

    Args:
        train: score table of the training images (`glow.scoring`).
        deal: a protocol: `held_out_protocol` or `report_protocol`.
        class_names: data set -> the names of its labels; numbers where there are none.
        detectors: what `fit_detectors` made of `train`, if it is at hand.

    Raises:
        ValueError: for a data set with fewer images than a batch takes, too few held-out images for alpha, too many of
            them whose scores are not finite, or training scores that are not finite.
    """
    detectors = detectors or fit_detectors(train, settings.center, settings.seed)
    deals = [deal(repeat) for repeat in range(settings.repeats)]
    _check_sizes(deals[0], settings)
    asked = sorted(set(settings.batch_sizes))
    typicality = detectors[0]
    cells = [_Cell.compute(detector, m, deals, settings) for detector in detectors for m in asked]
    settled = len(deals[0][0]) >= least_held_out(settings.alpha) or not settings.exact
    extra = [m for m in POWER_GRID if m < max(asked) and m not in asked and (m > 1 or settled)]
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
    """One detector at one M: a test per repeat, and of each data set's batches in each repeat the statistics and which
    were called OOD."""

    detector: str
    batch_size: int
    tests: list[BatchTest]
    statistics: dict[str, list[np.ndarray]]  # the model's own test set first
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
        """A row a data set, with how well it is told from the model's own."""
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
        """Whether the model's own test images are called OOD about as often as they should be."""
        own = next(iter(self.statistics.values()))[0]
        threshold, n = self.tests[0].threshold, len(own)

        def beyond(value: float) -> float:
            return float(replace(threshold, value=value).exceeded(own).sum())

        low, high = wilson_interval(beyond(threshold.high), n)[0], wilson_interval(beyond(threshold.low), n)[1]
        return {
            "detector": self.detector,
            "batch_size": self.batch_size,
            "batches": n,
            "ratio": beyond(threshold.value) / n,
            "ratio_low": low,
            "ratio_high": high,
            "as_expected": low <= 1 - alpha <= high,
        }


def _check_sizes(deal: tuple[pd.DataFrame, dict[str, pd.DataFrame]], settings: OodSettings) -> None:
    largest = max(settings.batch_sizes)
    held_out, tests = deal
    for name, table in {"the held-out images": held_out, **tests}.items():
        if len(table) < largest:
            raise ValueError(f"{name}: {len(table)} images do not fill a batch of {largest}; leave out larger batches")


def _per_class(
    cells: Sequence[_Cell],
    typicality: Detector,
    tests: Mapping[str, pd.DataFrame],
    settings: OodSettings,
    class_names: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """Which classes pass: `ratio` over batches of one class each, by the first repeat's tests."""
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
                ood = cell.tests[0].is_ood(scores[batches])
                low, high = wilson_interval(int(ood.sum()), len(ood))
                rows.append(
                    {
                        "dataset": name,
                        "label": label,
                        "class_name": names[label] if names else str(label),
                        "batch_size": cell.batch_size,
                        "batches": len(ood),
                        "ratio": float(ood.mean()),
                        "ratio_low": low,
                        "ratio_high": high,
                    }
                )
    return pd.DataFrame(rows, columns=PER_CLASS_COLUMNS)
