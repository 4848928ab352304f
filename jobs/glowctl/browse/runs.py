"""`glowctl runs`: list the newest runs of a store with their results.

A terminal gets a coloured table, a pipe plain columns, and ``--json`` one JSON object per line.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from glowctl.errors import SpecError
from glowctl.specs.ablation import AblateSpec
from glowctl.specs.request import EVALUATIONS
from glowctl.text import JsonObject, bits, count, duration, json_text, text_table
from glowctl.tracking import metric_names, tag_names
from glowctl.tracking.runs import child_runs, experiment_names, metric_history, newest_runs
from glowctl.tracking.uris import tracking_uri, without_password

if TYPE_CHECKING:
    from glowctl.tracking.runs import Run

TEST, VALIDATION = metric_names.TEST, metric_names.VALIDATION

MOST_LETTERS = 60
"""Longest text of a cell; longer ones are cut off with an ellipsis."""

JOBS = ("train", "ablate", *EVALUATIONS, "ood-trainings", "check", "watch", "report")
"""The jobs that ``--job`` takes."""

COLOURS = {"finished": "green", "running": "cyan", "failed": "red", "killed": "yellow"}
"""Status of a run -> the colour of its cell."""

ROOM_FOR_JOBS = 100
"""Width of a terminal from which the table has a column for the job; the names of most runs begin with it anyway."""


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
        text: what a table shows; empty if there is no result.
        values: the numbers in the text, by name; empty if the result is only text.
    """

    text: str
    values: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """The progress of a training that is still running.

    Attributes:
        epoch: the last epoch that ended; 0 before the first.
        epochs: number of epochs to train; None if the run does not record it.
        validation_bits_per_dim: the last score of the validation images; None before the first.
    """

    epoch: int
    epochs: int | None
    validation_bits_per_dim: float | None


@dataclass(frozen=True)
class Listed:
    """A run of the list.

    Attributes:
        run: the run.
        experiment: name of its experiment.
        trials: its trials that were not pruned, the oldest first; empty unless it is an ablation.
        result: its result.
        is_beneath: whether it is a trial that is listed under its ablation.
    """

    run: Run
    experiment: str
    trials: Sequence[Run]
    result: Result
    is_beneath: bool = False


