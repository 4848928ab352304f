"""The repair of a training's run in MLflow (``glowctl repair``): epochs that only a checkpoint has are added to it."""

from __future__ import annotations

from collections.abc import Iterable

from glow.checkpoint import CheckpointError
from jobs.outputs import files_of_checkpoints
from jobs.tracking import Record, metric_names
from jobs.training.history import HISTORY_FILE, EpochMetrics, parse_history, record_history

__all__ = ["add_missing", "last_history"]


def add_missing(record: Record, history: Iterable[EpochMetrics]) -> list[int]:
    """Add to a run in MLflow the epochs of `history` that the run lacks.

    Returns:
        The epochs for which MLflow had no validation score before.

    Raises:
        TrackingError: if MLflow cannot be read or written.
    """
    known = record.metric_steps(metric_names.VALIDATION)
    epochs = list(history)
    record_history(record, epochs)
    return [epoch.epoch for epoch in epochs if epoch.epoch not in known]


def last_history(output: str, folder: str) -> list[EpochMetrics]:
    """Find the checkpoint of a training that has the metrics of the most epochs, and return these metrics.

    Args:
        output: the output folder or bucket.
        folder: the name of the folder of the checkpoints, within the output.

    Returns:
        The metrics; empty if there is no checkpoint whose metrics can be read.

    Raises:
        JobError: if the output cannot be read.
    """
    found: list[EpochMetrics] = []
    for file, content in files_of_checkpoints(f"{output}/{folder}", HISTORY_FILE):
        try:
            found = max(found, parse_history(content, file), key=len)
        except CheckpointError:  # the process was killed while it wrote the file
            continue
    return found
