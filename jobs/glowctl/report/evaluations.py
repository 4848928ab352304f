"""The sections for a model's evaluations: likelihoods of data sets, samples, interpolations, and OOD tests.

The model's own data are the test images of the data set that it was trained on; they should pass the OOD test.

In all functions, `anchor` is the target of links to the section, and `name` the start of the file names of its
pictures; both are unique in the report.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from glow.datasets.names import dataset_label
from glow.figures.pictures import image_rows, ood_ratio_curve, per_class_bars
from glow.ood import over_trainings
from glowctl.display import tables
from glowctl.report.document import (
    Block,
    Picture,
    Pictures,
    Section,
    Text,
    grid_picture,
    png_picture,
    svg_picture,
)
from glowctl.report.gather import Material, Model, Reader, Study, bits_of, dataset_of, spec_of
from glowctl.specs.training import apart_from_seed
from glowctl.text import Row, bits, rows_of
from glowctl.tracking import metric_names, tag_names

if TYPE_CHECKING:
    from glowctl.tracking.runs import Run

PREFERRED_TEMPERATURE = 0.7
"""The recorded temperature nearest to this one is shown."""

SWEEP = 12
"""The most images per temperature in the picture that compares temperatures."""

RECOMMENDED = (
    "Recommended detector: {}. Of all detectors, it detects corrupted held-out images best, on average over the kinds "
    "of corruption (with --encoder and --leave-out, these and held-out images of new classes). "
    "The data sets in the following table had no part in this choice."
)
"""Sentences on the recommended detector."""


def nll_section(model: Model, reader: Reader, anchor: str, name: str) -> Section | None:
    """Return the section with the bits/dim of whole data sets under the model, or None without an NLL run."""
    run = model.evaluations.get("nll")
    if run is None:
        return None
    blocks: list[Block] = []
    table = reader.table(run, "nll", "the table of likelihoods")
    split = spec_of(run).get("split", "test")
    if table is not None:
        blocks.append(tables.nll_table(rows_of(table), split))
    content = reader.content(run, "nll_histogram.png", "the histogram of likelihoods")
    if content is not None:
        alt = "Histogram of bits/dim with one curve per data set."
        caption = f"Distribution of the bits/dim of single {split} images, one curve per data set."
        blocks.append(Pictures([Picture(f"{name}-nll.png", content, alt, caption)]))
    return Section("Likelihood of whole data sets", anchor, [*blocks, *reader.notes()])


def samples_section(model: Model, reader: Reader, anchor: str, name: str) -> Section | None:
    """Return the section with images that the model drew, or None if there are none.

    From a run of ``glowctl sample``, the section shows a grid of images, and images from the same noise at several
    temperatures if the run had several. Without such a run, it shows the last samples of a finished training.
    """
    run = model.evaluations.get("sample")
    if run is not None:
        pictures = _sampled(run, reader, name)
    elif model.training is not None:
        pictures = _while_training(model.training, reader, name)
    else:
        return None
    notes = reader.notes()
    if not pictures and not notes:
        return None
    return Section("Samples", anchor, [*([Pictures(pictures)] if pictures else []), *notes])


def _sampled(run: Run, reader: Reader, name: str) -> list[Picture]:
    spec = spec_of(run)
    temperatures = [float(value) for value in spec.get("temperatures") or [spec.get("temperature", 0.7)]]
    columns = int(str(spec.get("grid", "10x10")).partition("x")[2])
    shown = min(temperatures, key=lambda temperature: abs(temperature - PREFERRED_TEMPERATURE))
    of_class = f" of class {spec['only_class']}" if spec.get("only_class") else ""
    pictures = []
    images = reader.array(run, f"samples-T{shown:g}.npy", f"the samples at temperature {shown:g}")
    if images is not None:
        caption = f"{len(images)} samples{of_class} at temperature {shown:g}."
        pictures.append(
            grid_picture(images, columns, f"{name}-samples", f"Grid of {len(images)} generated images.", caption)
        )
    if len(temperatures) > 1:
        what = "the samples at temperature"
        every = {t: reader.array(run, f"samples-T{t:g}.npy", f"{what} {t:g}") for t in temperatures if t != shown}
        drawn = [(t, found) for t in temperatures if (found := every.get(t, images)) is not None]
        if len(drawn) > 1:
            pictures.append(_sweep(drawn, name))
    return pictures


def _sweep(drawn: Sequence[tuple[float, np.ndarray]], name: str) -> Picture:
    temperatures = [f"T = {temperature:g}" for temperature, _ in drawn]
    fewest = min(SWEEP, *(len(images) for _, images in drawn))
    figure = image_rows(np.stack([images[:fewest] for _, images in drawn]), temperatures, "")
    alt = f"Rows of generated images, one per temperature: {', '.join(temperatures)}."
    caption = "Samples from the same latent noise at several temperatures T, one row per temperature."
    return png_picture(figure, f"{name}-temperatures", alt, caption)


def _while_training(run: Run, reader: Reader, name: str) -> list[Picture]:
    if run.info.status != "FINISHED":
        return []
    content = reader.content(run, "samples.png", "the samples of the training")
    if content is None:
        return []
    temperature = spec_of(run).get("temperature", PREFERRED_TEMPERATURE)
    caption = f"The last samples that the training drew, at temperature {temperature:g}."
    return [Picture(f"{name}-samples.png", content, "Grid of generated images.", caption, pixels=True)]


def interpolation_section(model: Model, reader: Reader, anchor: str, name: str) -> Section | None:
    """Return the section with rows of images from one real image to another, or None without an interpolation run."""
    run = model.evaluations.get("interpolate")
    if run is None:
        return None
    blocks: list[Block] = []
    images = reader.array(run, "interpolation.npy", "the interpolations")
    pairs = reader.table(run, "interpolation", "the check of the images at the ends of the interpolations")
    mode = spec_of(run).get("mode", "linear")
    if images is not None and images.ndim == 5:
        names = [""] * len(images)
        if pairs is not None and len(pairs) == len(images):
            names = [str(row["class_name"] or "") for row in rows_of(pairs)]
        alt = f"{images.shape[0]} rows of {images.shape[1]} images, each row from one real image to another."
        caption = (
            f"{mode} interpolation in the latent variables of all levels. The two ends of a row are real test images."
        )
        caption = caption[0].upper() + caption[1:]
        blocks.append(Pictures([png_picture(image_rows(images, names, ""), f"{name}-interpolation", alt, caption)]))
    error, bad = run.data.metrics.get("end_error", math.nan), run.data.metrics.get("non_finite", 0)
    if pairs is not None and math.isfinite(error):
        levels = None if model.training is None else 2 ** bits_of(model.training)
        text = tables.ends_sentence(error, int((~pairs["ends_exact"]).sum()), levels)
        text += f" {bad:.0f} images have pixels that are not finite." if bad else ""
        blocks.insert(0, Text(text))
    return Section("Interpolation", anchor, [*blocks, *reader.notes()])


def ood_section(model: Model, reader: Reader, anchor: str, name: str) -> tuple[Section | None, list[str]]:
    """Return the section and the sentences for the summary; the section is None if the model has not been tested."""
    run = model.evaluations.get("ood")
    if run is None:
        return None, []
    blocks: list[Block] = [Text(_ood_settings(run))]
    said: list[str] = []
    table = reader.table(run, "ood", "the shares of batches called OOD")
    if table is not None:
        rows = rows_of(table)
        own = _own(run, rows)
        recommended = run.data.tags.get(tag_names.RECOMMENDED)
        judges = list(dict.fromkeys(["typicality", recommended or "typicality"]))
        blocks += [tables.share_table(rows, detector) for detector in judges]
        control = reader.table(run, "ood_control", "the control")
        if control is not None and not control.empty:
            blocks.append(Text(tables.control_sentence(rows_of(control), own, _alpha(run), judges)))
        blocks += _figures(run, reader, own, name)
        if recommended is not None:
            blocks.append(Text(RECOMMENDED.format(recommended)))
        blocks.append(tables.auroc_table(rows))
        said = _in_short(rows, own)
    return Section("Out-of-distribution test", anchor, [*blocks, *reader.notes()]), said


def _ood_settings(run: Run) -> str:
    spec = spec_of(run)
    protocol, bootstraps = spec.get("protocol", "held-out"), spec.get("bootstraps") or 10_000
    return tables.settings_sentence(protocol, _alpha(run), bootstraps, spec.get("repeats") or 1)


def _alpha(run: Run) -> float:
    return float(spec_of(run).get("alpha", 0.99))


def _own(run: Run, rows: Sequence[Row]) -> str:
    """Return the model's own data set, as the tables name it; it is their first one."""
    label = dataset_label(dataset_of(run) or "")
    return label if any(row["dataset"] == label for row in rows) else str(rows[0]["dataset"])


