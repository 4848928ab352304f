"""What the processes of a training send to the one that drives it, through `jobs.ray_runtime.event_queue.Channel`.

Rank 0 sends the events `Step` and `Epoch` of `jobs.display.events` as they are shown; the rest is here.
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
    """The workers have begun to train, after `epoch` epochs, of which `history` has what the checkpoint knows, and
    `step` steps of the next one. Each is equal to itself alone."""

    workers: int
    epoch: int
    history: Sequence[EpochMetrics]
    device: str
    precision: str
    parameters: int
    step: int = 0


@dataclass(frozen=True)
class SampleGrid:
    """Samples of the model after an epoch, uint8 (N, C, H, W), and the largest error of its inverse over some real
    images, in grey levels of the model's 2**bits."""

    epoch: int
    images: np.ndarray
    inverse_error: float


@dataclass(frozen=True)
class FinalScore:
    """The test set's bits/dim under the best model by validation."""

    test_bits_per_dim: float


@dataclass(frozen=True)
class Scores:
    """The scores of a split's images from position `start` on, under that model."""

    split: str
    start: int
    table: pd.DataFrame


@dataclass(frozen=True)
class Machine:
    """How a machine is doing, from the first worker on it."""

    name: str
    figures: Mapping[str, float]


Message = Attempt | Step | Epoch | SampleGrid | FinalScore | Scores | Machine


class Outbox(Protocol):
    """Takes messages to the driver."""

    def put(self, message: Message) -> None: ...
