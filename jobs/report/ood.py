"""The section about the test of a model for out-of-distribution (OOD) batches.

For MNIST the section also has the results of the course report that this project grew out of (docs/mnist.md).

The model's own data are the test images of the data set that it was trained on; they should pass the test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from glow.datasets.names import dataset_label
from glow.figures import ood_ratio_curve, per_class_bars
from jobs.report.aurocs import INTERVALS, auroc_cell, auroc_intervals
from jobs.report.blocks import Block, Cell, Estimate, Picture, Pictures, Section, Table, Text
from jobs.report.gather import REPORT_PROTOCOL, Model
from jobs.report.pictures import drawn, recorded
from jobs.report.reader import Reader
from jobs.report.run_facts import dataset_of, spec_of
from jobs.text import count, rows_of
from jobs.tracking import tag_names

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = ["COURSE", "COURSE_NOTE", "ood_section"]

COURSE = {
    "mnist": {1: "1.04 ± 0.54", 2: "1.2 ± 0.68", 10: "2.4 ± 1.41"},
    "emnist-letters": {1: "75.73 ± 1.74", 2: "91.80 ± 2.04", 10: "100"},
    "fashion-mnist": {1: "99.21 ± 0.04", 2: "100", 10: "100"},
}
"""Shares of batches called OOD in the course report, in percent: data set -> M -> share."""

COURSE_NOTE = (
    "The rows “course report” are from the report that this project grew out of. They belong to another model of MNIST "
    "(K = 32, L = 3, width 512, 70 epochs), and give the mean ± standard deviation over two repeats of the test on it, "
    "with thresholds from half of the test set by 50 bootstraps at alpha = 0.99. Its letters are the official EMNIST "
    "test set."
)

MOST_PASSING = 5
"""The most classes that are listed as hard to detect."""


def ood_section(model: Model, reader: Reader, anchor: str, name: str) -> tuple[Section | None, list[str]]:
    """Return the section and the sentences for the summary; the section is None if the model has not been tested.

    Args:
        model: the model.
        reader: reader of its artifacts.
        anchor: target of links to the section, unique in the report.
        name: start of the file names of the section's pictures.
    """
    runs = {protocol: model.evaluations[protocol] for protocol in ("ood", REPORT_PROTOCOL) if _has(model, protocol)}
    if not runs:
        return None, []
    main = next(iter(runs.values()))
    tables = {
        protocol: table
        for protocol, run in runs.items()
        if (table := reader.table(run, "ood", "the shares of batches called OOD")) is not None
    }
    typicality = {protocol: table[table["detector"] == "typicality"] for protocol, table in tables.items()}
    recommended = main.data.tags.get(tag_names.RECOMMENDED)
    blocks: list[Block] = [Text(_about(run)) for run in runs.values()]
    said: list[str] = []
    if typicality:
        own = _own(main, next(iter(typicality.values())))
        blocks += _ratio_table(typicality, own)
        if recommended not in (None, "typicality") and "ood" in tables:
            table = tables["ood"]
            blocks += _ratio_table({"ood": table[table["detector"] == recommended]}, own, str(recommended))
        first, run = next((table, runs[protocol]) for protocol, table in typicality.items())
        said = _in_short(first, own)
        blocks += [Text(sentence) for sentence in _control(run, reader, own)]
        blocks += _figures(run, reader, own, name)
        blocks += _detectors(run, reader, next(iter(tables.values())))
    return Section("Out-of-distribution test", anchor, [*blocks, *reader.notes()]), said


def _has(model: Model, protocol: str) -> bool:
    return protocol in model.evaluations


def _own(run: Run, table: pd.DataFrame) -> str:
    """Return the model's own data set, as the tables name it; it is their first one."""
    label = dataset_label(dataset_of(run) or "")
    return label if label in set(table["dataset"]) else str(table["dataset"].iloc[0])


def _about(run: Run) -> str:
    spec = spec_of(run)
    report = spec.get("protocol") == "report"
    bootstraps = spec.get("bootstraps") or (50 if report else 10_000)
    repeats = spec.get("repeats") or (2 if report else 1)
    where = "half of the test set" if report else "images that were held out of training"
    which = "Typicality test by the protocol of the course report" if report else "Typicality test"
    return (
        f"{which}: a batch of M images is called out-of-distribution (OOD) if its mean NLL is too far from that of the "
        f"training images. The limit was calibrated on {where}, so that a share alpha = {spec.get('alpha', 0.99):g} of "
        f"in-distribution batches should pass ({bootstraps:,} bootstraps, {count(repeats, 'repeat')})."
    )