def _in_short(rows: Sequence[Row], own: str) -> list[str]:
    rows = [row for row in rows if row["detector"] == "typicality"]
    sizes = sorted({row["batch_size"] for row in rows})
    chosen = list(dict.fromkeys([sizes[0], 10 if 10 in sizes else sizes[-1]]))
    sentences = []
    for m in chosen:
        ratios = {str(row["dataset"]): row["ratio"] for row in rows if row["batch_size"] == m}
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


def _figures(run: Run, reader: Reader, own: str, name: str) -> Iterator[Block]:
    alpha = _alpha(run)
    pictures: list[Picture] = []
    power = reader.table(run, "ood_power", "the chart of OOD shares against M")
    if power is not None and not power.empty:
        figure = ood_ratio_curve(power, f"Typicality test of a model trained on {own}", alpha, own)
        figure.axes[0].set_ylabel("batches called OOD (%)")  # shorter, as the caption explains the bands
        caption = "Share of batches called OOD against the number M of images per batch, with 95 % bands."
        pictures.append(svg_picture(figure, f"{name}-ood-ratio", _power_alt(power), caption))
    histogram = reader.content(run, "nll_histogram.png", "the histogram of likelihoods")
    if histogram is not None:
        alt = "Histogram of bits/dim of test images, with one curve per data set."
        caption = "Distribution of the bits/dim of single test images, one curve per data set."
        pictures.append(Picture(f"{name}-ood-nll.png", histogram, alt, caption))
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
        pictures.append(svg_picture(figure, f"{name}-classes-{dataset}", f"{alt}.", caption))
    if pictures:
        yield Pictures(pictures)
    if passing := tables.passing(classes, own):
        yield Text(tables.passing_sentence(passing))


