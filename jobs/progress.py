"""What a job says while it runs: a live bar in a terminal, a line an epoch in a pipe, JSON lines for machines.

A job reports events, dicts with a key ``event``; a display turns them into text. Events of training:

- ``started``: run, run_id, workers, epochs, device, precision
- ``step``: epoch, step, steps, images_per_second, train_bits_per_dim, seconds_left
- ``epoch``: everything in `glow.training.EpochResult`, epochs, seconds_left
- ``restart``: restarts, epoch
- ``finished``: everything in `jobs.train.TrainResult`
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any, Literal, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

__all__ = ["Display", "Event", "JsonLines", "LiveBar", "PlainLines", "duration", "make_display"]

Event = dict[str, Any]


class Display(Protocol):
    """Shows events. A context manager, so that a terminal is left as it was found."""

    def __enter__(self) -> Callable[[Event], None]: ...
    def __exit__(self, *exception: object) -> None: ...


def make_display(kind: Literal["auto", "json"]) -> Display:
    if kind == "json":
        return JsonLines()
    return LiveBar() if sys.stdout.isatty() else PlainLines()


def duration(seconds: float) -> str:
    """3725 -> "1:02:05"; 65 -> "1:05"."""
    if not math.isfinite(seconds):
        return "-"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def started_line(event: Event) -> str:
    workers = f"{event['workers']} worker" + ("" if str(event["workers"]) == "1" else "s")
    return f"training {event['run']} on {workers} ({event['device']}), run {event['run_id']}"


def epoch_line(event: Event) -> str:
    skipped = f", {event['skipped_steps']} steps skipped" if event["skipped_steps"] else ""
    return (
        f"epoch {event['epoch']}/{event['epochs']}  train {event['train_bits_per_dim']:.3f}  "
        f"validation {event['validation_bits_per_dim']:.3f} bits/dim  {event['images_per_second']:.0f} images/s  "
        f"{duration(event['seconds_left'])} left{skipped}"
    )


def restart_line(event: Event) -> str:
    return f"a worker was lost: training restarted after epoch {event['epoch']} (restart {event['restarts']})"


class PlainLines:
    """A line an epoch."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout

    def __enter__(self) -> Callable[[Event], None]:
        return self.show

    def __exit__(self, *exception: object) -> None:
        self._out.flush()

    def show(self, event: Event) -> None:
        line = {"started": started_line, "epoch": epoch_line, "restart": restart_line}.get(event["event"])
        if line is not None:
            print(line(event), file=self._out, flush=True)


class JsonLines:
    """Every event as one JSON object a line."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout

    def __enter__(self) -> Callable[[Event], None]:
        return self.show

    def __exit__(self, *exception: object) -> None:
        self._out.flush()

    def show(self, event: Event) -> None:
        print(json.dumps({key: _json_value(value) for key, value in event.items()}), file=self._out, flush=True)


def _json_value(value: Any) -> Any:
    """JSON has no NaN or infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class LiveBar:
    """A progress bar under the lines of the epochs that are done."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._progress = Progress(
            TextColumn("{task.fields[where]}"), BarColumn(), TextColumn("{task.fields[figures]}"), console=self._console
        )
        self._task = self._progress.add_task("training", total=None, where="starting", figures="")

    def __enter__(self) -> Callable[[Event], None]:
        self._progress.start()
        return self.show

    def __exit__(self, *exception: object) -> None:
        self._progress.update(self._task, visible=False)
        self._progress.stop()

    def show(self, event: Event) -> None:
        kind = event["event"]
        if kind == "started":
            self._console.print(started_line(event), highlight=False)
        elif kind == "restart":
            self._console.print(restart_line(event), highlight=False)
        elif kind == "epoch":
            self._console.print(epoch_line(event), highlight=False)
            done = event["epoch"] == event["epochs"]
            self._show_bar(event, 1, 1, "finishing" if done else f"epoch {event['epoch']} done", "")
        elif kind == "step":
            self._show_bar(
                event,
                event["step"],
                event["steps"],
                f"epoch {event['epoch']}/{event['epochs']}",
                f"step {event['step']}/{event['steps']}  {event['train_bits_per_dim']:.3f} bits/dim  "
                f"{event['images_per_second']:.0f} images/s  {duration(event['seconds_left'])} left",
            )

    def _show_bar(self, event: Event, step: int, steps: int, where: str, figures: str) -> None:
        epochs_done = event["epoch"] - 1
        self._progress.update(
            self._task,
            total=event["epochs"] * steps,
            completed=epochs_done * steps + step,
            where=where,
            figures=figures,
        )
