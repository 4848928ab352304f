"""What training reports: about a step, about an epoch, and the sums behind both."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

from torch import Tensor

__all__ = ["EpochResult", "StepFigures", "StepResult"]


@dataclass(frozen=True)
class StepResult:
    """How far an epoch has got, reported about once per second.

    Attributes:
        epoch: the epoch, counted from 1.
        step: the last finished step of that epoch, counted from 1.
        steps: number of steps per epoch.
        images_per_second: speed of this epoch so far, over all processes.
        train_bits_per_dim: mean over this process's images of the epoch so far.
    """

    epoch: int
    step: int
    steps: int
    images_per_second: float
    train_bits_per_dim: float


@dataclass(frozen=True)
class EpochResult:
    """The figures of a finished epoch. Means are over all processes; bits/dim are at the model's image size.

    Attributes:
        epoch: the epoch, counted from 1.
        step: optimizer steps since the start of training, skipped ones included.
        train_bits_per_dim: mean over the epoch's images, each scored with the weights before its step; NaN if every
            step was skipped.
        validation_bits_per_dim: mean over the validation images after the epoch; NaN if there are none.
        images_per_second: training speed; validation is not counted.
        gradient_norm: mean L2 norm over the epoch's steps, before clipping.
        learning_rate: the rate of the epoch's last step.
        skipped_steps: steps skipped since the start of training because their gradient was not finite.
        seconds: duration of the epoch, validation included.

    Example:
        >>> result = EpochResult(1, 20, 3.5, 3.6, 900.0, 2.0, 1e-3, 0, 5.0)
        >>> result.to_dict()["validation_bits_per_dim"]
        3.6
    """

    epoch: int
    step: int
    train_bits_per_dim: float
    validation_bits_per_dim: float
    images_per_second: float
    gradient_norm: float
    learning_rate: float
    skipped_steps: int
    seconds: float

    def to_dict(self) -> dict[str, float]:
        """Return the fields as a dictionary, by name."""
        return asdict(self)


class StepFigures(NamedTuple):
    """What one step adds to an epoch's sums, or those sums: scalar float64 tensors.

    They travel stacked into one tensor in this order, so that adding a step is one operation and does not wait for the
    GPU. The first two differ between processes; the others are equal in all of them.
    """

    bits_per_dim: Tensor
    """Sum over this process's images."""
    images: Tensor
    """Number of this process's images."""
    gradient_norm: Tensor
    """L2 norm before clipping."""
    steps: Tensor
    """Number of steps that were taken, not skipped."""