def benchmark_section(material: Material, reader: Reader, anchor: str) -> Section | None:
    """Return the section with one table of the AUROCs of several models; None if fewer than two pairs were tested.

    A pair is a data set that a model was trained on, and another that the model was tested on. The table has one row
    for each model of each pair, from the newest test of single images.
    """
    tests = [
        (f"{dataset_label(study.dataset)} → {tested}", model, run, known)
        for study in material.studies
        for model in study.models
        for tested, (run, known) in _single_images(study, model, reader).items()
    ]
    pairs = list(dict.fromkeys(pair for pair, *_ in tests))
    if len(pairs) < 2:
        return None
    detectors = list(dict.fromkeys(detector for *_, known in tests for detector in known))
    rows: list[list[tables.Cell | str]] = []
    for pair, model, run, known in sorted(tests, key=lambda test: pairs.index(test[0])):
        nll = math.nan if model.training is None else model.training.data.metrics.get(metric_names.TEST, math.nan)
        cells = [tables.auroc(known.get(detector)) for detector in detectors]
        recommended = run.data.tags.get(tag_names.RECOMMENDED, "-")
        rows.append([pair, model.name, bits(nll), *cells, recommended])
    rows += _means_over_trainings(tests, detectors)
    about = (
        "An AUROC measures how well a detector separates single images of one data set (tested on) from test images of "
        "the data set that the model was trained on. 1 means perfect separation, 0.5 means chance. The interval of a "
        "mean over trainings covers other trainings, which differ in their seed, on the same images."
    )
    head = ["trained on → tested on", "model", "test bits/dim", *detectors, "recommended detector"]
    caption = "AUROC of each detector for single images (M=1), by model."
    table = tables.Table(caption, head, rows, [tables.AUROC_NOTE], left=2)
    return Section("Out-of-distribution benchmark", anchor, [Text(about), table])


def _means_over_trainings(
    tests: Sequence[tuple[str, Model, Run, dict[str, Row]]], detectors: Sequence[str]
) -> Iterator[list[tables.Cell | str]]:
    """Yield for each pair a row with the mean over those models that differ in nothing but their seed, if several."""
    groups: dict[tuple[str, str], list[tuple[str, dict[str, Row]]]] = {}
    for pair, model, _, known in tests:
        if model.training is not None:
            groups.setdefault((pair, apart_from_seed(spec_of(model.training))), []).append((model.name, known))
    for (pair, _), group in groups.items():
        if len(group) > 1:
            means = over_trainings([pd.DataFrame(list(known.values())) for _, known in group])
            of_detector = {row["detector"]: row for row in rows_of(means)}
            cells = [tables.auroc(of_detector.get(detector)) for detector in detectors]
            yield [pair, f"mean over {len(group)} trainings such as {group[0][0]}", "-", *cells, "-"]


def _single_images(study: Study, model: Model, reader: Reader) -> dict[str, tuple[Run, dict[str, Row]]]:
    """Return for each data set of single images the newest run that tested it, and its results by detector."""
    found: dict[str, tuple[Run, dict[str, Row]]] = {}
    for run in model.ood_tests:
        table = reader.table(run, "ood", "its row in the benchmark")
        rows = [] if table is None else [row for row in rows_of(table) if row["batch_size"] == 1]
        shown = tables.detectors_of(rows)
        by_set: dict[str, dict[str, Row]] = {}
        for row in rows:
            if row["detector"] in shown and row["dataset"] != _own(run, rows):
                by_set.setdefault(str(row["dataset"]), {})[row["detector"]] = row
        found = {name: (run, known) for name, known in by_set.items()} | found
    return found
