"""The NLL job: mean bits/dim of data sets under a model, over all images and per class.

Arrays with the suffix _N have one value per image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from glow.datasets import DatasetInfo
from glow.datasets.names import absolute_dataset, dataset_label
from glow.figures.pictures import nll_histogram
from glow.ood.statistics import Estimate, mean_interval
from glowctl.display.events import Nll, Show
from glowctl.display.tables import as_markdown, nll_table
from glowctl.evaluation.run import Evaluation, evaluation_run, prepare_evaluation
from glowctl.specs.evaluation import NllSpec
from glowctl.text import Row, bits


@dataclass(frozen=True)
class NllWork:
    """An NLL evaluation whose settings have been checked.

    Attributes:
        evaluation: the settings, the model, and the score tables that are needed.
        infos: the descriptions of the data sets, by their labels.
    """

    evaluation: Evaluation[NllSpec]
    infos: dict[str, DatasetInfo]


def prepare(spec: NllSpec) -> NllWork:
    """Find the model, the data sets, and the scores of earlier runs.

    Raises:
        SpecError: if a data set is unknown, or cannot be brought into the model's shape.
        DatasetNotFound, DatasetCorrupt: if a data set cannot be read.
        TrackingError, CheckpointError, JobError: if the store does not answer, or the model or the output
            folder cannot be used.
    """
    work = prepare_evaluation(spec)
    datasets = [absolute_dataset(name) for name in spec.datasets or (work.trained_on,)]
    split: str = spec.split
    images = {(name, split): work.opened(name, split) for name in datasets}
    infos = {dataset_label(name): work.described(name) for name in datasets}
    return NllWork(work.with_tables(images).with_notes(images.values(), infos.values()), infos)


def run(work: NllWork, show: Show) -> list[Row]:
    """Score the images that have no score yet, and record tables, figures and metrics.

    Returns:
        One row per data set, as the event `Nll` describes them.

    Raises:
        JobError: if workers fail.
        TrackingError: if the store does not answer.
    """
    evaluation = work.evaluation
    with evaluation_run(evaluation, "nll", show) as recorded:
        scores = {name: table for (name, _), table in evaluation.scores(recorded).items()}
        tables = {
            "nll": [_row(name, table, work) for name, table in scores.items()],
            "nll_bound": [_bound(name, table, work) for name, table in scores.items() if "nll_bound" in table],
            "nll_per_class": [row for name, table in scores.items() for row in _class_rows(name, table, work)],
        }
        for name, rows in tables.items():
            if rows:
                recorded.table(pd.DataFrame(rows), name)
        rows, bounds, per_class = tables.values()
        title = f"NLL of {evaluation.spec.split} images under {evaluation.model.title}"
        everything = pd.concat(scores.values(), ignore_index=True)
        recorded.figure(nll_histogram(everything, title), "nll_histogram")
        for metric, of_datasets in (("bits_per_dim", rows), ("bits_per_dim_bound", bounds)):
            recorded.metrics(
                {f"{metric}/{row['dataset']}": row["bits_per_dim"] for row in of_datasets},
                {f"{metric}/{row['dataset']}": (row["dataset"], evaluation.spec.split) for row in of_datasets},
            )
        result = Nll(
            **recorded.known_as,
            split=evaluation.spec.split,
            rows=rows,
            bounds=bounds,
            per_class=per_class,
            place=recorded.place,
        )
        short = "; ".join(f"{row['dataset']} {bits(row['bits_per_dim'])}" for row in rows)
        recorded.finish(result, f"{short} bits/dim", as_markdown(nll_table(rows, evaluation.spec.split)))
    return rows


def _row(name: str, table: pd.DataFrame, work: NllWork) -> Row:
    padding = work.infos[name].padding  # 1 unless all images had one size and were padded
    figures = _figures(table)
    return {
        "dataset": name,
        "images": len(table),
        **figures,
        "bits_per_dim_original": figures["bits_per_dim"] * padding if padding > 1 else math.nan,
        "non_finite": int((~table["finite"]).sum()),
    }


def _class_rows(name: str, table: pd.DataFrame, work: NllWork) -> list[Row]:
    rows = []
    for label in np.unique(table["label"]).tolist():
        of_class = table[table["label"] == label]
        named = {"dataset": name, "class_name": work.infos[name].class_names[label], "images": len(of_class)}
        rows.append({**named, **_figures(of_class)})
    return rows


def _figures(table: pd.DataFrame) -> dict[str, float]:
    """Return the mean bits/dim with its interval, and the median.

    A score that is not finite counts as infinite, so that no mean leaves its image out.
    """
    bits_N = np.where(table["finite"], table["bits_per_dim"], np.inf)
    return {**_estimate("bits_per_dim", mean_interval(bits_N)), "bits_per_dim_median": float(np.median(bits_N))}


def _bound(name: str, table: pd.DataFrame, work: NllWork) -> Row:
    per_bit = 1 / (work.evaluation.model.config.dimensions * math.log(2))
    bound_N, one_N = (per_bit * table[column].to_numpy() for column in ("nll_bound", "nll_of_all"))
    finite_N = np.isfinite(bound_N) & np.isfinite(one_N)
    none = Estimate(math.nan, math.nan, math.nan)
    gain = mean_interval((one_N - bound_N)[finite_N]) if finite_N.any() else none
    return {
        "dataset": name,
        "noise_samples": work.evaluation.spec.noise_samples,
        **_estimate("bits_per_dim", mean_interval(np.where(finite_N, bound_N, np.inf))),
        **_estimate("gain", gain),
    }


def _estimate(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
