"""What is kept of each epoch of a training.

The history beside a checkpoint is the truth: it holds every epoch up to that checkpoint. MLflow has what rank 0 tells
as an epoch ends, and what it misses is added from the history when an attempt begins, when the training ends, when it
is resumed, and by ``glowctl repair``. `jobs.tracking.Record.metrics` adds only the steps that are not there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from glow.checkpoint import CheckpointError
from jobs.tracking import Record, metric_names

__all__ = [
    "IN_MLFLOW",
    "EpochMetrics",
    "read_history",
    "record_history",
    "recorded_history",
    "write_history",
]

HISTORY_FILE = "history.json"

IN_MLFLOW = {
    "train_bits_per_dim": metric_names.TRAIN,
    "validation_bits_per_dim": metric_names.VALIDATION,
    "images_per_second": "images_per_second",
    "gradient_norm": "gradient_norm",
    "learning_rate": "learning_rate",
    "skipped_steps": "skipped_steps",
    "test_bits_per_dim_by_epoch": metric_names.TEST_BY_EPOCH,
}
"""Fields of `EpochMetrics` -> the names of the metrics in MLflow."""


@dataclass(frozen=True)
class EpochMetrics:
    """What is kept of an epoch; see `glow.training.EpochResult`. `time` is when it ended, in seconds since 1970. NaN
    stands for what was not measured."""

    epoch: int
    train_bits_per_dim: float = math.nan
    validation_bits_per_dim: float = math.nan
    images_per_second: float = math.nan
    gradient_norm: float = math.nan
    learning_rate: float = math.nan
    skipped_steps: float = math.nan
    test_bits_per_dim_by_epoch: float = math.nan
    time: float = math.nan

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> EpochMetrics:
        """Reads the fields out of more facts, of which some may be missing. KeyError without the epoch."""
        known = {field.name: facts[field.name] for field in fields(cls) if field.name in facts}
        return cls(**known | {"epoch": int(facts["epoch"])})

    def columns(self) -> dict[str, float]:
        """The figures of the epoch."""
        return {name: getattr(self, name) for name in IN_MLFLOW}

    def in_mlflow(self) -> dict[str, float]:
        """What was measured, by the names of the metrics in MLflow."""
        return {IN_MLFLOW[name]: value for name, value in self.columns().items() if not math.isnan(value)}


def record_history(record: Record, history: Iterable[EpochMetrics]) -> None:
    """Adds to a run what it lacks of these epochs. Raises TrackingError."""
    for epoch in history:
        record.metrics(epoch.in_mlflow(), epoch.epoch, at=epoch.time)


def recorded_history(record: Record) -> list[EpochMetrics]:
    """The epochs that MLflow has of a run. Raises TrackingError."""
    columns = {field: record.metric_steps(name) for field, name in IN_MLFLOW.items()}
    return [
        EpochMetrics(epoch, **{field: steps[epoch] for field, steps in columns.items() if epoch in steps})
        for epoch in sorted(columns["validation_bits_per_dim"])
    ]


def write_history(history: Sequence[EpochMetrics], folder: str | Path) -> None:
    """Completes a checkpoint by what is known of the epochs before it. Raises OSError."""
    Path(folder, HISTORY_FILE).write_text(json.dumps([asdict(epoch) for epoch in history]))


def read_history(folder: str | Path) -> list[EpochMetrics]:
    """What `write_history` wrote; nothing in a checkpoint of an older glowctl. Raises CheckpointError."""
    file = Path(folder, HISTORY_FILE)
    try:
        return [EpochMetrics.of(epoch) for epoch in json.loads(file.read_text())]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{file} is damaged: use another checkpoint") from None
