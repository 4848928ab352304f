"""When a training leaves a checkpoint: after epochs, inside an epoch after steps or minutes, and when a machine is told
that it will be taken."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from glow.distributed import all_reduce_sum, world_size
from jobs.specs.every import Every

__all__ = ["SavingPlan"]

LOOK_EVERY = 10
"""Steps between two looks at a clock, or for a notice, on which all workers must agree: that costs a message."""


Noticed = Callable[[], float | None]


class SavingPlan:
    """Tells after which steps and epochs every worker has to save, which all of them are told alike.

    Args:
        every: what the user asked for.
        noticed: asks whether a machine of this training is about to be taken, and for when; None where none is. All
            workers must call it at the same steps.
        device: where workers exchange tensors.
    """

    def __init__(self, every: Every, noticed: Noticed, device: torch.device) -> None:
        self._every, self._noticed, self._device = every, noticed, device
        self._saved_at = time.monotonic()
        self._saved_for: float | None = None

    def after_epoch(self, epoch: int, last: bool) -> bool:
        """Whether to save when an epoch has ended."""
        every = self._every.epochs
        return last or every is None or epoch % every == 0

    def after_step(self, step: int) -> bool:
        """Whether to save after a step that is not an epoch's last; `step` counts since the start of training."""
        if self._every.steps is not None and step % self._every.steps == 0:
            return True
        if step % LOOK_EVERY:
            return False
        return self._time_has_come() or self._new_notice()

    def saved(self) -> None:
        """Must be called when a checkpoint was left."""
        self._saved_at = time.monotonic()

    def _time_has_come(self) -> bool:
        if self._every.seconds is None:
            return False
        over = time.monotonic() - self._saved_at >= self._every.seconds
        if world_size() == 1:
            return over
        return all_reduce_sum(torch.tensor([float(over)], device=self._device)).item() > 0

    def _new_notice(self) -> bool:
        deadline = self._noticed()
        if deadline is None or deadline == self._saved_for:
            return False
        self._saved_for = deadline
        return True
