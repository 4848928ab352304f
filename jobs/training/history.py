"""The metrics of each epoch of a training (`EpochMetrics`), in a file with each checkpoint and in MLflow.

The file ``history.json`` in a checkpoint's folder is authoritative: it has every epoch up to that checkpoint. When an
epoch ends, rank 0 sends the epoch's metrics to the driver, which writes them to MLflow once a checkpoint has them. So
MLflow never has an epoch that is trained again, perhaps with another result. Epochs that MLflow lacks, for example
because its server did not answer, are added from the file whenever the workers start, restart or resume
(`jobs.training.messages.Attempt`), when the training ends, and by ``glowctl repair``. `jobs.tracking.Record.metrics`
writes only steps that MLflow does not have yet, so adding an epoch twice is harmless.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from glow.errors import CheckpointError
from jobs.tracking import Record, metric_names

__all__ = [
    "IN_MLFLOW",
    "EpochMetrics",
    "parse_history",
    "read_history",
    "record_history",
    "recorded_history",
    "write_history",
]

HISTORY_FILE = "history.json"
"""Name of the history file in the folder of a checkpoint."""

IN_MLFLOW = {
    "train_bits_per_dim": metric_names.TRAIN,
    "validation_bits_per_dim": metric_names.VALIDATION,
    "images_per_second": "images_per_second",
    "gradient_norm": "gradient_norm",
    "learning_rate": "learning_rate",
    "skipped_steps": "skipped_steps",
    "test_bits_per_dim_by_epoch": metric_names.TEST_BY_EPOCH,
}
"""For each field of `EpochMetrics` except `epoch` and `time`, the name of its metric in MLflow."""


@dataclass(frozen=True)
class EpochMetrics:
    """The metrics of one epoch that are stored in checkpoints and in MLflow.

    NaN stands for a metric that was not measured. All fields that are not described here have the same meaning as in
    `glow.training.EpochResult`.

    Attributes:
        test_bits_per_dim_by_epoch: bits/dim of the test set after this epoch; measured with ``--test-every`` only.
        time: when the epoch ended, in seconds since 1970.
    """

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
        """Make an object from a mapping of names of fields to values, which must contain "epoch".

        Keys that are not fields are ignored; fields that are missing become NaN.

        Raises:
            KeyError: if `facts` has no "epoch".

        Example:
            >>> EpochMetrics.of({"epoch": 2, "learning_rate": 0.001, "seconds": 9.0}).in_mlflow()
            {'learning_rate': 0.001}
        """
        known = {field.name: facts[field.name] for field in fields(cls) if field.name in facts}
        return cls(**known | {"epoch": int(facts["epoch"])})

    def columns(self) -> dict[str, float]:
        """Return all fields except `epoch` and `time` as a dictionary from name to value."""
        return {name: getattr(self, name) for name in IN_MLFLOW}

    def in_mlflow(self) -> dict[str, float]:
        """Return the metrics that were measured as a dictionary from the name in MLflow to the value."""
        return {IN_MLFLOW[name]: value for name, value in self.columns().items() if not math.isnan(value)}


def record_history(record: Record, history: Iterable[EpochMetrics]) -> None:
    """Add to a run in MLflow the epochs of `history` that the run lacks.

    Raises:
        TrackingError: if MLflow cannot be written.
    """
    for epoch in history:
        record.metrics(epoch.in_mlflow(), epoch.epoch, at=epoch.time)


def recorded_history(record: Record) -> list[EpochMetrics]:
    """Return the epochs for which a run has a validation score in MLflow, in order.

    Raises:
        TrackingError: if MLflow cannot be read.
    """
    columns = {field: record.metric_steps(name) for field, name in IN_MLFLOW.items()}
    return [
        EpochMetrics(epoch, **{field: steps[epoch] for field, steps in columns.items() if epoch in steps})
        for epoch in sorted(columns["validation_bits_per_dim"])
    ]


def write_history(history: Sequence[EpochMetrics], folder: str | Path) -> None:
    """Write the metrics of the epochs so far into ``history.json`` in the folder of a checkpoint.

    Raises:
        OSError: if the file cannot be written.
    """
    Path(folder, HISTORY_FILE).write_text(json.dumps([asdict(epoch) for epoch in history]))


def read_history(folder: str | Path) -> list[EpochMetrics]:
    """Return what `write_history` wrote into a checkpoint's folder, or an empty list if the file does not exist.

    Checkpoints of older versions of glowctl do not have the file.

    Raises:
        CheckpointError: if the file is damaged.
    """
    file = Path(folder, HISTORY_FILE)
    return parse_history(file.read_bytes(), str(file)) if file.exists() else []


def parse_history(content: bytes, file: str) -> list[EpochMetrics]:
    """Return the metrics of the epochs in a ``history.json``.

    Args:
        content: the content of the file.
        file: the name of the file, for the error message.

    Raises:
        CheckpointError: if the file is damaged.
    """
    try:
        return [EpochMetrics.of(epoch) for epoch in json.loads(content)]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{file} is damaged", remedy="use another checkpoint", code="checkpoint-damaged"
        ) from None