def list_runs(
    given_uri: str | None, experiment: str | None, jobs: str | None, limit: int, trials: bool, as_json: bool
) -> None:
    """Print the newest runs.

    Args:
        given_uri: the MLflow store; None for the default (`glowctl.tracking.tracking_uri`).
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
    shown = list(_with_trials(uri, found)) if trials else found
    if as_json:
        for listed in shown:
            print(json_text(facts_of(listed.run, listed.experiment, listed.result)), flush=True)
    elif not found:
        print(_none(chosen, trials, without_password(uri)))
    elif sys.stdout.isatty():
        console = Console()
        _print_table([_row(listed) for listed in shown], console)
        folded = sum(len(listed.trials) for listed in found)
        if folded and not trials:
            left_out = count(folded, "trial")
            console.print(f"{left_out} of ablations not listed: --trials lists them", style="dim", highlight=False)
    else:
        rows = [_row(listed) for listed in shown]
        columns = _columns(rows)
        print(text_table([columns, *([row[name] for name in columns] for row in rows)], left=len(columns)), flush=True)


def _none(jobs: Sequence[str], trials: bool, where: str) -> str:
    if not jobs:
        return f"no runs in {where} yet: glowctl demo makes some"
    advice = ", not counting trials of ablations (--trials shows them)" if "train" in jobs and not trials else ""
    return f"no {' or '.join(jobs)} runs in {where}{advice}"


def trials_of(uri: str, run: Run) -> list[Run]:
    """Return the trials of a run, pruned ones included, the oldest first; none unless it is an ablation.

    Raises:
        TrackingError: if the store does not answer.
    """
    if run.data.tags.get(tag_names.JOB) != "ablate":
        return []
    return [child for child in child_runs(uri, run, pruned=True) if tag_names.TRIAL in child.data.tags]


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

    Examples:
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
        "job": tags.get(tag_names.JOB),
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
    left = [trial for trial in trials if trial.info.lifecycle_stage == "active"]
    return Listed(run, names[run.info.experiment_id], left, result_of(uri, run, trials))


def _with_trials(uri: str, found: Sequence[Listed]) -> Iterator[Listed]:
    """Yield each run, and after it its trials."""
    for listed in found:
        yield listed
        for trial in listed.trials:
            yield Listed(trial, listed.experiment, [], result_of(uri, trial), is_beneath=True)


def _row(listed: Listed) -> dict[str, str]:
    run = listed.run
    return {
        "id": run.info.run_id[:8],
        "run": f"{'  ' if listed.is_beneath else ''}{run.info.run_name}",
        "job": "trial" if tag_names.TRIAL in run.data.tags else run.data.tags.get(tag_names.JOB, ""),
        "experiment": "" if listed.is_beneath else listed.experiment,
        "status": run.info.status.lower(),
        "ago": ago(run.info.start_time),
        "took": duration(seconds_of(run)),
        "result": listed.result.text,
    }


def _columns(rows: Sequence[dict[str, str]]) -> list[str]:
    several = len({row["experiment"] for row in rows if row["experiment"]}) > 1
    return [name for name in rows[0] if name != "experiment" or several]


def _print_table(rows: Sequence[dict[str, str]], console: Console) -> None:
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


# The result of a run in one cell of a table and as numbers, read from its tags, parameters and metrics.


def result_of(uri: str, run: Run, trials: Sequence[Run] = ()) -> Result:
    """Return the result of a run.

    If the run is a training that is still running, the result is its progress. If the run failed or was stopped, the
    result is the reason.

    Args:
        uri: the MLflow store.
        run: the run.
        trials: its trials, if it is an ablation.

    Raises:
        TrackingError: if the store does not answer.
    """
    job = run.data.tags.get(tag_names.JOB)
    if job == "ablate":
        return _of_ablation(run, trials)
    if run.info.status == "RUNNING" and job == "train":
        return _of_progress(progress_of(uri, run))
    if run.info.status != "FINISHED":
        return Result(_shortened(run.data.tags.get(tag_names.ERROR) or run.data.tags.get(tag_names.STOPPED) or ""))
    kinds = {"train": _of_training, "nll": _of_nll, "ood": _of_ood}
    return kinds[job](run.data.metrics) if job in kinds else _of_description(run)


def progress_of(uri: str, run: Run) -> Progress:
    """Return the progress of a training.

    Args:
        uri: the MLflow store.
        run: a run of the job train.

    Raises:
        TrackingError: if the store does not answer.
    """
    history = metric_history(uri, run.info.run_id, VALIDATION)
    epochs = run.data.params.get("epochs")
    last = max(metric_history(uri, run.info.run_id, metric_names.TRAIN), default=0)
    return Progress(
        epoch=last,
        epochs=int(epochs) if epochs is not None and epochs.isdigit() else None,
        validation_bits_per_dim=history[max(history)] if history else None,
    )


def _of_progress(progress: Progress) -> Result:
    of = f" of {progress.epochs}" if progress.epochs is not None else ""
    validation = progress.validation_bits_per_dim
    told = f", validation {bits(validation)}" if validation is not None else ""
    return Result(f"epoch {progress.epoch}{of}{told}", asdict(progress))


def _of_training(metrics: Mapping[str, float]) -> Result:
    if TEST not in metrics:
        return Result("")
    return Result(f"{bits(metrics[TEST])} bits/dim", {"test_bits_per_dim": metrics[TEST]})


def _of_ablation(run: Run, trials: Sequence[Run]) -> Result:
    finished = sum(trial.info.status == "FINISHED" for trial in trials)
    planned = max(_planned(run) or 0, len(trials))
    best = run.data.metrics.get(TEST)
    values = {"finished": finished, "trials": planned, "best_test_bits_per_dim": best}
    told = f", best {bits(best)} bits/dim" if best is not None else ""
    return Result(f"{finished} of {planned} trials{told}", values)


def _planned(run: Run) -> int | None:
    """Return how many trials an ablation has according to its settings; None if they cannot be read."""
    with suppress(KeyError, ValueError):
        return AblateSpec.model_validate(json.loads(run.data.tags[tag_names.SPEC])).number_of_trials
    return None


def _of_nll(metrics: Mapping[str, float]) -> Result:
    found = {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith("bits_per_dim/")}
    return Result(", ".join(f"{name} {bits(value)}" for name, value in found.items()), {"bits_per_dim": found})


def _of_ood(metrics: Mapping[str, float]) -> Result:
    """Return the share of batches that typicality calls OOD, at the smallest M."""
    cells = [(re.fullmatch(r"ood_ratio/(.+)/M(\d+)", name), value) for name, value in metrics.items()]
    ratios = [(int(cell[2]), cell[1], value) for cell, value in cells if cell is not None]
    if not ratios:
        return Result("")
    smallest = min(size for size, _, _ in ratios)
    shown = {name: value for size, name, value in ratios if size == smallest}
    text = ", ".join(f"{name} {round(100 * value, 1):g} %" for name, value in shown.items())
    return Result(f"OOD at M={smallest}: {text}", {"batch_size": smallest, "ood_ratio": shown})


def _of_description(run: Run) -> Result:
    """Return the first clause of the result in the description, where no number would do. File names follow it."""
    line = re.search(r"^\*\*Result:\*\* (.+)$", run.data.tags.get(tag_names.NOTE, ""), re.MULTILINE)
    return Result(_shortened(re.split("[;:] ", line[1])[0].replace("`", "")) if line else "")


def _shortened(text: str) -> str:
    first = text.strip().partition("\n")[0]
    return first if len(first) <= MOST_LETTERS else first[: MOST_LETTERS - 1] + "…"
