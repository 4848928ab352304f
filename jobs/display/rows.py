"""The rows of the tables in events, one dataclass per kind of table.

If a field `x` has a 95 % interval, the fields `x_low` and `x_high` are the ends of the interval. In `Difference` they
are `low` and `high`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

from jobs.text import rows_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Caught",
    "ClassNll",
    "DatasetNll",
    "Difference",
    "NllBound",
    "Number",
    "OodClass",
    "OodControl",
    "OodRatio",
    "OodRegret",
    "rows_as",
]

Number = int | float
"""A number that JSON keeps as it was given: 8 stays 8, and 8.0 stays 8.0."""

Kind = TypeVar("Kind")


def rows_as(kind: type[Kind], table: pd.DataFrame) -> list[Kind]:
    """Turn the rows of a table into objects of a dataclass.

    Args:
        kind: the dataclass.
        table: a table with a column for each of its fields; other columns are left out.

    Raises:
        KeyError: if the table lacks a column.
    """
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # every kind is a dataclass
    return [kind(**row) for row in rows_of(table[names])]


@dataclass(frozen=True)
class DatasetNll:
    """Bits/dim of a data set under a model: the mean with its interval, and the median.

    Attributes:
        bits_per_dim_original: the mean in bits per value of the images before padding; NaN unless all images had one
            size and were padded.
        non_finite: number of images whose score is not finite.
    """

    dataset: str
    images: int
    bits_per_dim: float
    bits_per_dim_low: float
    bits_per_dim_high: float
    bits_per_dim_median: float
    bits_per_dim_original: float
    non_finite: int


@dataclass(frozen=True)
class NllBound:
    """The mean importance-weighted bound on the NLL of a data set, in bits/dim (`glow.scoring.importance_weighted`).

    Attributes:
        noise_samples: number of noise samples per image from which the bound is computed.
        bits_per_dim: the bound.
        gain: the mean NLL over single noise samples, minus the bound.
    """

    dataset: str
    noise_samples: int
    bits_per_dim: float
    bits_per_dim_low: float
    bits_per_dim_high: float
    gain: float
    gain_low: float
    gain_high: float


@dataclass(frozen=True)
class ClassNll:
    """Bits/dim of the images of one class: the mean with its interval, and the median."""

    dataset: str
    class_name: str
    images: int
    bits_per_dim: float
    bits_per_dim_low: float
    bits_per_dim_high: float
    bits_per_dim_median: float


@dataclass(frozen=True)
class OodRatio:
    """How often a detector calls batches of a data set out-of-distribution (OOD), for one batch size.

    Attributes:
        batches: number of batches.
        left_out: number of images that do not fill a batch.
        non_finite: number of images whose likelihood, or a part of it, is not finite.
        ratio: share of the batches that are called OOD, as a mean over repeats.
        ratio_sd: standard deviation of this share over repeats; NaN for one repeat.
        threshold: the statistic of the detector above which a batch is called OOD.
        auroc: area under the ROC curve against the model's own test set; NaN for that set itself.
        aupr: area under the precision-recall curve, for the same comparison.
        fpr95: false-positive rate at a true-positive rate of 95 %, for the same comparison.
    """

    detector: str
    dataset: str
    batch_size: int
    batches: int
    left_out: int
    non_finite: int
    ratio: float
    ratio_low: float
    ratio_high: float
    ratio_sd: float
    threshold: float
    threshold_low: float
    threshold_high: float
    auroc: float
    auroc_low: float
    auroc_high: float
    aupr: float
    aupr_low: float
    aupr_high: float
    fpr95: float
    fpr95_low: float
    fpr95_high: float


@dataclass(frozen=True)
class OodControl:
    """How often a detector calls batches of the model's own test set out-of-distribution (OOD).

    Attributes:
        ratio: share of the batches that are called OOD.
        as_expected: whether the interval of `ratio` contains the intended share, 1 - alpha.
    """

    detector: str
    batch_size: int
    batches: int
    ratio: float
    ratio_low: float
    ratio_high: float
    as_expected: bool


@dataclass(frozen=True)
class OodRegret:
    """The AUROC of the recommended detector on a data set, and that of the detector which is best in hindsight."""

    dataset: str
    batch_size: int
    detector: str
    auroc: float
    best_detector: str
    best_auroc: float


@dataclass(frozen=True)
class Caught:
    """The smallest number of images per batch, M, at which a detector notices a corruption, for each severity.

    A detector notices a corruption at M if it calls at least the share `glow.corruption_figures.CAUGHT` of the batches
    OOD, at M and at every larger M that was tested.

    Attributes:
        corruption: the name of the corruption.
        batch_sizes: the smallest M for the severities 1, 2 and so on; None where no tested M is large enough.
    """

    corruption: str
    batch_sizes: list[int | None]


@dataclass(frozen=True)
class OodClass:
    """How often the typicality test calls batches of images of one class out-of-distribution (OOD).

    Attributes:
        label: number of the class.
        ratio: share of the batches that are called OOD.
    """

    dataset: str
    label: int
    class_name: str
    batch_size: int
    batches: int
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True)
class Difference:
    """The paired difference of bits/dim between two values, a and b, of a factor of an ablation.

    The docstring of `glow.comparison.paired_differences` describes the fields.
    """

    factor: str
    a: str | Number
    b: str | Number
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    seeds: int
    configurations: int