def _ratio_table(tables: Mapping[str, pd.DataFrame], own: str, detector: str = "typicality") -> Iterator[Block]:
    """Yield a table with rows for each data set: the tests of this model, and for MNIST those of the course report."""
    names = list(dict.fromkeys(name for table in tables.values() for name in table["dataset"]))
    beside = COURSE if own == "mnist" and detector == "typicality" else {}
    sizes = sorted(
        {int(m) for table in tables.values() for m in table["batch_size"]} | ({1, 2, 10} if beside else set())
    )
    labels = {"ood": "this model", REPORT_PROTOCOL: "this model, course report's protocol"}
    rows: list[list[Cell]] = []
    for name in names:
        first = True
        for protocol, table in tables.items():
            cells = {int(row["batch_size"]): _estimate(row) for row in rows_of(table[table["dataset"] == name])}
            if cells:
                rows.append([name if first else "", labels[protocol], *(cells.get(m, "-") for m in sizes)])
                first = False
        if name in beside:
            rows.append([name if first else "", "course report", *(beside[name].get(m, "-") for m in sizes)])
    one_kind = not beside and len(tables) == 1
    head = ["data set", *([] if one_kind else ["result of"]), *(f"M = {m}" for m in sizes)]
    rows = [[row[0], *row[2:]] for row in rows] if one_kind else rows
    who = "the typicality test" if detector == "typicality" else f"the recommended detector, {detector},"
    caption = f"Share of batches of M images that {who} calls OOD, in percent, with 95 % intervals."
    caption += "" if one_kind else " A number after ± is the standard deviation over repeats."
    yield Table(caption, head, rows, left=1 if one_kind else 2)
    if beside:
        yield Text(COURSE_NOTE)


def _estimate(row: Mapping[str, Any]) -> Estimate:
    spread = f" ± {100 * row['ratio_sd']:.2f}" if math.isfinite(row["ratio_sd"]) else ""
    return Estimate(f"{100 * row['ratio']:.2f}{spread}", f"{100 * row['ratio_low']:.2f}-{100 * row['ratio_high']:.2f}")


def _in_short(table: pd.DataFrame, own: str) -> list[str]:
    sizes = sorted({int(m) for m in table["batch_size"]})
    chosen = list(dict.fromkeys([sizes[0], 10 if 10 in sizes else sizes[-1]]))
    sentences = []
    for m in chosen:
        ratios = {str(row["dataset"]): row["ratio"] for row in rows_of(table[table["batch_size"] == m])}
        others = ", ".join(f"{_percent(ratio)} of {name}" for name, ratio in ratios.items() if name != own)
        if others and own in ratios:
            of = "single images" if m == 1 else f"batches of {m} images"
            sentences.append(
                f"The typicality test of {of} calls these shares out-of-distribution (OOD): {others}, and "
                f"{_percent(ratios[own])} of {own}, the model's own data set."
            )
    return sentences


def _percent(ratio: float) -> str:
    if not math.isfinite(ratio):
        return "an unknown share"
    return f"{100 * ratio:.1f} %" if 0 < ratio < 1 else f"{100 * ratio:.0f} %"


def _control(run: Run, reader: Reader, own: str) -> Iterator[str]:
    table = reader.table(run, "ood_control", "the control")
    if table is None or table.empty:
        return
    shown = ["typicality", run.data.tags.get(tag_names.RECOMMENDED, "typicality")]
    rows = rows_of(table[table["detector"].isin(shown)])
    nominal = f"{100 * (1 - float(spec_of(run).get('alpha', 0.99))):.3g} %"
    odd = [row for row in rows if not row["as_expected"]]
    if not odd:
        often = f"at about the expected rate, {nominal}, at every M"
        by = " and ".join(dict.fromkeys(shown))
        yield f"Control: batches of test images of {own} itself are called OOD {often}, by {by}."
        return
    rates = ", ".join(
        f"{100 * row['ratio']:.2f} % ({100 * row['ratio_low']:.2f}-{100 * row['ratio_high']:.2f}) at M = "
        f"{row['batch_size']} by {row['detector']}"
        for row in odd
    )
    yield (
        f"Control FAILED: of batches of test images of {own} itself, {nominal} should be called OOD, but the share is "
        f"{rates}. The test images differ from the images on which the test was calibrated, so read the other shares "
        "with caution."
    )


