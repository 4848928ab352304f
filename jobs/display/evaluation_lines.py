"""What an evaluation says on the screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from jobs.display.evaluation_events import Absent, Evaluating, Interpolation, Nll, Ood, Samples, Scored
from jobs.display.events import Event
from jobs.display.rows import NllBound, OodControl, OodRatio
from jobs.text import text_table

__all__ = ["EVALUATION_LINES"]

BY_LEVEL = ("log_prior_", "log_det_")
"""Detectors of one level's column, which are in the tables alone."""


def evaluating_line(event: Evaluating) -> str:
    return f"{event.job}: {event.model}, run {event.run_id}"


def scored_line(event: Scored) -> str:
    bad = f", {event.non_finite} of them not finite" if event.non_finite else ""
    known = f" (scored by run {event.from_run})" if event.from_run else ""
    return f"scored {event.dataset} {event.split}: {event.images} images{bad}{known}"


def nll_lines(event: Nll) -> str:
    head = ["bits/dim", "mean", "95 % interval", "median", "per original pixel", "images", "not finite"]
    rows = [
        [
            f"{row.dataset} {event.split}",
            _number(row.bits_per_dim),
            f"{_number(row.bits_per_dim_low)} to {_number(row.bits_per_dim_high)}",
            _number(row.bits_per_dim_median),
            _number(row.bits_per_dim_original),
            str(row.images),
            str(row.non_finite),
        ]
        for row in event.rows
    ]
    classes = [
        [
            f"{row.dataset}: {row.class_name}",
            _number(row.bits_per_dim),
            f"{_number(row.bits_per_dim_low)} to {_number(row.bits_per_dim_high)}",
            _number(row.bits_per_dim_median),
            str(row.images),
        ]
        for row in event.per_class
    ]
    per_class = text_table([["by class", "mean", "95 % interval", "median", "images"], *classes])
    tables = [text_table([head, *rows]), *([_bounds(event.bounds)] if event.bounds else []), per_class]
    return "\n\n".join([*tables, _where(event, event.place)])


def _bounds(bounds: Sequence[NllBound]) -> str:
    head = [
        f"bound of {bounds[0].noise_samples} noise samples",
        "bits/dim",
        "95 % interval",
        "lower than one sample's by",
    ]
    rows = [
        [
            row.dataset,
            _number(row.bits_per_dim),
            f"{_number(row.bits_per_dim_low)} to {_number(row.bits_per_dim_high)}",
            f"{row.gain:.4f} ({row.gain_low:.4f} to {row.gain_high:.4f})",
        ]
        for row in bounds
    ]
    return text_table([head, *rows])


def samples_lines(event: Samples) -> str:
    temperatures = ", ".join(f"{temperature:g}" for temperature in event.temperatures)
    return f"{event.images} samples at temperature {temperatures}\n" + _where(event, *event.pictures)


def interpolation_lines(event: Interpolation) -> str:
    if event.inexact_rows:
        ends = (
            f"the ends of {event.inexact_rows} rows are NOT the real images: the inverse is off by up to "
            f"{event.end_error:.3g} grey levels of {2**event.bits}"
        )
    else:
        of = "" if event.bits == 8 else f" at {event.bits} bits"
        ends = f"all ends equal the real images{of}: off by at most {event.end_error:.2g} grey levels before rounding"
    bad = f"\n{event.non_finite} images have pixels that are not finite" if event.non_finite else ""
    if bad and event.scale == "sigmoid":
        bad += ": the inverse of sigmoid scales has no bound; a model trained with --scale floored has one"
    return f"{event.pairs} rows of {event.steps} images, {event.mode}; {ends}{bad}\n" + _where(event, event.picture)


