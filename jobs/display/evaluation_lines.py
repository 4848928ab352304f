"""The events of an evaluation as lines and tables of text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from jobs.display.evaluation_events import Absent, Evaluating, Interpolation, Nll, Ood, Samples, Scored
from jobs.display.events import Event
from jobs.display.rows import NllBound, OodControl, OodRatio
from jobs.text import count, text_table

__all__ = ["EVALUATION_LINES"]

BY_LEVEL = ("log_prior_", "log_det_")
"""Prefixes of detectors of a single level, which are in the CSV tables but not on the screen."""


def evaluating_line(event: Evaluating) -> str:
    """Return the kind of evaluation, the model, and the id of the evaluation's run."""
    return f"{event.job} of model {event.model!r}, run {event.run_id}"


def scored_line(event: Scored) -> str:
    """Return the number of images that have been scored."""
    bad = f" ({event.non_finite:,} with a score that is not finite)" if event.non_finite else ""
    known = f" (scored by run {event.from_run})" if event.from_run else ""
    by = f" by the background model {event.background_model}" if event.background_model else ""
    return f"scored {event.dataset} {event.split}{by}: {event.images:,} images{bad}{known}"


def nll_lines(event: Nll) -> str:
    """Return the tables of bits/dim by data set and by class, and where the results are."""
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
        f"bound from {bounds[0].noise_samples} noise samples",
        "bits/dim",
        "95 % interval",
        "below the bound from one sample by",
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
    """Return the number of samples, their temperatures, and where they are."""
    temperatures = ", ".join(f"{temperature:g}" for temperature in event.temperatures)
    at = "temperature" if len(event.temperatures) == 1 else "each of the temperatures"
    drawn = f"{count(event.images, 'sample')} at {at} {temperatures}"
    return f"{drawn}{_not_finite(event)}\n" + _where(event, *event.pictures)


def interpolation_lines(event: Interpolation) -> str:
    """Return the number of rows, whether their ends are the real images, and where the picture is."""
    if event.inexact_rows:
        ends = (
            f"the ends of {count(event.inexact_rows, 'row')} are NOT the real images: the model's inverse is off by up "
            f"to {event.end_error:.3g} of {2**event.bits} grey levels"
        )
    else:
        of = "" if event.bits == 8 else f", reduced to {event.bits} bits"
        ends = (
            f"all ends equal the real images{of}: before rounding they are off by at most {event.end_error:.2g} grey "
            "levels"
        )
    rows = f"{count(event.pairs, 'row')} of {event.steps} images, {event.mode} interpolation"
    return f"{rows}; {ends}{_not_finite(event)}\n" + _where(event, event.picture)


def _not_finite(event: Samples | Interpolation) -> str:
    """Return the line on images with pixels that are not finite, after a line break; empty if there are none."""
    if not event.non_finite:
        return ""
    verb = "has" if event.non_finite == 1 else "have"
    have = f"\n{count(event.non_finite, 'image')} {verb} pixels that are not finite"
    if (event.coupling, event.scale) != ("affine", "sigmoid"):
        return have
    return (
        f"{have}: the inverse of a coupling with --scale sigmoid divides by numbers without a lower bound; train with "
        "--scale floored, which makes such pixels less likely"
    )


def ood_lines(event: Ood) -> str:
    """Return the text that shows the result of an OOD test.

    The text contains the share of batches of each data set that the typicality test and the recommended detector call
    OOD, the AUROC of each detector, the recommended detector and its AUROCs with their intervals, the classes that are
    called OOD least often, the batch size at which each corruption is detected, and the control: whether the two
    detectors call batches of the model's own test images OOD about as often as intended.
    """
    rows = event.rows
    sizes = sorted({row.batch_size for row in rows})
    names = list(dict.fromkeys(row.dataset for row in rows))
    detectors = [name for name in dict.fromkeys(row.detector for row in rows) if not name.startswith(BY_LEVEL)]
    by = {(row.detector, row.dataset, row.batch_size): row for row in rows}
    ratios: list[list[str]] = []
    for detector in judges(event):
        ratios.append([f"OOD ratio of {detector}, %", *(f"M={m}" for m in sizes)])
        ratios += [[name, *(_ratio(by[detector, name, m]) for m in sizes)] for name in names]
    batches = ["batches of " + event.in_distribution]
    batches += [str(by["typicality", event.in_distribution, m].batches) for m in sizes]
    aurocs = [["AUROC", *detectors]]
    for name in names:
        if name != event.in_distribution:
            aurocs += [[f"{name} M={m}", *(f"{by[d, name, m].auroc:.4f}" for d in detectors)] for m in sizes]
    about = (
        f"OOD tests with protocol {event.protocol}, alpha {event.alpha:g}, "
        f"{event.bootstraps:,} bootstraps, {count(event.repeats, 'repeat')}; OOD ratio: the share of batches of M "
        "images that are called out-of-distribution, with 95 % intervals in brackets"
    )
    parts = [f"{about}\n{text_table([*ratios, batches])}", text_table(aurocs)]
    if event.passing:
        listed = ", ".join(f"{row.dataset} {row.class_name} {100 * row.ratio:.0f} %" for row in event.passing)
        parts.append(f"classes that are called OOD least often, at M={event.passing[0].batch_size}: {listed}")
    if event.recommended is not None:
        parts.append(_recommended(event))
    if event.caught:
        parts.append(_caught(event))
    parts.append(_control(event))
    return "\n\n".join([*parts, _where(event, event.place)])


def judges(event: Ood) -> list[str]:
    """Return the detectors whose decisions are shown: typicality, and the recommended one if it is another."""
    return list(dict.fromkeys(["typicality", *([event.recommended] if event.recommended else [])]))


def _recommended(event: Ood) -> str:
    head = f"recommended detector: {event.recommended}, which detects corrupted held-out images best on average"
    by = {(row.detector, row.dataset, row.batch_size): row for row in event.rows}
    rows = [["AUROC with 95 % interval", str(event.recommended), "best in hindsight"]]
    for row in event.regret:
        chosen, best = (by[name, row.dataset, row.batch_size] for name in (row.detector, row.best_detector))
        rows.append([f"{row.dataset} M={row.batch_size}", _auroc(chosen), f"{_auroc(best)} {row.best_detector}"])
    return f"{head}\n{text_table(rows)}" if event.regret else head


def _auroc(row: OodRatio) -> str:
    return f"{row.auroc:.4f} ({row.auroc_low:.4f}-{row.auroc_high:.4f})"


def _caught(event: Ood) -> str:
    most = max(row.batch_size for row in event.rows)
    severities = range(1, 1 + max(len(row.batch_sizes) for row in event.caught))
    rows = [["corruption, detected from M", *(f"severity {severity}" for severity in severities)]]
    rows += [[row.corruption, *(f"> {most}" if m is None else str(m) for m in row.batch_sizes)] for row in event.caught]
    return text_table(rows)


def _control(event: Ood) -> str:
    nominal = 100 * (1 - event.alpha)
    own = event.in_distribution
    shown = judges(event)
    odd = [row for row in event.control if row.detector in shown and not row.as_expected]
    called = f"batches of test images of {own} itself are called OOD"
    if not odd:
        return f"control passed: {called} about as often as they should be, {nominal:.3g} %, by {' and '.join(shown)}"
    rates = ", ".join(f"{_share(row)} % at M={row.batch_size} by {row.detector}" for row in odd)
    return (
        f"control FAILED: {called} at {rates}, where {nominal:.3g} % is nominal. These images differ from those that "
        "the thresholds come from, so read the other ratios with this in mind. --center validation removes what "
        "training contributes to the difference"
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
