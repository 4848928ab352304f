"""The plan by which a training saves checkpoints.

A checkpoint is saved after an epoch, within an epoch after some steps or minutes (``--checkpoint-every``), and when the
cluster announces that it will take a machine away: at the announcement, and once more just before the machine goes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from glow.distributed import all_reduce_sum, world_size
from glowctl.specs.base import Every

LOOK_EVERY = 10
"""The most steps between two checks of the clock and of notices. Each check needs a message between the workers."""

LOOK_S = 1.0
"""Seconds between two checks, as far as steps are short enough. A spot machine may go 30 s after its notice."""

LAST_SAVE_S = 5.0
"""Seconds before a machine goes by which the last checkpoint must be begun, in addition to twice the time between two
checks and twice the time of a checkpoint."""

DEPARTURE_S = 60.0
"""Seconds after the announced time for which a training waits for the machine to go; then it continues."""

Noticed = Callable[[], float | None]
"""Returns the time, in seconds since 1970, at which a machine of this training will be taken away: None if none will,
0 if the time is not known."""


class SavingPlan:
    """Decides after which steps and epochs to save; all workers receive the same answers.

    If a machine will be taken away, one checkpoint is saved at the announcement, and a last one just before the machine
    goes. The time that the first one takes to be stored determines when the last one must begin. After the last one,
    the plan makes the training wait, because further steps would be lost.

    Args:
        every: the interval that the user asked for.
        noticed: returns the time at which a machine of this training will be taken away (see `Noticed`). All workers
            call it at the same steps.
        device: the device of the tensors that workers exchange.

    Attributes:
        urgent: whether the checkpoint that is due is saved because a machine will be taken away. Such a checkpoint must
            be stored before the training continues.
    """

    def __init__(self, every: Every, noticed: Noticed, device: torch.device) -> None:
        self._every, self._noticed, self._device = every, noticed, device
        self._saved_at = self._looked_at = self._began_at = time.monotonic()
        self._between_looks_s = self._saving_s = 0.0
        self._steps, self._look_after = 0, 1
        self._noted: float | None = None
        self._goes_at: float | None = None
        self._leaving = False
        self.urgent = False

    def after_epoch(self, epoch: int, last: bool) -> bool:
        """Return whether to save at the end of this epoch.

        The last epoch is always saved. If the user's interval is n epochs, every n-th epoch is saved too; if the
        interval is in steps or a time, every epoch is.
        """
        every = self._every.epochs
        due = self._look() or last or every is None or epoch % every == 0
        self._began_at = time.monotonic()
        return due

    def after_step(self, step: int) -> bool:
        """Return whether to save after a step within an epoch; `step` counts from the start of training."""
        due = self._every.steps is not None and step % self._every.steps == 0
        self._steps += 1
        if self._steps >= self._look_after:
            due = self._look() or due
        self._began_at = time.monotonic()
        return due

    def saved(self) -> None:
        """Restart the interval of `--checkpoint-every`; must be called after each checkpoint.

        After the last checkpoint before a machine goes, this waits until Ray ends this process. If Ray has not done so
        `DEPARTURE_S` seconds after the announced time, the training continues.
        """
        self._saved_at = time.monotonic()
        if self.urgent:
            self._saving_s = self._saved_at - self._began_at
        self.urgent = False
        if self._leaving:
            assert self._goes_at is not None
            time.sleep(max(0.0, self._goes_at + DEPARTURE_S - time.time()))
            self._goes_at, self._leaving = None, False  # the machine has stayed

    def _look(self) -> bool:
        """Return whether a machine will go, or for any of the workers the interval is over; agree on the next look."""
        now = time.monotonic()
        self._between_looks_s, self._looked_at = now - self._looked_at, now
        announced = self._new_notice()
        over = self._every.seconds is not None and now - self._saved_at >= self._every.seconds
        goes = self._goes_at is not None and time.time() >= self._goes_at - self._needed_s()
        answers = torch.tensor([float(over), float(goes), self._between_looks_s], device=self._device)
        over, goes, seconds = all_reduce_sum(answers).tolist() if world_size() > 1 else answers.tolist()
        pace = seconds / world_size() / max(1, self._steps)
        self._look_after = max(1, min(LOOK_EVERY, int(LOOK_S / pace) if pace else LOOK_EVERY))
        self._steps, self._leaving = 0, bool(goes)
        self.urgent = announced or self._leaving
        return bool(over) or self.urgent

    def _needed_s(self) -> float:
        return LAST_SAVE_S + 2 * (self._between_looks_s + self._saving_s)

    def _new_notice(self) -> bool:
        time_s = self._noticed()
        if time_s is None or time_s == self._noted:
            return False
        self._noted, self._goes_at = time_s, time_s or None
        return True
