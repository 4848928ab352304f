"""Brings what MLflow has of a training up to what its last checkpoint knows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from glow.checkpoint import CheckpointError
from jobs.outputs import is_remote
from jobs.tracking import Record, metric_names
from jobs.training.history import HISTORY_FILE, EpochMetrics, read_history, record_history

__all__ = ["add_missing", "last_history"]


def add_missing(record: Record, history: Iterable[EpochMetrics]) -> list[int]:
    """Adds to a run what it lacks of these epochs; those of which it had no validation NLL. Raises TrackingError."""
    known = record.metric_steps(metric_names.VALIDATION)
    epochs = list(history)
    record_history(record, epochs)
    return [epoch.epoch for epoch in epochs if epoch.epoch not in known]


def last_history(output: str, folder: str) -> list[EpochMetrics]:
    """The longest history beside the checkpoints of a training; empty if there is none that can be read, or the output
    is a bucket."""
    if is_remote(output):
        return []
    found: list[EpochMetrics] = []
    for file in Path(output, folder).glob(f"checkpoint_*/{HISTORY_FILE}"):
        try:
            found = max(found, read_history(file.parent), key=len)
        except CheckpointError:  # of a kill while it was written
            continue
    return found
