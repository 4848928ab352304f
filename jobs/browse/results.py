"""The result of a run in one table cell and as numbers, read from its tags, parameters and metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from jobs.text import bits
from jobs.tracking import metric_history, metric_names, tag_names
from jobs.tracking.runs import JOB

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = ["Progress", "Result", "progress_of", "result_of"]

TEST, VALIDATION = metric_names.TEST, metric_names.VALIDATION
MOST_LETTERS = 60
"""Longest text of a cell; longer ones are cut off with an ellipsis."""


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
        text: what a table shows; empty if there is no result.
        values: the numbers in the text, by name; empty if the result is only text.
    """

    text: str
    values: dict[str, object] = field(default_factory=dict)


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
    job = run.data.tags.get(JOB)
    if job == "ablate":
        return _of_ablation(run, trials)
    if run.info.status == "RUNNING" and job == "train":
        return _of_progress(progress_of(uri, run))
    if run.info.status != "FINISHED":
        return Result(_shortened(run.data.tags.get(tag_names.ERROR) or run.data.tags.get(tag_names.STOPPED) or ""))
    kinds = {"train": _of_training, "nll": _of_nll, "ood": _of_ood}
    return kinds[job](run.data.metrics) if job in kinds else _of_description(run)


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
    from jobs.specs.ablation import AblateSpec

    with suppress(KeyError, ValueError):  # another version of glowctl may have written them
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
