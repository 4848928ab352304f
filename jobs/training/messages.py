"""The messages that workers send to the driver of a training, through `jobs.ray_runtime.event_queue.Channel`.

The driver is the process that runs the command. Rank 0 also sends the events `Step` and `Epoch` of
`jobs.display.events` to the driver, which shows them unchanged, and the `EpochMetrics` of every epoch, which the driver
records. `Message` is the union of all of these classes.
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

__all__ = ["Attempt", "FinalScore", "Machine", "Message", "Outbox", "SampleGrid", "Saved", "Scores"]


@dataclass(frozen=True, eq=False)
class Attempt:
    """The message that the workers begin to train, from the start or from a checkpoint.

    Two objects never compare equal, so that each attempt can be a key of a dict.

    Attributes:
        workers: number of workers.
        epoch: number of epochs that the checkpoint had finished; 0 without a checkpoint.
        history: the metrics of these epochs; epochs that the checkpoint does not contain are missing.
        device: the name of rank 0's device, as it is shown to the user.
        precision: the precision of the coupling networks, "bf16" or "float32".
        parameters: number of parameters of the model.
        step: number of steps that the checkpoint had finished in the next epoch; 0 if it was saved after an epoch, and
            without a checkpoint.
    """

    workers: int
    epoch: int
    history: Sequence[EpochMetrics]
    device: str
    precision: str
    parameters: int
    step: int = 0


@dataclass(frozen=True)
class Saved:
    """The message that the checkpoint after an epoch is stored: the training will not train this epoch again.

    Attributes:
        epoch: number of finished epochs that the checkpoint contains.
    """

    epoch: int


@dataclass(frozen=True)
class SampleGrid:
    """Samples that the model draws after an epoch, and how exact its inverse is.

    Attributes:
        epoch: the epoch after which they were drawn.
        images: uint8 (N, C, H, W), the samples.
        inverse_error: largest error of the inverse over all pixels of some real images. The unit is one of the model's
            2**bits grey levels.
        non_finite: number of samples with a pixel that is not finite; None if an older version has not counted them.
    """

    epoch: int
    images: np.ndarray
    inverse_error: float
    non_finite: int | None = None


@dataclass(frozen=True)
class FinalScore:
    """The test set's bits/dim under the best model by validation."""

    test_bits_per_dim: float


@dataclass(frozen=True)
class Scores:
    """The scores of consecutive images of a split under the best model by validation.

    Attributes:
        split: the name of the split.
        start: the position, in the split, of the first of these images.
        table: one row per image, as `glow.scoring.score_shard` makes it.
    """

    split: str
    start: int
    table: pd.DataFrame


@dataclass(frozen=True)
class Machine:
    """The load of a machine, sent by the first worker on the machine.

    Attributes:
        name: the network name of the machine.
        figures: the measurements that `jobs.system.machine_metrics.measured` returns, name -> value.
    """

    name: str
    figures: Mapping[str, float]


Message = Attempt | Step | Epoch | EpochMetrics | Saved | SampleGrid | FinalScore | Scores | Machine


class Outbox(Protocol):
    """The end of the queue to the driver into which workers put messages."""

    def put(self, message: Message) -> None:
        """Send a message to the driver."""
