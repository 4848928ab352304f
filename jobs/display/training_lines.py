"""Lines of text for the events of a training, and for those before it: a job is submitted, and waits for machines."""

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
    """Return a line with the job's id and, if this command does not wait for the job, how to follow and stop it."""
    job = event.job
    left = f"; to follow it: glowctl logs -f {job}; to stop it: glowctl stop {job}" if event.detached else ""
    return f"submitted job {job} to {event.address}{left}"


def waiting_line(event: Waiting) -> str:
    """Return a line that says for how many workers the cluster has room now."""
    workers = count(event.workers, "worker")
    return f"waiting for machines: there is room for {event.room} of {workers} now; the cluster can add machines"


def noted_line(event: Noted) -> str:
    """Return a note on how the data were read."""
    return f"note: {event.message}"


def started_line(event: Started) -> str:
    """Return the number of workers, their device, the seconds since the command started, and the run."""
    workers = count(event.workers, "worker")
    ready = f"ready in {event.startup_seconds or 0:.0f} s"
    return f"training on {workers} ({event.device}), {ready}: {event.run!r}, run {event.run_id}"


def epoch_line(event: Epoch) -> str:
    """Return the scores of an epoch in bits/dim, the speed, the time left, and the skipped steps if there are any."""
    skipped = f", {count(event.skipped_steps, 'step')} skipped so far" if event.skipped_steps else ""
    return (
        f"epoch {event.epoch}/{event.epochs}  train {event.train_bits_per_dim:.3f}  "
        f"validation {bits(event.validation_bits_per_dim)} bits/dim  {event.images_per_second:.0f} images/s  "
        f"{duration(event.seconds_left)} left{skipped}"
    )


def reached(event: AttemptStarted) -> str:
    """Return how far the training was at the checkpoint from which it continues, such as "epoch 3 and 20 steps"."""
    return f"epoch {event.epoch}" + (f" and {count(event.step, 'step')}" if event.step else "")


def restart_line(event: Restart) -> str:
    """Return a line that says where a training continues after the loss of a worker, and counts the restarts."""
    return f"a worker was lost: training restarted after {reached(event)} (restart {event.restarts})"


def resize_line(event: Resize) -> str:
    """Return a line that says where an elastic training continues, and with how many workers."""
    return f"there is room for more workers: training continues with {event.workers} after {reached(event)}"


def stopped_line(event: Stopped) -> str:
    """Return a line with the command that continues an interrupted training."""
    return f"stopped; to continue from the last checkpoint, run: glowctl train --resume {event.run_id}"


def sizes_sentence(result: TrainResult) -> str:
    """Return the test set's bits/dim at the model's image size, and per original pixel if the images were padded."""
    (_, height, width), (_, old_height, old_width) = result.image_shape, result.original_shape
    at = f"{result.test_bits_per_dim:.3f} bits/dim at {height}x{width}"
    if (height, width) == (old_height, old_width):
        return at
    if height < old_height or width < old_width:
        return f"{at}, shrunk from {old_height}x{old_width}"
    return f"{at}, {result.test_bits_per_dim_original:.3f} per original pixel ({old_height}x{old_width})"


def finished_lines(event: TrainResult) -> str:
    """Return the result of a training, and where its samples, its model and its run are."""
    return "\n".join(
        [
            f"test      {sizes_sentence(event)}",
            f"trained   in {duration(event.seconds)} at {event.images_per_second:.0f} images/s; the model of epoch "
            f"{event.best_epoch} is the best by validation",
            f"samples   {event.sample_grid}",
            f"model     {event.model} in MLflow" + (f"; files in {event.checkpoint}" if event.checkpoint else ""),
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
