"""The messages that workers send to the driver of a training, through `jobs.ray_runtime.event_queue.Channel`.

The driver is the process that runs the command. Rank 0 also sends the events `Step` and `Epoch` of
`jobs.display.events` to the driver, which shows them unchanged. `Message` is the union of all of these classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from jobs.display.events import Epoch, Step
from jobs.training.history import EpochMetrics

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = ["Attempt", "FinalScore", "Machine", "Message", "Outbox", "SampleGrid", "Scores"]


@dataclass(frozen=True, eq=False)
class Attempt:
    """The workers begin to train, from the start or from a checkpoint.

    Two objects never compare equal, so that each attempt can be a key of a dict.

    Attributes:
        workers: number of workers.
        epoch: number of epochs that the checkpoint had finished; 0 without a checkpoint.
        history: the figures of these epochs, as far as the checkpoint has them.
        device: the name of rank 0's device, as it is shown to the user.
        precision: the arithmetic of the training, as in `glow.training.Trainer`.
        parameters: number of parameters of the model.
        step: number of steps that the checkpoint had finished in the epoch after these.
    """

    workers: int
    epoch: int
    history: Sequence[EpochMetrics]
    device: str
    precision: str
    parameters: int
    step: int = 0


@dataclass(frozen=True)
class SampleGrid:
    """Samples that the model draws after an epoch, and how exact its inverse is.

    Attributes:
        epoch: the epoch after which they were drawn.
        images: uint8 (N, C, H, W), the samples.
        inverse_error: largest error of the inverse over some real images, in grey levels; the model has 2**bits levels.
    """

    epoch: int
    images: np.ndarray
    inverse_error: float


@dataclass(frozen=True)
class FinalScore:
    """The test set's bits/dim under the best model by validation."""

    test_bits_per_dim: float


@dataclass(frozen=True)
class Scores:
    """The scores of a part of a split under the best model by validation.

    Attributes:
        split: the name of the split.
        start: the position of the first image of the part.
        table: one row per image, as `glow.scoring.score_shard` makes it.
    """

    split: str
    start: int
    table: pd.DataFrame


@dataclass(frozen=True)
class Machine:
    """The load of a machine (`jobs.system.machine_metrics.measured`), sent by the first worker on it."""

    name: str
    figures: Mapping[str, float]


Message = Attempt | Step | Epoch | SampleGrid | FinalScore | Scores | Machine


class Outbox(Protocol):
    """The worker's end of the queue to the driver."""

    def put(self, message: Message) -> None:
        """Send a message to the driver."""
