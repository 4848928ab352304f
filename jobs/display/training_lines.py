"""What a training says on the screen, and a job on a cluster before it begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobs.display.events import (
    AttemptStarted,
    Epoch,
    Event,
    Noted,
    Resize,
    Restart,
    Started,
    Stopped,
    Submitted,
    TrainResult,
    Waiting,
)
from jobs.text import bits, count, duration

__all__ = ["TRAINING_LINES", "epoch_line", "sizes_sentence"]


def submitted_line(event: Submitted) -> str:
    job = event.job
    left = f"; glowctl logs -f {job} shows it, glowctl stop {job} ends it" if event.detached else ""
    return f"submitted job {job} to {event.address}{left}"


def waiting_line(event: Waiting) -> str:
    workers = count(event.workers, "worker")
    return f"waiting for machines: there is room for {event.room} of {workers}, and the cluster may add more"


def noted_line(event: Noted) -> str:
    return f"note: {event.message}"


def started_line(event: Started) -> str:
    workers = count(event.workers, "worker")
    ready = f"ready in {event.startup_seconds or 0:.0f} s"
    return f"training {event.run} on {workers} ({event.device}), {ready}, run {event.run_id}"


def epoch_line(event: Epoch) -> str:
    skipped = f", {event.skipped_steps} steps skipped" if event.skipped_steps else ""
    return (
        f"epoch {event.epoch}/{event.epochs}  train {event.train_bits_per_dim:.3f}  "
        f"validation {bits(event.validation_bits_per_dim)} bits/dim  {event.images_per_second:.0f} images/s  "
        f"{duration(event.seconds_left)} left{skipped}"
    )


def reached(event: AttemptStarted) -> str:
    """How far the training had come at the checkpoint that it goes on from."""
    return f"epoch {event.epoch}" + (f" and {count(event.step, 'step')}" if event.step else "")


def restart_line(event: Restart) -> str:
    return f"a worker was lost: training restarted after {reached(event)} (restart {event.restarts})"


def resize_line(event: Resize) -> str:
    return f"there is room for more: training goes on with {event.workers} workers after {reached(event)}"


def stopped_line(event: Stopped) -> str:
    return f"stopped; to go on from the last checkpoint: glowctl train --resume {event.run_id}"


def sizes_sentence(result: TrainResult) -> str:
    """The test set's bits/dim at the model's size, and per original pixel where the images were padded."""
    (_, height, width), (_, old_height, old_width) = result.image_shape, result.original_shape
    at = f"{result.test_bits_per_dim:.3f} bits/dim at {height}x{width}"
    if (height, width) == (old_height, old_width):
        return at
    if height < old_height or width < old_width:
        return f"{at}, shrunk from {old_height}x{old_width}"
    return f"{at}, {result.test_bits_per_dim_original:.3f} per original pixel ({old_height}x{old_width})"


def finished_lines(event: TrainResult) -> str:
    return "\n".join(
        [
            f"test      {sizes_sentence(event)}",
            f"trained   in {duration(event.seconds)} at {event.images_per_second:.0f} images/s, "
            f"best epoch {event.best_epoch}",
            f"samples   {event.sample_grid}",
            f"model     {event.model} in MLflow" + (f"; {event.checkpoint}" if event.checkpoint else ""),
            f"run       {event.run_id}; to see it: {event.open_with}",
        ]
    )


TRAINING_LINES: dict[type[Event], Callable[[Any], str]] = {
    Submitted: submitted_line,
    Waiting: waiting_line,
    Noted: noted_line,
    Started: started_line,
    Epoch: epoch_line,
    Restart: restart_line,
    Resize: resize_line,
    Stopped: stopped_line,
    TrainResult: finished_lines,
}
