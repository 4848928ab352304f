"""The section that lists the runs of a report and what each cost: time, processors and GPUs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from jobs.report.blocks import Block, Cell, Link, Section, Table, Text
from jobs.report.gather import Material
from jobs.report.run_facts import dataset_of, job_of
from jobs.text import count, duration
from jobs.tracking import open_command, page_of

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = ["costs_section"]

METRICS = ("images_per_second_median", "core_seconds", "gpu_seconds", "parameters")
"""Metrics of a run that are shown, in the order of the columns."""


def costs_section(material: Material, anchor: str) -> Section:
    """Return the section with one row per run: a link to the MLflow UI, the duration, and the resources used.

    Args:
        material: the runs of the report.
        anchor: target of links to the section, unique in the report.
    """
    runs = material.runs
    gpus = any(run.data.metrics.get("gpu_seconds", 0) > 0 for run in runs)
    several = len(material.studies) > 1
    head = ["run and its id", "job", *(["data set"] if several else []), "start (UTC)", "duration", "images/s"]
    left = 4 if several else 3
    head += ["core-seconds", *(["GPU-seconds"] if gpus else []), "parameters"]
    rows = [_row(run, material.uri, several, gpus) for run in runs]
    caption = (
        "All runs of this report, the oldest first. Durations are in m:ss or h:mm:ss, images/s is the median speed "
    )
    caption += "of a training, and a dash marks what a job does not measure."
    served = any(page_of(material.uri, run) for run in runs)
    where = "The names in the table link to the runs in the MLflow UI."
    if not served:
        where = f"To see the runs in the MLflow UI, use {open_command(material.uri)}"
    blocks: list[Block] = [Text(f"{_totals(runs)} {where}"), Table(caption, head, rows, left=left)]
    return Section("Runs and their costs", anchor, blocks)


def _row(run: Run, uri: str, several: bool, gpus: bool) -> list[Cell]:
    began = datetime.fromtimestamp(run.info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    state = "" if run.info.status == "FINISHED" else f" ({run.info.status.lower()})"
    figures = [_number(run.data.metrics.get(name, math.nan)) for name in METRICS if gpus or name != "gpu_seconds"]
    return [
        Link(run.info.run_name, page_of(uri, run), run.info.run_id),
        job_of(run) + state,
        *([dataset_of(run) or "-"] if several else []),
        began,
        duration(seconds_of(run)),
        *figures,
    ]


def seconds_of(run: Run) -> float:
    """Return the duration of a run in seconds.

    When a training finishes, it records its own duration, counted from its last resume. For any other run, the duration
    is the time from start to end. It is NaN while the run is RUNNING, because a resumed run still has its earlier end
    time in MLflow.
    """
    measured = run.data.metrics.get("seconds", math.nan)
    if math.isnan(measured) and run.info.end_time is not None and run.info.status != "RUNNING":
        return float(run.info.end_time - run.info.start_time) / 1000
    return float(measured)


def _number(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "-"


def _totals(runs: Sequence[Run]) -> str:
    trainings = [run for run in runs if job_of(run) == "train"]
    seconds = sum(value for run in trainings if math.isfinite(value := seconds_of(run)))
    words = f"This report covers {count(len(runs), 'run')}, including {count(len(trainings), 'training')}."
    if not trainings:
        return words
    words += f" The durations of the trainings add up to {duration(seconds)}"
    used = []
    for name, unit in (("core_seconds", "core-seconds"), ("gpu_seconds", "GPU-seconds")):
        total = sum(value for run in trainings if math.isfinite(value := run.data.metrics.get(name, math.nan)))
        used += [f"{total:,.0f} {unit}"] if total > 0 else []
    return f"{words}{', and they used ' + ' and '.join(used) + ' as far as that is recorded' if used else ''}."
