"""What a training says on the screen. Its events, dicts with a key ``event``:

- ``submitted``: job, address, detached (of every job on a cluster)
- ``waiting``: workers, room (of a cluster that must grow first)
- ``started``: run, run_id, workers, epochs, device, precision, startup_seconds (since the start of the command)
- ``step``: epoch, step, steps, images_per_second, train_bits_per_dim, validation_bits_per_dim (of the epoch before),
  seconds_left
- ``epoch``: everything in `glow.training.EpochResult`, test_bits_per_dim_by_epoch (NaN if not scored), epochs,
  seconds_left
- ``restart``: restarts, epoch, workers; ``resize``: epoch, workers
- ``stopped``: run, run_id
- ``finished``: everything in `jobs.display.events.TrainResult`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobs.text import bits, count, duration

__all__ = ["TRAINING_LINES", "epoch_line", "sizes_sentence"]

Event = dict[str, Any]


def submitted_line(event: Event) -> str:
    job = event["job"]
    left = f"; glowctl logs -f {job} shows it, glowctl stop {job} ends it" if event["detached"] else ""
    return f"submitted job {job} to {event['address']}{left}"


def waiting_line(event: Event) -> str:
    workers = count(event["workers"], "worker")
    return f"waiting for machines: there is room for {event['room']} of {workers}, and the cluster may add more"


def started_line(event: Event) -> str:
    workers = count(event["workers"], "worker")
    ready = f"ready in {event['startup_seconds']:.0f} s"
    return f"training {event['run']} on {workers} ({event['device']}), {ready}, run {event['run_id']}"


def epoch_line(event: Event) -> str:
    skipped = f", {event['skipped_steps']} steps skipped" if event["skipped_steps"] else ""
    return (
        f"epoch {event['epoch']}/{event['epochs']}  train {event['train_bits_per_dim']:.3f}  "
        f"validation {bits(event['validation_bits_per_dim'])} bits/dim  {event['images_per_second']:.0f} images/s  "
        f"{duration(event['seconds_left'])} left{skipped}"
    )


def restart_line(event: Event) -> str:
    return f"a worker was lost: training restarted after epoch {event['epoch']} (restart {event['restarts']})"


def resize_line(event: Event) -> str:
    return f"there is room for more: training goes on with {event['workers']} workers after epoch {event['epoch']}"


def stopped_line(event: Event) -> str:
    return f"stopped; to go on from the last checkpoint: glowctl train --resume {event['run_id']}"


def sizes_sentence(result: Event) -> str:
    """The test set's bits/dim at the model's size, and per original pixel where the images were padded."""
    (_, height, width), (_, old_height, old_width) = result["image_shape"], result["original_shape"]
    at = f"{result['test_bits_per_dim']:.3f} bits/dim at {height}x{width}"
    if (height, width) == (old_height, old_width):
        return at
    if height < old_height or width < old_width:
        return f"{at}, shrunk from {old_height}x{old_width}"
    return f"{at}, {result['test_bits_per_dim_original']:.3f} per original pixel ({old_height}x{old_width})"


def finished_lines(event: Event) -> str:
    return "\n".join(
        [
            f"test      {sizes_sentence(event)}",
            f"trained   in {duration(event['seconds'])} at {event['images_per_second']:.0f} images/s, "
            f"best epoch {event['best_epoch']}",
            f"samples   {event['sample_grid']}",
            f"model     {event['model']} in MLflow" + (f"; {event['checkpoint']}" if event["checkpoint"] else ""),
            f"run       {event['run_id']}; to see it: {event['open_with']}",
        ]
    )


TRAINING_LINES: dict[str, Callable[[Event], str]] = {
    "submitted": submitted_line,
    "waiting": waiting_line,
    "started": started_line,
    "epoch": epoch_line,
    "restart": restart_line,
    "resize": resize_line,
    "stopped": stopped_line,
    "finished": finished_lines,
}
