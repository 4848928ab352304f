"""The NLL job: mean bits/dim of data sets under a model, over all images and per class.

Arrays with the suffix _N have one value per image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from glow.datasets import LazyDataset
from glow.datasets.names import absolute_dataset, dataset_label
from glow.figures import nll_histogram
from glow.ood.statistics import Estimate, mean_interval
from jobs.display.evaluation_events import Nll
from jobs.display.events import Show
from jobs.display.rows import ClassNll, DatasetNll, NllBound
from jobs.evaluation.run import (
    Evaluation,
    described,
    evaluation_run,
    opened,
    prepare_evaluation,
    scores_of,
    trained_on,
    with_notes,
    with_tables,
)
from jobs.specs.evaluation import NllSpec
from jobs.text import bits, markdown_table

__all__ = ["NllWork", "prepare", "run"]


@dataclass(frozen=True)
class NllWork:
    """An NLL evaluation whose settings have been checked.

    Attributes:
        evaluation: the settings, the model, and the score tables that are needed.
        class_names: for each data set, by its label, the names of its classes.
        padding: for each data set, by its label, the ratio of pixels per image after padding to pixels before padding;
            1 unless all images had one size and were padded.
    """

    evaluation: Evaluation[NllSpec]
    class_names: dict[str, tuple[str, ...]]
    padding: dict[str, float]


def prepare(spec: NllSpec) -> NllWork:
    """Find the model, the data sets, and the scores of earlier runs.

    Raises:
        SpecError: if a data set is unknown, or cannot be brought into the model's shape.
        DatasetNotFound, DatasetCorrupt: if a data set cannot be read.
        TrackingError, CheckpointError, JobError: if the store does not answer, or the model or the output
            folder cannot be used.
    """
    work = prepare_evaluation(spec)
    datasets = [absolute_dataset(name) for name in spec.datasets or (trained_on(work),)]
    images: dict[tuple[str, str], LazyDataset] = {
        (name, spec.split): opened(work, name, spec.split) for name in datasets
    }
    infos = {dataset_label(name): described(work, name) for name in datasets}
    return NllWork(
        with_notes(with_tables(work, images), images.values(), infos.values()),
        {label: info.class_names for label, info in infos.items()},
        {label: info.padding for label, info in infos.items()},
    )


def run(work: NllWork, show: Show) -> list[DatasetNll]:
    """Score the images that have no score yet, and record tables, figures and metrics.

    Returns:
        One row per data set.

    Raises:
        JobError: if workers fail.
        TrackingError: if the store does not answer.
    """
    evaluation = work.evaluation
    with evaluation_run(evaluation, "nll", show) as recorded:
        scores = {name: table for (name, _), table in scores_of(evaluation, recorded, show).items()}
        rows = [_row(name, table, work) for name, table in scores.items()]
        bounds = [_bound(name, table, work) for name, table in scores.items() if "nll_bound" in table]
        per_class = [row for name, table in scores.items() for row in _class_rows(name, table, work)]
        classes = pd.DataFrame(per_class)
        everything = pd.concat(scores.values(), ignore_index=True)
        table = pd.DataFrame(rows)
        table.to_parquet(recorded.folder / "nll.parquet", index=False)
        classes.to_parquet(recorded.folder / "nll_per_class.parquet", index=False)
        recorded.record.table(table, "nll.json")
        if bounds:
            bound_table = pd.DataFrame(bounds)
            bound_table.to_parquet(recorded.folder / "nll_bound.parquet", index=False)
            recorded.record.table(bound_table, "nll_bound.json")
        recorded.record.table(classes, "nll_per_class.json")
        title = f"NLL of {evaluation.spec.split} images under {evaluation.model.title}"
        nll_histogram(everything, title).savefig(recorded.folder / "nll_histogram.png", dpi=120)
        for row in rows:
            recorded.record.metrics({f"bits_per_dim/{row.dataset}": row.bits_per_dim})
        for bound in bounds:
            recorded.record.metrics({f"bits_per_dim_bound/{bound.dataset}": bound.bits_per_dim})
        came_to = "; ".join(f"{row.dataset} {bits(row.bits_per_dim)}" for row in rows)
        result = Nll(
            **recorded.known_as,
            split=evaluation.spec.split,
            rows=rows,
            bounds=bounds,
            per_class=per_class,
            place=recorded.place,
        )
        recorded.finish(result, f"{came_to} bits/dim", _description(rows))
    return rows


def _description(rows: Sequence[DatasetNll]) -> str:
    head = ["data set", "images", "bits/dim", "95 % interval", "per original pixel"]
    cells = [
        [
            row.dataset,
            str(row.images),
            bits(row.bits_per_dim),
            f"{bits(row.bits_per_dim_low)} to {bits(row.bits_per_dim_high)}",
            bits(row.bits_per_dim_original),
        ]
        for row in rows
    ]
    return markdown_table([head, *cells])


def _row(name: str, table: pd.DataFrame, work: NllWork) -> DatasetNll:
    bits_N = _or_infinite(table)
    mean = mean_interval(bits_N)
    padding = work.padding[name]
    return DatasetNll(
        dataset=name,
        images=len(table),
        bits_per_dim=mean.value,
        bits_per_dim_low=mean.low,
        bits_per_dim_high=mean.high,
        bits_per_dim_median=float(np.median(bits_N)),
        bits_per_dim_original=mean.value * padding if padding > 1 else math.nan,
        non_finite=int((~table["finite"]).sum()),
    )


def _bound(name: str, table: pd.DataFrame, work: NllWork) -> NllBound:
    per_bit = 1 / (work.evaluation.model.config.dimensions * math.log(2))
    bound_N, one_N = (per_bit * table[column].to_numpy() for column in ("nll_bound", "nll_of_all"))
    finite_N = np.isfinite(bound_N) & np.isfinite(one_N)
    bound = mean_interval(np.where(finite_N, bound_N, np.inf))
    none = Estimate(math.nan, math.nan, math.nan)
    gain = mean_interval((one_N - bound_N)[finite_N]) if finite_N.any() else none
    samples = work.evaluation.spec.noise_samples
    return NllBound(name, samples, bound.value, bound.low, bound.high, gain.value, gain.low, gain.high)


def _class_rows(name: str, table: pd.DataFrame, work: NllWork) -> list[ClassNll]:
    labels = np.unique(table["label"]).tolist()
    return [_class_row(name, work.class_names[name][label], table[table["label"] == label]) for label in labels]


def _class_row(dataset: str, class_name: str, table: pd.DataFrame) -> ClassNll:
    bits_N = _or_infinite(table)
    mean = mean_interval(bits_N)
    return ClassNll(dataset, class_name, len(table), mean.value, mean.low, mean.high, float(np.median(bits_N)))


def _or_infinite(table: pd.DataFrame) -> np.ndarray:
    """Return bits/dim (N,) with infinity for scores that are not finite, so that no mean leaves these images out."""
    return np.where(table["finite"], table["bits_per_dim"], np.inf)
