"""What the test for out-of-distribution batches came to, beside what the course report found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from glow.datasets.names import dataset_label
from glow.figures import ood_ratio_curve, per_class_bars
from jobs.report.blocks import Block, Cell, Estimate, Picture, Pictures, Section, Table, Text
from jobs.report.gather import REPORT_PROTOCOL, Model, dataset_of, spec_of
from jobs.report.pictures import drawn, recorded
from jobs.report.reader import Reader
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
"""OOD ratios in percent that the course report gives, by data set and M."""

COURSE_NOTE = (
    "Course report: one model of MNIST (K = 32, L = 3, width 512, 70 epochs), the mean ± standard deviation over two "
    "repeats of the test on it, with thresholds by 50 bootstraps from half of the test set at alpha = 0.99. It is "
    "another model, and its letters are the official EMNIST test set."
)

MOST_PASSING = 5


def ood_section(model: Model, reader: Reader, anchor: str, name: str) -> tuple[Section | None, list[str]]:
    """The section, and sentences for the summary."""
    runs = {protocol: model.evaluations[protocol] for protocol in ("ood", REPORT_PROTOCOL) if _has(model, protocol)}
    if not runs:
        return None, []
    main = next(iter(runs.values()))
    tables = {
        protocol: table
        for protocol, run in runs.items()
        if (table := reader.table(run, "ood", "its OOD ratios")) is not None
    }
    typicality = {protocol: table[table["detector"] == "typicality"] for protocol, table in tables.items()}
    blocks: list[Block] = [Text(_about(run)) for run in runs.values()]
    said: list[str] = []
    if typicality:
        own = _own(main, next(iter(typicality.values())))
        blocks += _ratio_table(typicality, own)
        first, run = next((table, runs[protocol]) for protocol, table in typicality.items())
        said = _in_short(first, own)
        blocks += [Text(sentence) for sentence in _control(run, reader, own)]
        blocks += _figures(run, reader, own, name)
        blocks += _detectors(run, reader)
    return Section("Out-of-distribution test", anchor, [*blocks, *reader.notes()]), said


def _has(model: Model, protocol: str) -> bool:
    return protocol in model.evaluations


def _own(run: Run, table: pd.DataFrame) -> str:
    """The model's own data set as the tables name it: it comes first."""
    label = dataset_label(dataset_of(run) or "")
    return label if label in set(table["dataset"]) else str(table["dataset"].iloc[0])


def _about(run: Run) -> str:
    spec = spec_of(run)
    report = spec.get("protocol") == "report"
    bootstraps = spec.get("bootstraps") or (50 if report else 10_000)
    repeats = spec.get("repeats") or (2 if report else 1)
    where = "half of the test set" if report else "images that were held out of training"
    which = "By the course report's protocol" if report else "Typicality test"
    return (
        f"{which}: a batch of M images is called out-of-distribution (OOD) if its mean NLL is too far from the "
        f"training images', by thresholds from {where} at alpha = {spec.get('alpha', 0.99):g}, {bootstraps:,} "
        f"bootstraps, {count(repeats, 'repeat')}."
    )


def _ratio_table(tables: Mapping[str, pd.DataFrame], own: str) -> Iterator[Block]:
    """Rows of each data set: the tests of this model, and what the course report found of MNIST."""
    names = list(dict.fromkeys(name for table in tables.values() for name in table["dataset"]))
    beside = COURSE if own == "mnist" else {}
    sizes = sorted(
        {int(m) for table in tables.values() for m in table["batch_size"]} | ({1, 2, 10} if beside else set())
    )
    labels = {"ood": "this model", REPORT_PROTOCOL: "this model, report's protocol"}
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
    head = ["data set", *([] if one_kind else ["whose"]), *(f"M = {m}" for m in sizes)]
    rows = [[row[0], *row[2:]] for row in rows] if one_kind else rows
    caption = "Batches called OOD, in percent, with 95 % intervals."
    caption += "" if one_kind else " ± is the standard deviation over repeats."
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
            of = "single images" if m == 1 else f"batches of {m}"
            sentences.append(f"Of {of}, the typicality test calls {others} OOD, and {_percent(ratios[own])} of {own}.")
    return sentences


def _percent(ratio: float) -> str:
    if not math.isfinite(ratio):
        return "an unknown share"
    return f"{100 * ratio:.1f} %" if 0 < ratio < 1 else f"{100 * ratio:.0f} %"


