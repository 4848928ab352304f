"""How a job shows what it says: a live bar or table in a terminal, a line an epoch in a pipe, JSON lines for machines.

A job reports events, dicts with a key ``event``; a display turns them into text. They are listed, with their lines, in
the modules of this room whose names end in `_lines`.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any, Literal, Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from jobs.display.ablation_lines import ABLATION_LINES
from jobs.display.evaluation_lines import EVALUATION_LINES
from jobs.display.report_lines import REPORT_LINES
from jobs.display.training_lines import TRAINING_LINES
from jobs.text import bits, duration

__all__ = [
    "Display",
    "Event",
    "JsonLines",
    "LiveBar",
    "LiveTable",
    "PlainLines",
    "Wire",
    "forgiving",
    "make_display",
    "sent_event",
]

Event = dict[str, Any]
Show = Callable[[Event], None]


class Display(Protocol):
    """Shows events. A context manager, so that a terminal is left as it was found."""

    def __enter__(self) -> Callable[[Event], None]: ...
    def __exit__(self, *exception: object) -> None: ...


def forgiving(show: Callable[[Event], None]) -> Callable[[Event], None]:
    """Shows events until that fails once, as when the reader of a pipe has left: no training should end for it."""
    broken = False

    def show_if_possible(event: Event) -> None:
        nonlocal broken
        try:
            if not broken:
                show(event)
        except OSError:
            broken = True

    return show_if_possible


def make_display(kind: Literal["auto", "plain", "json"], table: bool = False) -> Display:
    """In a terminal a live bar, or a live table for what has many trainings."""
    if kind == "json":
        return JsonLines()
    if kind == "plain" or not sys.stdout.isatty():
        return PlainLines()
    return LiveTable() if table else LiveBar()


LINES: dict[str, Callable[[Event], str]] = {**TRAINING_LINES, **EVALUATION_LINES, **ABLATION_LINES, **REPORT_LINES}


class PlainLines:
    """A line an epoch."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout

    def __enter__(self) -> Callable[[Event], None]:
        return self.show

    def __exit__(self, *exception: object) -> None:
        """Each line is flushed as it is written."""

    def show(self, event: Event) -> None:
        text = self.text(event)
        if text is not None:
            print(text, file=self._out, flush=True)

    def text(self, event: Event) -> str | None:
        line = LINES.get(event["event"])
        return None if line is None else line(event)


class JsonLines(PlainLines):
    """Every event as one JSON object a line."""

    def text(self, event: Event) -> str | None:
        return json.dumps(_json_value(event))


class Wire(PlainLines):
    """Every event as `sent_event` reads it: JSON lines, but with NaN and infinity."""

    def text(self, event: Event) -> str | None:
        return json.dumps({"event": event["event"], **event})


def sent_event(line: str) -> Event | None:
    """The event in a line that `Wire` wrote, None for any other line."""
    if not line.startswith('{"event":'):
        return None
    try:
        event: Event = json.loads(line)
    except ValueError:
        return None
    return event


def _json_value(value: Any) -> Any:
    """JSON has no NaN or infinity."""
    if isinstance(value, dict):
        return {key: _json_value(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_json_value(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class LiveBar:
    """A progress bar under the lines of what is done."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._progress = Progress(
            TextColumn("{task.fields[where]}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=self._console,
        )
        self._task = self._progress.add_task("job", total=None, where="starting", figures="")

    def __enter__(self) -> Callable[[Event], None]:
        self._progress.start()
        return self.show

    def __exit__(self, *exception: object) -> None:
        self._progress.update(self._task, visible=False)
        self._progress.stop()

    def show(self, event: Event) -> None:
        if event["event"] in LINES:
            self._console.print(LINES[event["event"]](event), highlight=False, markup=False, soft_wrap=True)
        if event["event"] == "epoch":
            self._progress.update(self._task, total=event["epochs"], completed=event["epoch"], figures="")
        if event["event"] == "step":
            self._progress.update(
                self._task,
                total=event["epochs"],
                completed=event["epoch"] - 1 + event["step"] / event["steps"],
                where=f"epoch {event['epoch']}/{event['epochs']}",
                figures=f"step {event['step']}/{event['steps']}  train {event['train_bits_per_dim']:.3f}  "
                f"validation {bits(event['validation_bits_per_dim'])} bits/dim  "
                f"{event['images_per_second']:.0f} images/s  {duration(event['seconds_left'])} left",
                refresh=True,
            )
        if event["event"] == "scoring":
            self._progress.update(
                self._task,
                total=event["of"],
                completed=event["images"],
                where=f"scoring {event['dataset']} {event['split']}",
                figures=f"{event['images']}/{event['of']} images  {event['images_per_second']:.0f} images/s",
                refresh=True,
            )


class LiveTable:
    """A table of the trials that run, and of as many of the others as there is room for, under the lines of what is
    done."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._trials: dict[str, dict[str, Any]] = {}  # label -> what its row shows
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Callable[[Event], None]:
        self._live.start()
        return self.show

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        kind = event["event"]
        if kind in LINES and kind not in ("trial_started", "trial_epoch"):
            self._console.print(LINES[kind](event), highlight=False, markup=False, soft_wrap=True)
        if kind == "plan":
            self._trials = {label: {"state": "waiting"} for label in event["labels"]}
        elif kind == "ablating":
            self._trials |= {label: {"state": "finished"} for label in event["finished"]}
        elif kind in ("ablated", "ablation_stopped"):
            self._trials = {}
        elif "trial" in event:
            row = self._trials.setdefault(event["trial"], {})
            row |= {"state": "running", **event}
        self._live.update(self._table(), refresh=True)

    def _table(self) -> Table | str:
        if not self._trials:
            return ""
        table = Table("trial", "epoch", "train", "validation bits/dim", "test", "images/s", "left", "state")
        order = {"running": 0, "waiting": 2}
        rows = sorted(self._trials.items(), key=lambda item: order.get(item[1]["state"], 1))
        room = max(4, self._console.height - 8)
        for label, row in rows[:room]:
            test = row.get("test_bits_per_dim", row.get("test_bits_per_dim_by_epoch", math.nan))
            nlls = (row.get("train_bits_per_dim", math.nan), row.get("validation_bits_per_dim", math.nan), test)
            numbers = (bits(nll) for nll in nlls)
            epoch = f"{row['epoch']}/{row['epochs']}" if row.get("epoch") and "epochs" in row else "-"
            pace, left = row.get("images_per_second", math.nan), row.get("seconds_left", math.nan)
            running = row["state"] == "running"
            pace_and_left = (f"{pace:.0f}" if math.isfinite(pace) else "-", duration(left)) if running else ("", "")
            table.add_row(label, epoch, *numbers, *pace_and_left, row["state"])
        if len(rows) > room:
            table.add_row(f"and {len(rows) - room} more", *[""] * 7)
        return table
