"""What a run came to, in one cell of a table and as numbers: read from its tags, parameters and metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from jobs.text import bits
from jobs.tracking import metric_history, metric_names, tag_names
from jobs.tracking.listing import JOB

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = ["Progress", "Result", "progress_of", "result_of"]

TEST, VALIDATION = metric_names.TEST, metric_names.VALIDATION
MOST_LETTERS = 60


@dataclass(frozen=True)
class Result:
    """The text of a cell, and the numbers in it by name."""

    text: str
    values: dict[str, object] = field(default_factory=dict)


def result_of(uri: str, run: Run, trials: Sequence[Run] = ()) -> Result:
    """`trials` are those of an ablation. Raises TrackingError."""
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
    """Where a training is that runs. `epochs` is None where the run does not say how many there will be, and the last
    score of the validation images is None before the first."""

    epoch: int
    epochs: int | None
    validation_bits_per_dim: float | None


def progress_of(uri: str, run: Run) -> Progress:
    """Where a training is that runs. Raises TrackingError."""
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
    """How many trials an ablation is of."""
    from jobs.specs.ablation import AblateSpec

    with suppress(KeyError, ValueError):  # of another version
        return AblateSpec.model_validate(json.loads(run.data.tags[tag_names.SPEC])).number_of_trials
    return None


def _of_nll(metrics: Mapping[str, float]) -> Result:
    found = {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith("bits_per_dim/")}
    return Result(", ".join(f"{name} {bits(value)}" for name, value in found.items()), {"bits_per_dim": found})


def _of_ood(metrics: Mapping[str, float]) -> Result:
    """The share of batches called OOD at the smallest M, by typicality."""
    cells = [(re.fullmatch(r"ood_ratio/(.+)/M(\d+)", name), value) for name, value in metrics.items()]
    ratios = [(int(cell[2]), cell[1], value) for cell, value in cells if cell is not None]
    if not ratios:
        return Result("")
    smallest = min(size for size, _, _ in ratios)
    shown = {name: value for size, name, value in ratios if size == smallest}
    text = ", ".join(f"{name} {round(100 * value, 1):g} %" for name, value in shown.items())
    return Result(f"OOD at M={smallest}: {text}", {"batch_size": smallest, "ood_ratio": shown})


def _of_description(run: Run) -> Result:
    """What the run's description says of it, where no number would do: the first clause, after which come files."""
    line = re.search(r"^\*\*Result:\*\* (.+)$", run.data.tags.get(tag_names.NOTE, ""), re.MULTILINE)
    return Result(_shortened(re.split("[;:] ", line[1])[0].replace("`", "")) if line else "")


def _shortened(text: str) -> str:
    first = text.strip().partition("\n")[0]
    return first if len(first) <= MOST_LETTERS else first[: MOST_LETTERS - 1] + "…"
