"""The tables and sentences of each result, which the screen, the record in MLflow and the report show alike.

Each function takes the rows of a result, as events and data frames (`glowctl.text.rows_of`) have them, and returns a
`Table` or a sentence. `as_text` and `as_markdown` turn any table into text; the report turns it into HTML.

In rows, the 95 % interval of a column ``x`` is in ``x_low`` and ``x_high``. M is the number of images per batch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from glowctl.specs.ablation import values_label
from glowctl.text import Row, bits, count, plain, rows_of, text_table

if TYPE_CHECKING:
    import pandas as pd

    from glowctl.display.events import Check

BY_LEVEL = ("log_prior_", "log_det_")
"""Prefixes of detectors of a single level, which only the tables in MLflow have."""

AUROC_NOTE = (
    "The 95 % interval of an AUROC is over samples of as many other test images of both data sets. It does not cover "
    "another training of the model. The batches of one M have no image in common, but those of different M consist of "
    "the same images."
)
"""How to read the intervals of AUROCs."""


MOST_SHAPES = 5
"""The most shapes of image files that a line names."""

MOST_PASSING = 5
"""The most classes that are listed as hard to detect."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table that has more than one text.

    Attributes:
        text: the main text, such as a number.
        below: a smaller text under it, such as its 95 % interval; a line of text has it in brackets.
        href: the address that `text` links to; None for no link.
    """

    text: str
    below: str = ""
    href: str | None = None

    def __str__(self) -> str:
        return f"{self.text} ({self.below})" if self.below else self.text


@dataclass(frozen=True)
class Table:
    """A table of a result.

    Attributes:
        caption: a sentence on what the table shows.
        head: headings of the columns.
        rows: cells, as many per row as there are headings. If the first cell of a row is empty, the row continues the
            one above it.
        notes: sentences on how to read the table. A document shows them, a screen does not.
        left: number of leading columns that hold words and are aligned to the left; the others hold numbers.
        prose: whether a document may wrap the words of a cell onto several lines.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    notes: Sequence[str] = ()
    left: int = 1
    prose: bool = False

    @property
    def description(self) -> str:
        """The caption and the notes."""
        return " ".join([self.caption, *self.notes])


def as_text(table: Table, below: bool = True) -> str:
    """Return a table as text with aligned columns, under its caption.

    Args:
        table: the table.
        below: whether to show the second texts of cells.

    Examples:
        >>> print(as_text(Table("Scores.", ["model", "AUROC"], [["1x1", Cell("0.98", "0.97-0.99")]])))
        Scores.
        model             AUROC
        1x1    0.98 (0.97-0.99)
    """
    rows = [[cell.text if isinstance(cell, Cell) and not below else str(cell) for cell in row] for row in table.rows]
    return f"{table.caption}\n{text_table([table.head, *rows], table.left)}"


