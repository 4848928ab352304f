"""The plan by which a training saves checkpoints.

A checkpoint is saved after an epoch, within an epoch after some steps or minutes (``--checkpoint-every``), and when the
cluster announces that it will take a machine away.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from glow.distributed import all_reduce_sum, world_size
from jobs.specs.every import Every

__all__ = ["SavingPlan"]

LOOK_EVERY = 10
"""Steps between two checks of the clock and of notices. Each check needs a message between the workers to agree."""


Noticed = Callable[[], float | None]
"""Returns the time at which a machine of this training will be taken away; None if none will."""


class SavingPlan:
    """Decides after which steps and epochs to save; all workers receive the same answers.

    Args:
        every: the interval that the user asked for.
        noticed: returns the time at which a machine of this training will be taken away; None if none will. All workers
            call it at the same steps.
        device: the device of the tensors that workers exchange.
    """

    def __init__(self, every: Every, noticed: Noticed, device: torch.device) -> None:
        self._every, self._noticed, self._device = every, noticed, device
        self._saved_at = time.monotonic()
        self._saved_for: float | None = None

    def after_epoch(self, epoch: int, last: bool) -> bool:
        """Return whether to save at the end of this epoch: the last, and every one that the user's interval names."""
        every = self._every.epochs
        return last or every is None or epoch % every == 0

    def after_step(self, step: int) -> bool:
        """Return whether to save after a step within an epoch; `step` counts from the start of training."""
        if self._every.steps is not None and step % self._every.steps == 0:
            return True
        if step % LOOK_EVERY:
            return False
        return self._time_has_come() or self._new_notice()

    def saved(self) -> None:
        """Restart the interval of `--checkpoint-every`; must be called after each checkpoint."""
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