def ood_lines(event: Ood) -> str:
    """The report's table, the comparison of detectors, and what the negative control says."""
    rows = event.rows
    sizes = sorted({row.batch_size for row in rows})
    names = list(dict.fromkeys(row.dataset for row in rows))
    detectors = [name for name in dict.fromkeys(row.detector for row in rows) if not name.startswith(BY_LEVEL)]
    by = {(row.detector, row.dataset, row.batch_size): row for row in rows}
    ratios = [["OOD ratio, %", *(f"M={m}" for m in sizes)]]
    for name in names:
        ratios.append([name, *(_ratio(by["typicality", name, m]) for m in sizes)])
    batches = ["batches of " + event.in_distribution]
    batches += [str(by["typicality", event.in_distribution, m].batches) for m in sizes]
    aurocs = [["AUROC", *detectors]]
    for name in names:
        if name != event.in_distribution:
            aurocs += [[f"{name} M={m}", *(f"{by[d, name, m].auroc:.4f}" for d in detectors)] for m in sizes]
    about = (
        f"typicality test, protocol {event.protocol}, alpha {event.alpha:g}, {event.bootstraps} bootstraps, "
        f"{event.repeats} repeat{'s' if event.repeats > 1 else ''}; in brackets 95 % intervals"
    )
    parts = [f"{about}\n{text_table([*ratios, batches])}", text_table(aurocs)]
    if event.passing:
        listed = ", ".join(f"{row.dataset} {row.class_name} {100 * row.ratio:.0f} %" for row in event.passing)
        parts.append(f"classes that are told least often, at M={event.passing[0].batch_size}: {listed}")
    if event.recommended is not None:
        parts.append(_recommended(event))
    if event.caught:
        parts.append(_caught(event))
    parts.append(_control(event))
    return "\n\n".join([*parts, _where(event, event.place)])


def _recommended(event: Ood) -> str:
    head = f"recommended detector: {event.recommended}, which tells corrupted held-out images best on average"
    rows = [["AUROC", str(event.recommended), "best in hindsight"]]
    for row in event.regret:
        best = f"{row.best_auroc:.4f} {row.best_detector}"
        rows.append([f"{row.dataset} M={row.batch_size}", f"{row.auroc:.4f}", best])
    return f"{head}\n{text_table(rows)}" if event.regret else head


def _caught(event: Ood) -> str:
    most = max(row.batch_size for row in event.rows)
    severities = range(1, 1 + max(len(row.batch_sizes) for row in event.caught))
    rows = [["least M that catches", *(f"severity {severity}" for severity in severities)]]
    rows += [[row.corruption, *(f"> {most}" if m is None else str(m) for m in row.batch_sizes)] for row in event.caught]
    return text_table(rows)


def _control(event: Ood) -> str:
    nominal = 100 * (1 - event.alpha)
    own = event.in_distribution
    odd = [row for row in event.control if row.detector == "typicality" and not row.as_expected]
    if not odd:
        return f"control: test images of {own} itself are called OOD about as often as they should be, {nominal:.3g} %"
    rates = ", ".join(f"{_share(row)} % at M={row.batch_size}" for row in odd)
    return (
        f"control FAILED: test images of {own} itself are called OOD at {rates}, where {nominal:.3g} % is nominal: "
        "they differ from those that the thresholds come from, so read the other ratios with this in mind (--center "
        "validation takes out what training added)"
    )


def _ratio(row: OodRatio) -> str:
    spread = f" ± {100 * row.ratio_sd:.2f}" if math.isfinite(row.ratio_sd) else ""
    return _share(row, spread)


def _share(row: OodRatio | OodControl, spread: str = "") -> str:
    return f"{100 * row.ratio:.2f}{spread} ({100 * row.ratio_low:.1f}-{100 * row.ratio_high:.1f})"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "inf" if value == math.inf else "-"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"


def _where(event: Nll | Samples | Interpolation | Ood, *places: str) -> str:
    results = "".join(f"results   {place}\n" for place in places)
    return f"{results}run       {event.run_id}; to see it: {event.open_with}"


EVALUATION_LINES: dict[type[Event], Callable[[Any], str]] = {
    Evaluating: evaluating_line,
    Absent: lambda event: str(event.message),
    Scored: scored_line,
    Nll: nll_lines,
    Samples: samples_lines,
    Interpolation: interpolation_lines,
    Ood: ood_lines,
}