def as_markdown(table: Table) -> str:
    r"""Return the rows of a table in Markdown, without its caption and its notes.

    Examples:
        >>> print(as_markdown(Table("Scores.", ["model", "AUROC"], [["a|b", Cell("0.98", "0.97-0.99")]])))
        | model | AUROC |
        | --- | ---: |
        | a\|b | 0.98 (0.97-0.99) |
    """
    head = [escaped(name) for name in table.head]
    rule = ["---" if column < table.left else "---:" for column in range(len(head))]
    lines = [head, rule, *([_markdown_cell(cell) for cell in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _markdown_cell(cell: Cell | str) -> str:
    if isinstance(cell, str) or cell.href is None:
        return escaped(str(cell))
    below = f" ({escaped(cell.below)})" if cell.below else ""
    return f"[{escaped(cell.text)}]({cell.href}){below}"


def escaped(text: str) -> str:
    r"""Return text such that Markdown shows it literally, whatever a run's name contains.

    Examples:
        >>> print(escaped("a*b | <c>"))
        a\*b \| &lt;c&gt;
    """
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", " ".join(safe.split()))


# Likelihoods.


def nll_table(rows: Iterable[Row], split: str) -> Table:
    """Return the table of the likelihoods of data sets.

    Args:
        rows: one row per data set, as the table ``nll``.
        split: the split that was scored.
    """
    return Table(
        f"Negative log-likelihood (NLL) of {split} images under the model, in bits/dim; lower is more likely.",
        ["data set", "mean bits/dim", "95 % interval", "median", "per original pixel", "images", "not finite"],
        [
            [
                *_likelihood(str(row["dataset"]), row),
                _bits(row["bits_per_dim_original"]),
                f"{row['images']:,}",
                str(row["non_finite"]),
            ]
            for row in rows
        ],
        [
            "The interval is that of the mean. Per original pixel is the mean in bits per value of the images before "
            "padding; there is none unless all images had one size and were padded."
        ],
    )


def class_table(rows: Iterable[Row]) -> Table:
    """Return the table of likelihoods by class, from the rows of the table ``nll_per_class``."""
    cells = [[*_likelihood(f"{row['dataset']}: {row['class_name']}", row), f"{row['images']:,}"] for row in rows]
    return Table("NLL by class, in bits/dim.", ["class", "mean", "95 % interval", "median", "images"], cells)


def _likelihood(name: str, row: Row) -> list[str]:
    interval = _interval(_bits(row["bits_per_dim_low"]), _bits(row["bits_per_dim_high"]))
    return [name, _bits(row["bits_per_dim"]), interval, _bits(row["bits_per_dim_median"])]


def bound_table(rows: Sequence[Row]) -> Table:
    """Return the table of importance-weighted bounds on the NLL, from the rows of the table ``nll_bound``."""
    cells = [
        [
            str(row["dataset"]),
            _bits(row["bits_per_dim"]),
            _interval(_bits(row["bits_per_dim_low"]), _bits(row["bits_per_dim_high"])),
            str(Cell(f"{row['gain']:.4f}", f"{row['gain_low']:.4f} to {row['gain_high']:.4f}")),
        ]
        for row in rows
    ]
    caption = f"Upper bound on the NLL from {rows[0]['noise_samples']} noise samples per image, in bits/dim."
    return Table(caption, ["data set", "bound", "95 % interval", "below the bound from one sample by"], cells)


# Interpolations.


def ends_sentence(end_error: float, inexact_rows: int, levels: int | None = None) -> str:
    """Return a sentence on whether the ends of interpolations are the real images.

    Args:
        end_error: the largest difference between a pixel of an end and of its real image, in grey levels.
        inexact_rows: number of rows with an end that, after rounding, is not equal to its real image.
        levels: number of grey levels of the model; None if it is not known.
    """
    of = "" if levels is None else f" of {levels}"
    if inexact_rows:
        rows = count(inexact_rows, "row")
        return (
            f"The ends of {rows} are NOT the real images: the inverse is off by up to {end_error:.3g}{of} grey levels."
        )
    reduced = f", reduced to {levels.bit_length() - 1} bits" if levels not in (None, 256) else ""
    return (
        f"All ends equal the real images{reduced}: before rounding they are off by at most {end_error:.2g} grey levels."
    )


# Out-of-distribution (OOD) tests.


def settings_sentence(protocol: str, alpha: float, bootstraps: int, repeats: int) -> str:
    """Return sentences on how an OOD test was made, from settings of ``glowctl ood``."""
    where = "images held out of training" if protocol == "held-out" else "half of the model's own test set"
    return (
        "A batch of M images is called out-of-distribution (OOD) by the typicality test if its mean NLL is too far "
        f"from that of the training images. How far was calibrated on {where}, so that a share alpha = {alpha:g} of "
        f"in-distribution batches should pass ({bootstraps:,} bootstraps, {count(repeats, 'repeat')})."
    )


def share_table(rows: Sequence[Row], detector: str = "typicality") -> Table:
    """Return the table of how often a detector calls batches OOD: one row per data set, one column per M.

    Args:
        rows: rows of the table ``ood``, as `glow.ood.OodResult.ratios` describes them.
        detector: name of the detector.
    """
    shown = [row for row in rows if row["detector"] == detector]
    sizes = _sizes(shown)
    cells = {(row["dataset"], row["batch_size"]): share(row) for row in shown}
    who = "the typicality test" if detector == "typicality" else f"the recommended detector, {detector},"
    repeated = any(math.isfinite(row["ratio_sd"]) for row in shown)
    return Table(
        f"Share of batches of M images that {who} calls OOD, in percent, with 95 % intervals.",
        ["data set", *(f"M={m}" for m in sizes)],
        [[str(name), *(cells.get((name, m), "-") for m in sizes)] for name in _datasets(shown)],
        ["A number after ± is the standard deviation over repeats."] if repeated else [],
    )


def share(row: Row) -> Cell:
    """Return a share of batches with its interval, in percent, and its standard deviation over repeats, if any.

    Examples:
        >>> row = {"ratio": 0.007, "ratio_low": 0.0055, "ratio_high": 0.0088, "ratio_sd": 0.001}
        >>> print(share(row), share(row | {"ratio_sd": math.nan}))
        0.70 ± 0.10 (0.55-0.88) 0.70 (0.55-0.88)
    """
    spread = f" ± {100 * row['ratio_sd']:.2f}" if math.isfinite(row.get("ratio_sd", math.nan)) else ""
    return Cell(f"{100 * row['ratio']:.2f}{spread}", f"{100 * row['ratio_low']:.2f}-{100 * row['ratio_high']:.2f}")


def auroc_table(rows: Sequence[Row]) -> Table:
    """Return the table of the AUROCs of all detectors: one row per data set and M, one column per detector.

    Args:
        rows: rows of the table ``ood``.
    """
    detectors = detectors_of(rows)
    known = {(row["detector"], row["dataset"], row["batch_size"]): row for row in rows}
    tested = {(row["dataset"], row["batch_size"]) for row in rows if math.isfinite(row["auroc"])}
    cells: list[list[Cell | str]] = []
    for name in _datasets(rows):
        for index, m in enumerate(m for m in _sizes(rows) if (name, m) in tested):
            aurocs = [auroc(known.get((detector, name, m))) for detector in detectors]
            cells.append(["" if index else str(name), str(m), *aurocs])
    caption = "AUROC with which each detector separates batches of a data set from batches of the model's own test set."
    return Table(caption, ["data set", "M", *detectors], cells, ["1 is perfect, 0.5 is chance.", AUROC_NOTE])


def group_table(rows: Sequence[Row]) -> Table:
    """Return the table of mean AUROCs over near and over far data sets, as `auroc_table`.

    Args:
        rows: rows of the table ``ood_groups``.
    """
    caption = "Mean AUROC over the data sets whose content is near to that of the model's, and over the far ones."
    return replace(auroc_table(rows), caption=caption)


def trainings_tables(rows: Iterable[Row]) -> list[Table]:
    """Return for each model the table of its mean AUROCs over trainings: a row per detector, a column per data set.

    Args:
        rows: rows of `glowctl.display.events.OodTrainings`.
    """
    of_model: dict[str, list[Row]] = {}
    for row in rows:
        of_model.setdefault(str(row["model"]), []).append(row)
    return [_trainings_table(model, found) for model, found in of_model.items()]


def _trainings_table(model: str, rows: Sequence[Row]) -> Table:
    known = {(row["detector"], row["dataset"], row["batch_size"]): row for row in rows}
    columns = list(dict.fromkeys((str(row["dataset"]), row["batch_size"]) for row in rows))
    cells = [
        [detector, *(auroc(known.get((detector, *column))) for column in columns)] for detector in detectors_of(rows)
    ]
    trainings = rows[0]["trainings"]
    mean = f"mean over {trainings} trainings, with 95 % t intervals that cover other trainings on the same images"
    caption = f"AUROC of {model}, {mean if trainings > 1 else 'one training'}."
    return Table(caption, ["detector", *(f"{name} M={m}" for name, m in columns)], cells)


def detectors_of(rows: Iterable[Row]) -> list[str]:
    """Return the names of the detectors in rows of the table ``ood``, without those of a single level."""
    names = dict.fromkeys(str(row["detector"]) for row in rows)
    return [name for name in names if not name.startswith(BY_LEVEL)]


def auroc(row: Row | None) -> Cell | str:
    """Return an AUROC with its interval, if that is known; a dash if there is no AUROC.

    Examples:
        >>> print(auroc({"auroc": 0.97123, "auroc_low": 0.96, "auroc_high": 0.98}))
        0.9712 (0.9600-0.9800)
    """
    if row is None or not math.isfinite(row["auroc"]):
        return "-"
    interval = f"{row['auroc_low']:.4f}-{row['auroc_high']:.4f}" if math.isfinite(row["auroc_low"]) else ""
    return Cell(f"{row['auroc']:.4f}", interval)


def regret_table(rows: Sequence[Row], regret: Sequence[Row], recommended: str) -> Table:
    """Return the table of what the recommendation of a detector costs, compared with the best detector in hindsight.

    Args:
        rows: rows of the table ``ood``.
        regret: rows as `glow.ood.regret` returns them.
        recommended: name of the recommended detector.
    """
    known = {(row["detector"], row["dataset"], row["batch_size"]): row for row in rows}
    cells: list[list[Cell | str]] = []
    for row in regret:
        names = row["detector"], row["best_detector"]
        chosen, best = (auroc(known[name, row["dataset"], row["batch_size"]]) for name in names)
        cells.append([f"{row['dataset']} M={row['batch_size']}", chosen, best, str(row["best_detector"])])
    return Table(
        f"Recommended detector: {recommended}, which detects corrupted held-out images best, on average over the kinds "
        "of corruption (with --encoder and --leave-out, these and held-out images of new classes); "
        "its AUROC and that of the detector which is best in hindsight.",
        ["tested on", recommended, "best in hindsight", "which is"],
        cells,
        ["These data sets had no part in the choice."],
    )


def caught_table(rows: Sequence[Row], largest: int) -> Table:
    """Return the table of the smallest M at which a detector notices each corruption.

    Args:
        rows: for each ``corruption`` the ``batch_sizes``, the smallest M by severity; None where none is large enough.
        largest: the largest M that was tested.
    """
    severities = range(1, 1 + max(len(row["batch_sizes"]) for row in rows))
    cells = [
        [str(row["corruption"]), *(f"> {largest}" if m is None else str(m) for m in row["batch_sizes"])] for row in rows
    ]
    return Table(
        "Smallest M at which the recommended detector calls 95 % of the batches of corrupted images OOD.",
        ["corruption", *(f"severity {severity}" for severity in severities)],
        cells,
    )


def passing(classes: pd.DataFrame, own: str) -> list[Row]:
    """Return the classes of other data sets that are called OOD least often, at the smallest M; at most `MOST_PASSING`.

    Args:
        classes: the table ``ood_per_class``, as `per_class` of `glow.ood.OodResult`.
        own: label of the model's own data set.
    """
    others = classes[(classes["dataset"] != own) & (classes["batch_size"] == classes["batch_size"].min())]
    several = others.groupby("dataset")["label"].transform("nunique") > 1
    return rows_of(others[several & (others["ratio_high"] < 1)].sort_values("ratio").head(MOST_PASSING))


def passing_sentence(classes: Sequence[Row]) -> str:
    """Return a sentence on the classes of other data sets that are called OOD least often."""
    listed = ", ".join(f"{row['dataset']} {row['class_name']} {100 * row['ratio']:.0f} %" for row in classes)
    return f"Classes of other data sets that are called OOD least often, at M={classes[0]['batch_size']}: {listed}."


def control_sentence(control: Iterable[Row], own: str, alpha: float, detectors: Iterable[str]) -> str:
    """Return a sentence on whether batches of the model's own test set are called OOD as often as intended.

    Args:
        control: rows of the table ``ood_control``.
        own: label of the model's own data set.
        alpha: the share of in-distribution batches that should pass.
        detectors: the detectors to report on.
    """
    nominal = f"{100 * (1 - alpha):.3g} %"
    shown = list(dict.fromkeys(detectors))
    odd = [row for row in control if row["detector"] in shown and not row["as_expected"]]
    if not odd:
        called = f"batches of test images of {own} itself are called OOD about as often as intended, {nominal}"
        return f"Control passed: {called}, by {' and '.join(shown)}."
    shares = (share(row) for row in odd)
    rates = ", ".join(
        f"{cell.text} % ({cell.below}) at M={row['batch_size']} by {row['detector']}"
        for cell, row in zip(shares, odd, strict=True)
    )
    return (
        f"Control FAILED: of batches of test images of {own} itself, {nominal} should be called OOD, but the share is "
        f"{rates}. These images differ from those on which the test was calibrated, so read the other shares with "
        "caution. --center validation removes what training contributes to the difference."
    )


# The check of a batch.


def verdict_sentence(event: Check) -> str:
    """Return a sentence on whether a batch belongs."""
    tests = ", ".join(f"{name} {value:.4g}" for name, value in event.p_values.items())
    smallest = f"the smallest of {tests}, times {len(event.p_values)}" if len(event.p_values) > 1 else f"by {tests}"
    verdict = "belongs" if event.belongs else "does NOT belong"
    relation = "above" if event.belongs else "not above"
    return (
        f"the batch of {count(event.images, 'image')} {verdict}: p = {event.p_value:.4g} is {relation} "
        f"{1 - event.alpha:.3g} ({smallest})"
    )


def image_sentences(event: Check) -> list[str]:
    """Return lines on the list of images that do not belong, and on images that are unusual before any score."""
    lines = [
        f"list      {count(event.flagged, 'image')} by {event.detector}, of which on average at most "
        f"{100 * event.fdr:.3g} % belong after all"
    ]
    if event.least_listed > 1:
        lines.append(
            f"          with {event.held_out:,} held-out images, the list stays empty unless at least "
            f"{event.least_listed:,} images are further out than all of these"
        )
    if event.unreadable:
        first = event.unreadable_images[0]
        lines.append(
            f"not read  {count(event.unreadable, 'image')}, such as {first['image']} ({first['reason']}); not judged"
        )
    shape = "x".join(map(str, event.image_shape))
    if event.shapes and set(event.shapes) != {shape}:
        others = ", ".join(f"{number:,} of {other}" for other, number in list(event.shapes.items())[:MOST_SHAPES])
        more = f" and {len(event.shapes) - MOST_SHAPES} more shapes" if len(event.shapes) > MOST_SHAPES else ""
        lines.append(f"shapes    {others}{more}; all were converted to {shape}")
    if event.non_finite:
        lines.append(f"not finite  the scores of {count(event.non_finite, 'image')}, which count as the furthest")
    return lines


def furthest_table(event: Check, most: int = 20) -> Table:
    """Return the table of the images that are furthest from the training data.

    Args:
        event: the verdict.
        most: largest number of images.
    """
    by = list(dict.fromkeys([event.detector, *event.p_values]))
    shown = event.furthest[:most]
    classes = any(row["class"] for row in shown)
    return Table(
        f"The {len(shown)} images that are furthest out, with their p-values; those on the list are marked.",
        ["image", *(["class"] if classes else []), "listed", "bits/dim", *(f"p {name}" for name in by)],
        [
            [
                str(row["image"]),
                *([str(row["class"])] if classes else []),
                "yes" if row["flagged"] else "no",
                _bits(row["bits_per_dim"]),
                *(f"{row[f'p_{name}']:.4g}" for name in by),
            ]
            for row in shown
        ],
        left=2 if classes else 1,
    )


def _datasets(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row["dataset"] for row in rows))


def _sizes(rows: Iterable[Row]) -> list[int]:
    return sorted({row["batch_size"] for row in rows})


# Ablations.


def configuration_table(configurations: Sequence[Row], axes: Sequence[str]) -> Table:
    """Return the table of the configurations of an ablation, which has GPU-seconds only if there are any.

    Args:
        configurations: rows as `glow.comparison.summarize` describes them.
        axes: the settings that vary.
    """
    costs = ["images_per_second", "parameters", "core_seconds"]
    costs += ["gpu_seconds"] if any(row["gpu_seconds"] > 0 for row in configurations) else []
    names = {"images_per_second": "images/s", "core_seconds": "core-seconds", "gpu_seconds": "GPU-seconds"}
    rows = []
    for row in configurations:
        missing = f" of {row['seeds'] + row['unfinished']}" if row["unfinished"] else ""
        rows.append(
            [
                values_label({axis: row[axis] for axis in axes}),
                bits(row["bits_per_dim"]),
                _interval(bits(row["bits_per_dim_low"]), bits(row["bits_per_dim_high"])),
                bits(row["best"]),
                bits(row["validation_bits_per_dim"]),
                f"{row['seeds']}{missing}",
                *(f"{row[name]:.0f}" if math.isfinite(row[name]) else "-" for name in costs),
            ]
        )
    head = ["configuration", "test bits/dim", "95 % interval", "best seed", "validation", "seeds"]
    return Table(
        "Test NLL of each configuration in bits/dim: the mean over seeds with a 95 % t interval, and the best seed.",
        [*head, *(names.get(name, name) for name in costs)],
        rows,
        ["The NLL of a trial is that of its best model by validation. The other figures are means over the seeds."],
    )


def difference_table(differences: Iterable[Row]) -> Table:
    """Return the table of paired differences, from rows as `glow.comparison.paired_differences` describes them."""
    rows = [
        [
            f"{row['factor']} {plain(row['a'])} - {plain(row['b'])}",
            _signed(row["difference"]),
            _interval(_signed(row["low"]), _signed(row["high"])),
            f"{row['p_holm']:.3f}" if math.isfinite(row["p_holm"]) else "-",
            str(row["seeds"]),
            str(row["configurations"]),
        ]
        for row in differences
    ]
    return Table(
        "Paired differences in test NLL (a minus b) in bits/dim, between trials of the same seed that differ in this "
        "setting only.",
        ["a - b", "difference", "95 % interval", "p (Holm)", "seeds", "configurations"],
        rows,
        ["The p-values are adjusted by Holm's method for the number of comparisons."],
    )


def _bits(value: float) -> str:
    return f"{value:.3g}" if 1000 <= abs(value) < math.inf else bits(value)


def _signed(value: float) -> str:
    return f"{value:+.3f}" if math.isfinite(value) else "-"


def _interval(low: str, high: str) -> str:
    return "-" if "-" in (low, high) else f"{low} to {high}"
