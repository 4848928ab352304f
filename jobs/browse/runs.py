"""`glowctl runs`: list the newest runs of a store with their results.

A terminal gets a coloured table, a pipe plain columns, and ``--json`` one JSON object per line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.browse.results import Result, result_of
from jobs.errors import SpecError
from jobs.specs.request import EVALUATIONS
from jobs.text import JsonObject, count, duration, json_text, text_table
from jobs.tracking import child_runs, tag_names, tracking_uri, without_password
from jobs.tracking.runs import JOB, TRIAL, experiment_names, newest_runs

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = ["JOBS", "Listed", "ago", "facts_of", "list_runs", "seconds_of", "trials_of"]

JOBS = ("train", "ablate", *EVALUATIONS, "report")
"""The jobs that ``--job`` takes."""

COLOURS = {"finished": "green", "running": "cyan", "failed": "red", "killed": "yellow"}
"""Status of a run -> the colour of its cell."""

ROOM_FOR_JOBS = 100
"""Width of a terminal from which the table has a column for the job; the names of most runs begin with it anyway."""


@dataclass(frozen=True)
class Listed:
    """A run of the list.

    Attributes:
        run: the run.
        experiment: name of its experiment.
        trials: its trials, the oldest first; empty unless it is an ablation.
        result: its result.
    """

    run: Run
    experiment: str
    trials: Sequence[Run]
    result: Result


def list_runs(
    given_uri: str | None, experiment: str | None, jobs: str | None, limit: int, trials: bool, as_json: bool
) -> None:
    """Print the newest runs.

    Args:
        given_uri: the MLflow store; None for the default (`jobs.tracking.tracking_uri`).
        experiment: name of an experiment; None for all.
        jobs: kinds of jobs to list, separated by commas; None or empty for all.
        limit: the largest number of runs to list. Trials that are listed under their ablation do not count.
        trials: whether to list the trials of ablations too. They are listed under their ablation. If `jobs` names jobs
            without ``ablate``, they are listed among the trainings, and count for `limit`.
        as_json: print one JSON object per line.

    Raises:
        SpecError: if a job is unknown.
        TrackingError: if the store does not answer, or has no such experiment.
    """
    chosen = [name.strip() for name in (jobs or "").split(",") if name.strip()]
    for name in chosen:
        if name not in JOBS:
            raise SpecError(f"unknown --job {name!r}", remedy=f"use some of {', '.join(JOBS)}", code="unknown-job")
    uri = tracking_uri(given_uri)
    names = experiment_names(uri, experiment)
    # Trials are listed under their ablation, or on their own, as trainings, if ablations are not asked for.
    alone = trials and bool(chosen) and "ablate" not in chosen
    found = [_listed(uri, run, names) for run in newest_runs(uri, list(names), chosen, limit, alone)]
    if as_json:
        _print_json(uri, found, trials)
    elif not found:
        print(_none(chosen, trials, without_password(uri)))
    elif sys.stdout.isatty():
        _print_table(uri, found, trials, Console())
    else:
        _print_plain(uri, found, trials)


def _none(jobs: Sequence[str], trials: bool, where: str) -> str:
    if not jobs:
        return f"no runs in {where} yet: glowctl demo makes some"
    advice = ", not counting trials of ablations (--trials shows them)" if "train" in jobs and not trials else ""
    return f"no {' or '.join(jobs)} runs in {where}{advice}"


def trials_of(uri: str, run: Run) -> list[Run]:
    """Return the trials of a run, the oldest first; none unless it is an ablation.

    Raises:
        TrackingError: if the store does not answer.
    """
    if run.data.tags.get(JOB) != "ablate":
        return []
    return [child for child in child_runs(uri, run) if TRIAL in child.data.tags]


def seconds_of(run: Run) -> float:
    """Return how long a run took, or has taken until now, in seconds."""
    # A run that was resumed and runs still has the end time of its first attempt.
    ended = (run.info.end_time if run.info.status != "RUNNING" else None) or time.time() * 1000
    return float(max(0.0, (ended - run.info.start_time) / 1000))


def ago(milliseconds: float, now: float | None = None) -> str:
    """Format the time since a moment.

    Args:
        milliseconds: the moment, in milliseconds since 1970.
        now: the present, in seconds since 1970; None for the clock.

    Example:
        >>> [ago(0, now=seconds) for seconds in (12, 300, 3 * 3600, 12 * 86400)]
        ['12 s', '5 min', '3 h', '12 d']
    """
    seconds = max(0.0, (now or time.time()) - milliseconds / 1000)
    for unit, size, most in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 48 * 3600)):
        if seconds < most:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def facts_of(run: Run, experiment: str, result: Result) -> JsonObject:
    """Return the JSON object that ``--json`` prints for a run.

    Args:
        run: the run.
        experiment: name of its experiment.
        result: its result.
    """
    tags = run.data.tags
    started = datetime.fromtimestamp(run.info.start_time / 1000).astimezone()
    return {
        "id": run.info.run_id,
        "name": run.info.run_name,
        "job": tags.get(JOB),
        "status": run.info.status.lower(),
        "experiment": experiment,
        "dataset": tags.get(tag_names.DATASET),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds_of(run), 1),
        "parent": tags.get(tag_names.PARENT),
        "result": result.values,
        "error": tags.get(tag_names.ERROR),
        "stopped": tags.get(tag_names.STOPPED),
    }


def _listed(uri: str, run: Run, names: dict[str, str]) -> Listed:
    trials = trials_of(uri, run)
    return Listed(run, names[run.info.experiment_id], trials, result_of(uri, run, trials))


def _print_json(uri: str, found: Sequence[Listed], trials: bool) -> None:
    for listed in found:
        rows = [facts_of(listed.run, listed.experiment, listed.result)]
        if trials:
            rows += [facts_of(trial, listed.experiment, result_of(uri, trial)) for trial in listed.trials]
        for row in rows:
            print(json_text(row), flush=True)


def _rows(uri: str, found: Sequence[Listed], trials: bool) -> list[dict[str, str]]:
    rows = []
    for listed in found:
        rows.append(_row(listed.run, listed.experiment, listed.result.text))
        if trials:
            rows += [_row(trial, "", result_of(uri, trial).text, indent="  ") for trial in listed.trials]
    return rows


def _row(run: Run, experiment: str, result: str, indent: str = "") -> dict[str, str]:
    return {
        "id": run.info.run_id[:8],
        "run": indent + str(run.info.run_name),
        "job": "trial" if TRIAL in run.data.tags else run.data.tags.get(JOB, ""),
        "experiment": experiment,
        "status": run.info.status.lower(),
        "ago": ago(run.info.start_time),
        "took": duration(seconds_of(run)),
        "result": result,
    }


def _columns(rows: Sequence[dict[str, str]]) -> list[str]:
    several = len({row["experiment"] for row in rows if row["experiment"]}) > 1
    return [name for name in rows[0] if name != "experiment" or several]


def _print_plain(uri: str, found: Sequence[Listed], trials: bool) -> None:
    rows = _rows(uri, found, trials)
    columns = _columns(rows)
    print(text_table([columns, *([row[name] for name in columns] for row in rows)], left=len(columns)), flush=True)


def _print_table(uri: str, found: Sequence[Listed], trials: bool, console: Console) -> None:
    rows = _rows(uri, found, trials)
    columns = [name for name in _columns(rows) if name != "job" or console.width >= ROOM_FOR_JOBS]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        right = name in ("ago", "took")
        table.add_column(
            name,
            overflow="fold",
            no_wrap=name not in ("run", "result"),
            justify="right" if right else "left",
            ratio={"run": 1, "result": 1}.get(name),
        )
    table.expand = console.width < ROOM_FOR_JOBS
    for row in rows:
        colour = COLOURS.get(row["status"], "")
        table.add_row(*(Text(row[name], style=colour if name == "status" else "") for name in columns))
    console.print(table, highlight=False)
    folded = sum(len(listed.trials) for listed in found)
    if folded and not trials:
        console.print(
            f"{count(folded, 'trial')} of ablations not listed: --trials lists them", style="dim", highlight=False
        )