def _figures(run: Run, reader: Reader, own: str, name: str) -> Iterator[Block]:
    alpha = float(spec_of(run).get("alpha", 0.99))
    pictures: list[Picture] = []
    power = reader.table(run, "ood_power", "the chart of OOD shares against M")
    if power is not None and not power.empty:
        figure = ood_ratio_curve(power, f"Typicality test of a model trained on {own}", alpha, own)
        figure.axes[0].set_ylabel("batches called OOD (%)")  # shorter, as the caption explains the bands
        caption = "Share of batches called OOD against the number M of images per batch, with 95 % bands."
        pictures.append(drawn(figure, f"{name}-ood-ratio", _power_alt(power), caption))
    histogram = reader.content(run, "nll_histogram.png", "the histogram of likelihoods")
    if histogram is not None:
        alt = "Histogram of bits/dim of test images, with one curve per data set."
        caption = "Distribution of the bits/dim of single test images, one curve per data set."
        pictures.append(recorded(histogram, f"{name}-ood-nll", alt, caption))
    if pictures:
        yield Pictures(pictures)
    classes = reader.table(run, "ood_per_class", "the OOD shares of each class")
    if classes is not None and not classes.empty:
        yield from _classes(classes, own, alpha, name)


def _power_alt(power: pd.DataFrame) -> str:
    largest = power[power["batch_size"] == power["batch_size"].max()]
    ends = ", ".join(f"{row['dataset']} {_percent(row['ratio'])}" for row in rows_of(largest))
    return f"Line chart of the share of batches called OOD against M; at M = {power['batch_size'].max()}: {ends}."


def _classes(classes: pd.DataFrame, own: str, alpha: float, name: str) -> Iterator[Block]:
    smallest = int(classes["batch_size"].min())
    rows = classes[classes["batch_size"] == smallest]
    several = rows[rows.groupby("dataset")["label"].transform("nunique") > 1]
    pictures = []
    for dataset, group in several.groupby("dataset", sort=False):
        figure = per_class_bars(group, f"{dataset}: share called OOD by typicality, M = {smallest}", alpha)
        highest = rows_of(group.sort_values("ratio", ascending=False).head(3))
        alt = f"Bar chart of the share called OOD per class of {dataset}; the highest: " + ", ".join(
            f"{row['class_name']} {_percent(row['ratio'])}" for row in highest
        )
        caption = f"Share of batches of each class of {dataset} called OOD at M = {smallest}."
        pictures.append(drawn(figure, f"{name}-classes-{dataset}", f"{alt}.", caption))
    if pictures:
        yield Pictures(pictures)
    passing = several[(several["dataset"] != own) & (several["ratio_high"] < 1)].sort_values("ratio")
    if not passing.empty:
        listed = ", ".join(
            f"{row['dataset']} {row['class_name']} ({_percent(row['ratio'])})"
            for row in rows_of(passing.head(MOST_PASSING))
        )
        yield Text(
            f"Classes of other data sets that are least often called OOD, with their share at M = {smallest}: {listed}."
        )


def _detectors(run: Run, reader: Reader, ratios: pd.DataFrame) -> Iterator[Block]:
    table = reader.table(run, "ood_detectors", "the comparison of detectors")
    if table is None or table.empty:
        return
    intervals = auroc_intervals(ratios)
    detectors: Sequence[str] = [str(name) for name in table.columns if name not in ("dataset", "batch_size")]
    rows: list[list[Cell]] = [
        [
            "" if index else str(name),
            str(row["batch_size"]),
            *(
                auroc_cell(row[detector], intervals.get((detector, str(name), int(row["batch_size"]))), digits=4)
                for detector in detectors
            ),
        ]
        for name, group in table.groupby("dataset", sort=False)
        for index, row in enumerate(rows_of(group))
    ]
    if (recommended := run.data.tags.get(tag_names.RECOMMENDED)) is not None:
        yield Text(
            f"Recommended detector: {recommended}. Of all detectors, it detects corrupted held-out images best, on "
            "average over the kinds of corruption. The data sets in the following table had no part in this choice."
        )
    caption = (
        "AUROC with which each detector separates batches of a data set from batches of the model's own test set: "
    )
    caption += "1 means perfect separation, 0.5 means chance."
    yield Table(f"{caption}{INTERVALS if intervals else ''}", ["data set", "M", *detectors], rows)