def _control(run: Run, reader: Reader, own: str) -> Iterator[str]:
    table = reader.table(run, "ood_control", "the control")
    if table is None or table.empty:
        return
    rows = rows_of(table[table["detector"] == "typicality"])
    nominal = f"{100 * (1 - float(spec_of(run).get('alpha', 0.99))):.3g} %"
    odd = [row for row in rows if not row["as_expected"]]
    if not odd:
        often = f"about as often as they should be, {nominal}, at every M"
        yield f"Control: test images of {own} itself are called OOD {often}."
        return
    rates = ", ".join(
        f"{100 * row['ratio']:.2f} % ({100 * row['ratio_low']:.2f}-{100 * row['ratio_high']:.2f}) at M = "
        f"{row['batch_size']}"
        for row in odd
    )
    yield (
        f"Control FAILED: test images of {own} itself are called OOD at {rates}, where {nominal} is nominal. They "
        "differ from those that the thresholds come from, so read the other ratios with this in mind."
    )


def _figures(run: Run, reader: Reader, own: str, name: str) -> Iterator[Block]:
    alpha = float(spec_of(run).get("alpha", 0.99))
    pictures: list[Picture] = []
    power = reader.table(run, "ood_power", "ratios against M")
    if power is not None and not power.empty:
        figure = ood_ratio_curve(power, f"Typicality test of a model of {own}", alpha, own)
        figure.axes[0].set_ylabel("batches called OOD, %")  # the caption says what the bands are
        caption = "Share of batches called OOD against M, with 95 % bands."
        pictures.append(drawn(figure, f"{name}-ood-ratio", _power_alt(power), caption))
    histogram = reader.content(run, "nll_histogram.png", "how the scores are spread")
    if histogram is not None:
        alt = "Histogram of bits/dim of test images, a curve a data set."
        pictures.append(recorded(histogram, f"{name}-ood-nll", alt, "Bits/dim of the test images of each data set."))
    if pictures:
        yield Pictures(pictures)
    classes = reader.table(run, "ood_per_class", "ratios by class")
    if classes is not None and not classes.empty:
        yield from _classes(classes, own, alpha, name)


def _power_alt(power: pd.DataFrame) -> str:
    largest = power[power["batch_size"] == power["batch_size"].max()]
    ends = ", ".join(f"{row['dataset']} {_percent(row['ratio'])}" for row in rows_of(largest))
    return f"Line chart of the share called OOD against M; at M = {power['batch_size'].max()}: {ends}."


def _classes(classes: pd.DataFrame, own: str, alpha: float, name: str) -> Iterator[Block]:
    smallest = int(classes["batch_size"].min())
    rows = classes[classes["batch_size"] == smallest]
    several = rows[rows.groupby("dataset")["label"].transform("nunique") > 1]
    pictures = []
    for dataset, group in several.groupby("dataset", sort=False):
        figure = per_class_bars(group, f"{dataset}: called OOD by typicality, M = {smallest}", alpha)
        highest = rows_of(group.sort_values("ratio", ascending=False).head(3))
        alt = f"Bar chart by class of {dataset}; highest: " + ", ".join(
            f"{row['class_name']} {_percent(row['ratio'])}" for row in highest
        )
        caption = f"Share of each class of {dataset} called OOD at M = {smallest}."
        pictures.append(drawn(figure, f"{name}-classes-{dataset}", f"{alt}.", caption))
    if pictures:
        yield Pictures(pictures)
    passing = several[(several["dataset"] != own) & (several["ratio_high"] < 1)].sort_values("ratio")
    if not passing.empty:
        listed = ", ".join(
            f"{row['dataset']} {row['class_name']} ({_percent(row['ratio'])})"
            for row in rows_of(passing.head(MOST_PASSING))
        )
        yield Text(f"Classes that are told from {own} least often, at M = {smallest}: {listed}.")


def _detectors(run: Run, reader: Reader) -> Iterator[Block]:
    table = reader.table(run, "ood_detectors", "the comparison of detectors")
    if table is None or table.empty:
        return
    detectors: Sequence[str] = [str(name) for name in table.columns if name not in ("dataset", "batch_size")]
    rows = [
        ["" if index else str(name), str(row["batch_size"]), *(_auroc(row[detector]) for detector in detectors)]
        for name, group in table.groupby("dataset", sort=False)
        for index, row in enumerate(rows_of(group))
    ]
    if (recommended := run.data.tags.get(tag_names.RECOMMENDED)) is not None:
        yield Text(
            f"Recommended detector: {recommended}, which tells corrupted held-out images best, on average over the "
            "corruptions. The choice was made without a look at the data sets below."
        )
    caption = "AUROC of each detector against the model's own test set: 1 tells all batches apart, 0.5 none."
    yield Table(caption, ["data set", "M", *detectors], rows)


def _auroc(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) and math.isfinite(value) else "-"
