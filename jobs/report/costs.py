"""The runs that a report is made of, and what each cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from jobs.report.blocks import Block, Cell, Link, Section, Table, Text
from jobs.report.gather import Material, dataset_of, job_of
from jobs.text import duration
from jobs.tracking import open_command, page_of

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = ["costs_section"]

METRICS = ("images_per_second_median", "core_seconds", "gpu_seconds", "parameters")


def costs_section(material: Material, anchor: str) -> Section:
    """A row a run: where it is in the UI, how long it took, and what it used."""
    runs = material.runs
    gpus = any(run.data.metrics.get("gpu_seconds", 0) > 0 for run in runs)
    several = len(material.studies) > 1
    head = ["run and its id", "job", *(["data set"] if several else []), "began (UTC)", "h:mm:ss", "images/s"]
    left = 4 if several else 3
    head += ["core-seconds", *(["GPU-seconds"] if gpus else []), "parameters"]
    rows = [_row(run, material.uri, several, gpus) for run in runs]
    caption = "Runs, the oldest first. A dash stands for what a job does not measure."
    served = any(page_of(material.uri, run) for run in runs)
    where = "The names lead to the runs in the MLflow UI."
    if not served:
        where = f"To see the runs in the MLflow UI: {open_command(material.uri)}"
    blocks: list[Block] = [Text(f"{_totals(runs)} {where}"), Table(caption, head, rows, left=left)]
    return Section("Runs and what they cost", anchor, blocks)


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
    """A training's own measure, which does not count what was before a resume, else from its start to its end. NaN for
    one that runs: if it was resumed, it still has the end that it had before."""
    measured = run.data.metrics.get("seconds", math.nan)
    if math.isnan(measured) and run.info.end_time is not None and run.info.status != "RUNNING":
        return float(run.info.end_time - run.info.start_time) / 1000
    return float(measured)


def _number(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "-"


def _totals(runs: Sequence[Run]) -> str:
    trainings = [run for run in runs if job_of(run) == "train"]
    seconds = sum(value for run in trainings if math.isfinite(value := seconds_of(run)))
    words = f"{len(runs)} runs, of which {len(trainings)} trainings that took {duration(seconds)} one after the other"
    used = []
    for name, unit in (("core_seconds", "core-seconds"), ("gpu_seconds", "GPU-seconds")):
        total = sum(value for run in trainings if math.isfinite(value := run.data.metrics.get(name, math.nan)))
        used += [f"{total:,.0f} {unit}"] if total > 0 else []
    return f"{words}{' (' + ' and '.join(used) + ' where that is recorded)' if used else ''}."
