"""The results that training reports: for a step, for an epoch, and the sums from which both are computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class StepResult:
    """The progress of an epoch, reported about once per second.

    Attributes:
        epoch: the epoch, counted from 1.
        step: the last finished step of that epoch, counted from 1.
        steps: number of steps per epoch.
        images_per_second: speed of this epoch so far, over all processes.
        train_bits_per_dim: mean, in bits per dimension, over the images of this process in the epoch so far, without
            those of skipped steps; NaN if there are none. After a call of `Trainer.pool`, the mean of the first process
            also includes the images that the other processes had before the call, and the means of the other processes
            include only images after the call.

    Examples:
        >>> told = StepResult(epoch=1, step=5, steps=20, images_per_second=900.0, train_bits_per_dim=3.7)
        >>> f"{told.step / told.steps:.0%} of epoch {told.epoch}"
        '25% of epoch 1'
    """

    epoch: int
    step: int
    steps: int
    images_per_second: float
    train_bits_per_dim: float


@dataclass(frozen=True)
class EpochResult:
    """The measurements of a finished epoch.

    Means are over all processes. The dimensions in bits per dimension are those of the images that the model reads,
    so padding is included.

    Attributes:
        epoch: the epoch, counted from 1.
        step: number of optimizer steps since the start of training, skipped ones included.
        train_bits_per_dim: mean over the epoch's images without those of skipped steps, each scored with the weights
            before its step; NaN if every step was skipped.
        validation_bits_per_dim: mean over the validation images after the epoch; NaN if there are none.
        images_per_second: training speed; validation is not counted.
        gradient_norm: mean L2 norm of the gradient over the epoch's steps that were not skipped, before clipping; NaN
            if all steps were skipped.
        learning_rate: the rate of the epoch's last step.
        skipped_steps: number of steps skipped since the start of training because their gradient was not finite.
        seconds: duration of the epoch in this process in seconds, validation included. If training was resumed inside
            the epoch, only the time since then is counted.

    Examples:
        >>> result = EpochResult(1, 20, 3.5, 3.6, 900.0, 2.0, 1e-3, 0, 5.0)
        >>> f"validation {result.validation_bits_per_dim} bits/dim"
        'validation 3.6 bits/dim'
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


class StepFigures(NamedTuple):
    """The measurements of one step, or their sums over the steps of an epoch. Each field is a scalar float64 tensor.

    The fields are stacked into one tensor in this order, so that adding a step is one operation and does not wait for
    the GPU. The first two fields differ between processes; the others are equal in all processes.

    Examples:
        >>> import torch
        >>> sums = torch.zeros(4)
        >>> for step in (StepFigures(*torch.tensor([7.0, 2, 0.5, 1])), StepFigures(*torch.tensor([5.0, 2, 0.3, 1]))):
        ...     sums += torch.stack(step)
        >>> so_far = StepFigures(*sums)
        >>> (so_far.bits_per_dim / so_far.images).item()
        3.0
    """

    bits_per_dim: Tensor
    """Sum over this process's images."""
    images: Tensor
    """Number of this process's images."""
    gradient_norm: Tensor
    """L2 norm of the gradient before clipping."""
    steps: Tensor
    """Number of steps that were taken, not skipped."""
