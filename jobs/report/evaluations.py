"""The sections for a model's evaluations: likelihoods of data sets, samples, and interpolations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from glow.figures import image_rows
from jobs.report.blocks import Block, Picture, Pictures, Section, Table, Text
from jobs.report.gather import Model
from jobs.report.pictures import grid, photographed, recorded
from jobs.report.reader import Reader
from jobs.report.run_facts import bits_of, spec_of
from jobs.text import bits, rows_of

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = ["interpolation_section", "nll_section", "samples_section"]

PREFERRED_TEMPERATURE = 0.7
"""Temperature of the samples in the course report; the recorded temperature nearest to it is shown."""

SWEEP = 12
"""The most images per temperature in the picture that compares temperatures."""


def nll_section(model: Model, reader: Reader, anchor: str, name: str) -> Section | None:
    """Return the section with the bits/dim of whole data sets under the model, or None without an NLL run.

    Args:
        model: the model.
        reader: reader of its artifacts.
        anchor: target of links to the section, unique in the report.
        name: start of the file names of the section's pictures.
    """
    run = model.evaluations.get("nll")
    if run is None:
        return None
    blocks: list[Block] = []
    table = reader.table(run, "nll", "the table of likelihoods")
    split = spec_of(run).get("split", "test")
    if table is not None:
        head = ["data set", "mean bits/dim", "95 % interval", "median", "mean before padding", f"{split} images"]
        rows = [
            [
                str(row["dataset"]),
                bits(row["bits_per_dim"]),
                f"{bits(row['bits_per_dim_low'])} to {bits(row['bits_per_dim_high'])}",
                bits(row["bits_per_dim_median"]),
                bits(row["bits_per_dim_original"]),
                f"{row['images']:,}" + (f" ({row['non_finite']} scores not finite)" if row["non_finite"] else ""),
            ]
            for row in rows_of(table)
        ]
        caption = (
            f"Negative log-likelihood (NLL) of {split} images under the model, in bits/dim; lower is more likely. The "
        )
        caption += "interval is that of the mean. The mean before padding is in bits per value of the unpadded images; "
        caption += "there is none unless all images had one size and were padded."
        blocks.append(Table(caption, head, rows))
    content = reader.content(run, "nll_histogram.png", "the histogram of likelihoods")
    if content is not None:
        alt = "Histogram of bits/dim with one curve per data set."
        caption = f"Distribution of the bits/dim of single {split} images, one curve per data set."
        blocks.append(Pictures([recorded(content, f"{name}-nll", alt, caption)]))
    return Section("Likelihood of whole data sets", anchor, [*blocks, *reader.notes()])


def samples_section(model: Model, reader: Reader, anchor: str, name: str) -> Section | None:
    """Return the section with images that the model drew, or None if there are none.

    From a run of ``glowctl sample``, the section shows a grid of images, and images from the same noise at several
    temperatures if the run had several. Without such a run, it shows the last samples of a finished training.

    Args:
        model: the model.
        reader: reader of its artifacts.
        anchor: target of links to the section, unique in the report.
        name: start of the file names of the section's pictures.
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
        pictures.append(grid(images, columns, f"{name}-samples", f"Grid of {len(images)} generated images.", caption))
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
    return photographed(figure, f"{name}-temperatures", alt, caption)


def _while_training(run: Run, reader: Reader, name: str) -> list[Picture]:
    if run.info.status != "FINISHED":
        return []
    content = reader.content(run, "samples.png", "the samples of the training")
    if content is None:
        return []
    temperature = spec_of(run).get("temperature", PREFERRED_TEMPERATURE)
    caption = f"The last samples that the training drew, at temperature {temperature:g}."
    return [recorded(content, f"{name}-samples", "Grid of generated images.", caption, pixels=True)]


def interpolation_section(model: Model, reader: Reader, anchor: str, name: str) -> Section | None:
    """Return the section with rows of images from one real image to another, or None without an interpolation run.

    Args:
        model: the model.
        reader: reader of its artifacts.
        anchor: target of links to the section, unique in the report.
        name: start of the file names of the section's pictures.
    """
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
        blocks.append(Pictures([photographed(image_rows(images, names, ""), f"{name}-interpolation", alt, caption)]))
    error, bad = run.data.metrics.get("end_error", math.nan), run.data.metrics.get("non_finite", 0)
    if pairs is not None and math.isfinite(error):
        exact = bool(pairs["ends_exact"].all())
        ends = f"{'All' if exact else 'NOT all'} images at the ends of the rows equal the real images"
        of = f" (of {2 ** bits_of(model.training)})" if model.training is not None else ""
        text = f"{ends}. Before rounding, their values differ by at most {error:.2g} grey levels{of}."
        text += f" {bad:.0f} images have pixels that are not finite." if bad else ""
        blocks.insert(0, Text(text))
    return Section("Interpolation", anchor, [*blocks, *reader.notes()])
