"""Messages of an ablation to the process that drives it: from its trials and from Ray Tune, in order, in one queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from jobs.training.messages import Message
from jobs.training.progress import Progress

if TYPE_CHECKING:
    from ray.tune import Checkpoint

__all__ = ["Ended", "Failed", "OfTrial", "TrialOutbox", "TrialQueue"]


@dataclass(frozen=True)
class Failed:
    """An error ended a trial: a retry would meet it again, or Ray Tune has made all its retries.

    Attributes:
        reason: the error, as the user reads it.
    """

    reason: str


@dataclass(frozen=True)
class Ended:
    """Ray Tune ended a trial that raised no error.

    The trial was finished, a scheduler stopped it, or it reported (instead of raising) an error that a retry would meet
    again.

    Attributes:
        metrics: the last metrics that Tune has of the trial, and figures that Tune adds.
        checkpoint: the trial's last checkpoint; None if it has none.
    """

    metrics: Mapping[str, Any]
    checkpoint: Checkpoint | None

    def progress(self) -> Progress:
        """Return the record of the trial up to its last checkpoint.

        Raises:
            CheckpointError: if the record in the checkpoint is damaged.
        """
        if self.checkpoint is None:
            return Progress()
        with self.checkpoint.as_directory() as folder:
            return Progress.read(folder)


@dataclass(frozen=True)
class OfTrial:
    """A message and the label of its trial, such as "1x1 K8 s0"."""

    trial: str
    message: Message | Failed | Ended


class TrialQueue(Protocol):
    """A queue that takes messages to the driver."""

    def put(self, message: OfTrial) -> None:
        """Send a message."""


@dataclass(frozen=True)
class TrialOutbox:
    """The `jobs.training.messages.Outbox` of a trial's training: adds the label, and uses the queue of the ablation.

    Attributes:
        queue: the queue of the ablation.
        trial: label of the trial.
    """

    queue: TrialQueue
    trial: str

    def put(self, message: Message | Failed) -> None:
        """Send a message of this trial."""
        self.queue.put(OfTrial(self.trial, message))
