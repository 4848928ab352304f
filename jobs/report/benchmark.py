"""The section that compares the OOD tests of several models in one table, next to published results."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from glow.datasets.names import dataset_label
from jobs.report.aurocs import INTERVALS, auroc_cell, auroc_intervals
from jobs.report.blocks import Block, Cell, Estimate, Section, Table, Text
from jobs.report.gather import Material, Model, Study
from jobs.report.reader import Reader
from jobs.text import bits, rows_of
from jobs.tracking import metric_names, tag_names

__all__ = ["PUBLISHED", "Published", "benchmark_section", "canonical"]


@dataclass(frozen=True)
class Published:
    """A published AUROC of an out-of-distribution (OOD) test.

    Attributes:
        trained: data set that the model was trained on.
        tested: data set whose images were to be recognised as OOD.
        method: name of the test.
        auroc: the AUROC, from 0 to 1.
        source: the publication, and the kind of model.
        batch_size: number of images per tested batch.
    """

    trained: str
    tested: str
    method: str
    auroc: float
    source: str
    batch_size: int = 1


SITN = "Bomatter et al. 2026, arXiv 2605.22496; flow matching"
SERRA = "Serrà et al. 2020, as the LFDN paper's table 1 quotes it; Glow"
LID = "Kamkari et al. 2024; diffusion"

PUBLISHED = (
    Published("cifar10", "svhn", "likelihood", 0.105, SITN),
    Published("cifar10", "svhn", "typicality", 0.790, SITN),
    Published("cifar10", "svhn", "DoSE", 0.802, SITN),
    Published("cifar10", "svhn", "SITN", 0.946, SITN),
    Published("cifar10", "svhn", "complexity", 0.883, SERRA),
    Published("cifar10", "mnist", "complexity", 0.858, SERRA),
    Published("cifar10", "fashion-mnist", "complexity", 0.712, SERRA),
    Published("cifar10", "kmnist", "complexity", 0.380, SERRA),
    Published("svhn", "cifar10", "SITN", 0.986, SITN),
    Published("fashion-mnist", "mnist", "likelihood", 0.240, LID),
    Published("fashion-mnist", "mnist", "LID", 0.846, LID),
    Published("fashion-mnist", "emnist-letters", "likelihood", 0.339, LID),
    Published("fashion-mnist", "emnist-letters", "LID", 0.568, LID),
    Published("mnist", "fashion-mnist", "LID", 0.996, LID),
    Published("mnist", "emnist-letters", "LID", 0.846, LID),
)
"""Published AUROCs, which docs/evaluation.md quotes too. The models differ from ours, and some of the images do."""


ALIASES = {
    "cifar": "cifar10",
    "cifar-10": "cifar10",
    "emnist": "emnist-letters",
    "fashion": "fashion-mnist",
    "fashionmnist": "fashion-mnist",
    "fmnist": "fashion-mnist",
}
"""Names that files and folders often have -> names of data sets."""


def canonical(label: str) -> str:
    """Return the common name of a data set, given its label, which may be made from the name of a file or folder.

    Example:
        >>> canonical("arrays-svhn-test.npz")
        'svhn'
        >>> canonical("packed-CIFAR-10")
        'cifar10'
    """
    name = re.sub(r"^(arrays|packed|folder|parquet)-", "", label.lower())
    name = re.sub(r"([-_.](train|test))?(\.(npz|npy|parquet))?$", "", name)
    return ALIASES.get(name, name) or label


def benchmark_section(material: Material, reader: Reader, anchor: str) -> Section | None:
    """Return the section with a table of AUROCs of the models, and a table of published AUROCs.

    A pair is a data set that a model was trained on, and another that the model was tested on. The first table has one
    row for each model of each pair; the second table has the published results for the same pairs.

    Args:
        material: the runs of the report.
        reader: reader of their artifacts.
        anchor: target of links to the section, unique in the report.

    Returns:
        The section, or None if fewer than two pairs of data sets were tested.
    """
    tested = [found for study in material.studies for model in study.models for found in _pairs(study, model, reader)]
    if len({(pair.trained, pair.tested) for pair in tested}) < 2:
        return None
    detectors = list(dict.fromkeys(name for pair in tested for name in pair.aurocs))
    rows: list[list[Cell]] = []
    for trained, other in dict.fromkeys((pair.trained, pair.tested) for pair in tested):
        name = f"{trained} → {other}"
        for pair in tested:
            if (pair.trained, pair.tested) == (trained, other):
                aurocs = [pair.aurocs.get(detector, "-") for detector in detectors]
                rows.append([name, pair.model, pair.nll, *aurocs, pair.recommended])
                name = ""
    head = ["trained on → tested on", "model", "test bits/dim", *detectors, "recommended detector"]
    note = INTERVALS if any(isinstance(cell, Estimate) for row in rows for cell in row) else ""
    blocks: list[Block] = [
        Text(
            "An AUROC measures how well a detector separates single images of one data set (tested on) from test "
            "images of the data set that the model was trained on. 1 means perfect separation, 0.5 means chance."
        ),
        Table(f"AUROC of each detector for single images (M = 1), by model.{note}", head, rows, left=2),
        *_published(tested),
    ]
    return Section("Out-of-distribution benchmark", anchor, blocks)


@dataclass(frozen=True)
class _Pair:
    trained: str
    tested: str
    model: str
    nll: str
    aurocs: dict[str, Cell]
    recommended: str


def _pairs(study: Study, model: Model, reader: Reader) -> Iterator[_Pair]:
    """Yield each data set that single images of were tested, from the newest run that tested it."""
    nll = math.nan if model.training is None else model.training.data.metrics.get(metric_names.TEST, math.nan)
    trained = canonical(dataset_label(study.dataset))
    seen: set[str] = set()
    for run in model.ood_tests:
        table = reader.table(run, "ood_detectors", "the comparison of detectors")
        if table is None or table.empty:
            continue
        ratios = reader.table(run, "ood", None)
        intervals = {} if ratios is None else auroc_intervals(ratios)
        recommended = run.data.tags.get(tag_names.RECOMMENDED, "-")
        for row in rows_of(table[table["batch_size"] == 1]):
            tested = canonical(str(row["dataset"]))
            if tested not in seen:
                seen.add(tested)
                names = [str(name) for name in table.columns if name not in ("dataset", "batch_size")]
                aurocs = {
                    name: auroc_cell(row[name], intervals.get((name, str(row["dataset"]), 1)), digits=3)
                    for name in names
                }
                yield _Pair(trained, tested, model.name, bits(nll), aurocs, recommended)


def _published(tested: Sequence[_Pair]) -> Iterator[Block]:
    pairs = {(pair.trained, pair.tested) for pair in tested}
    known = pd.DataFrame([each.__dict__ for each in PUBLISHED if (each.trained, each.tested) in pairs])
    if known.empty:
        return
    rows: list[list[Cell]] = [
        [f"{row['trained']} → {row['tested']}", row["method"], auroc_cell(row["auroc"], None, digits=3), row["source"]]
        for row in rows_of(known)
    ]
    head = ["trained on → tested on", "method", "AUROC", "source"]
    yield Table("Published AUROCs for single images (M = 1).", head, rows, left=2)
    yield Text(
        "The published models differ from the models above in kind, size and training, and some were tested on other "
        "images. The two tables therefore do not rank the methods."
    )
