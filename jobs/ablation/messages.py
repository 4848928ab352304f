"""What the trials of an ablation, and Tune, send to the process that drives them, through one queue and in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from jobs.training.history import EpochMetrics, read_history
from jobs.training.messages import Message

if TYPE_CHECKING:
    from ray.tune import Checkpoint

__all__ = ["Ended", "Failed", "OfTrial", "TrialOutbox", "TrialQueue"]


@dataclass(frozen=True)
class Failed:
    """A trial has met an error that no retry mends."""

    reason: str


@dataclass(frozen=True)
class Ended:
    """Tune has ended a trial: it came to its end, or a scheduler stopped it before. `metrics` are the last that Tune
    has, with much of Tune's own."""

    metrics: Mapping[str, Any]
    checkpoint: Checkpoint | None

    def history(self) -> list[EpochMetrics]:
        """All epochs of the trial up to its last checkpoint. Raises CheckpointError."""
        if self.checkpoint is None:
            return []
        with self.checkpoint.as_directory() as folder:
            return read_history(folder)


@dataclass(frozen=True)
class OfTrial:
    """A message with the label of the trial that it is about."""

    trial: str
    message: Message | Failed | Ended


class TrialQueue(Protocol):
    """Takes messages to the driver."""

    def put(self, message: OfTrial) -> None: ...


@dataclass(frozen=True)
class TrialOutbox:
    """A `jobs.training.messages.Outbox` of a trial's training."""

    queue: TrialQueue
    trial: str

    def put(self, message: Message | Failed) -> None:
        self.queue.put(OfTrial(self.trial, message))
