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
    """The message that an error ended a trial: a retry would raise the same error, or Ray Tune has no retries left.

    Attributes:
        reason: the sentence that the user reads about the error.
    """

    reason: str


@dataclass(frozen=True)
class Ended:
    """The message that a trial ended without raising an error.

    The trial was finished, a scheduler stopped it, or it reported an error instead of raising it, because a retry would
    raise the same error.

    Attributes:
        metrics: the last metrics that the trial reported to Tune, and numbers that Tune adds, such as ``time_total_s``.
        checkpoint: the trial's last checkpoint; None if it has none.
    """

    metrics: Mapping[str, Any]
    checkpoint: Checkpoint | None

    def progress(self) -> Progress:
        """Return the metrics of all epochs and the sample grids in the last checkpoint; none if there is no checkpoint.

        Raises:
            CheckpointError: if a file of the checkpoint is damaged.
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
    """Adds the label of a trial to the messages of its training, and puts them into the queue of the ablation.

    It is the `jobs.training.messages.Outbox` of this training.

    Attributes:
        queue: the queue of the ablation.
        trial: label of the trial.
    """

    queue: TrialQueue
    trial: str

    def put(self, message: Message | Failed) -> None:
        """Send a message of this trial."""
        self.queue.put(OfTrial(self.trial, message))
