"""How a job shows what it says: a live bar or table in a terminal, a line an epoch in a pipe, JSON lines for machines.

A job says events (`jobs.display.events`); a display turns them into text by the functions of the modules whose names
end in `_lines`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from jobs.display.ablation_lines import ABLATION_LINES
from jobs.display.evaluation_events import Scoring
from jobs.display.evaluation_lines import EVALUATION_LINES
from jobs.display.events import (
    Ablating,
    AblationStopped,
    AblationSummary,
    AttemptStarted,
    Epoch,
    Event,
    Packing,
    Plan,
    Show,
    Started,
    Step,
    TrialEnded,
    TrialEvent,
)
from jobs.display.packing_lines import PACKING_LINES
from jobs.display.report_lines import REPORT_LINES
from jobs.display.training_lines import TRAINING_LINES
from jobs.display.wire import event_line
from jobs.text import bits, duration, json_text

__all__ = [
    "Display",
    "JsonLines",
    "LiveBar",
    "LiveTable",
    "PlainLines",
    "Wire",
    "forgiving",
    "make_display",
]


class Display(Protocol):
    """Shows events. A context manager, so that a terminal is left as it was found."""

    def __enter__(self) -> Show: ...
    def __exit__(self, *exception: object) -> None: ...


def forgiving(show: Show) -> Show:
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


LINES: dict[type[Event], Callable[[Any], str | None]] = {
    **TRAINING_LINES,
    **EVALUATION_LINES,
    **ABLATION_LINES,
    **REPORT_LINES,
    **PACKING_LINES,
}


def text_of(event: Event) -> str | None:
    """An event in words; None for one that only a live display shows."""
    line = LINES.get(type(event))
    return None if line is None else line(event)


class PlainLines:
    """A line an epoch."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout

    def __enter__(self) -> Show:
        return self.show

    def __exit__(self, *exception: object) -> None:
        """Each line is flushed as it is written."""

    def show(self, event: Event) -> None:
        text = self.text(event)
        if text is not None:
            print(text, file=self._out, flush=True)

    def text(self, event: Event) -> str | None:
        return text_of(event)


class JsonLines(PlainLines):
    """Every event as one JSON object a line."""

    def text(self, event: Event) -> str | None:
        return json_text(event.to_dict())


class Wire(PlainLines):
    """Every event as `jobs.display.wire.sent_event` reads it."""

    def text(self, event: Event) -> str | None:
        return event_line(event)


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

    def __enter__(self) -> Show:
        self._progress.start()
        return self.show

    def __exit__(self, *exception: object) -> None:
        self._progress.update(self._task, visible=False)
        self._progress.stop()

    def show(self, event: Event) -> None:
        text = text_of(event)
        if text is not None:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)
        match event:
            case Epoch():
                self._progress.update(self._task, total=event.epochs, completed=event.epoch, figures="")
            case Step():
                self._progress.update(
                    self._task,
                    total=event.epochs,
                    completed=event.epoch - 1 + event.step / event.steps,
                    where=f"epoch {event.epoch}/{event.epochs}",
                    figures=f"step {event.step}/{event.steps}  train {event.train_bits_per_dim:.3f}  "
                    f"validation {bits(event.validation_bits_per_dim)} bits/dim  "
                    f"{event.images_per_second:.0f} images/s  {duration(event.seconds_left)} left",
                    refresh=True,
                )
            case Packing():
                self._progress.update(
                    self._task,
                    total=event.of,
                    completed=event.images,
                    where="packing",
                    figures=f"{event.images:,}/{event.of:,} images  {event.images_per_second:.0f} images/s",
                    refresh=True,
                )
            case Scoring():
                self._progress.update(
                    self._task,
                    total=event.of,
                    completed=event.images,
                    where=f"scoring {event.dataset} {event.split}",
                    figures=f"{event.images}/{event.of} images  {event.images_per_second:.0f} images/s",
                    refresh=True,
                )


@dataclass
class TrialRow:
    """What a row of `LiveTable` shows of a trial. Numbers are NaN, and epochs 0, until they are known."""

    state: str
    epoch: int = 0
    epochs: int = 0
    train: float = math.nan
    validation: float = math.nan
    test: float = math.nan
    images_per_second: float = math.nan
    seconds_left: float = math.nan

    def update(self, event: AttemptStarted | Step | Epoch) -> None:
        self.state, self.epoch, self.epochs = "running", event.epoch, event.epochs
        if isinstance(event, AttemptStarted):
            return
        self.train, self.validation = event.train_bits_per_dim, event.validation_bits_per_dim
        self.images_per_second, self.seconds_left = event.images_per_second, event.seconds_left
        if isinstance(event, Epoch):
            self.test = event.test_bits_per_dim_by_epoch

    def cells(self) -> list[str]:
        epoch = f"{self.epoch}/{self.epochs}" if self.epoch and self.epochs else "-"
        numbers = [bits(nll) for nll in (self.train, self.validation, self.test)]
        if self.state != "running":
            return [epoch, *numbers, "", "", self.state]
        pace = f"{self.images_per_second:.0f}" if math.isfinite(self.images_per_second) else "-"
        return [epoch, *numbers, pace, duration(self.seconds_left), self.state]


class LiveTable:
    """A table of the trials that run, and of as many of the others as there is room for, under the lines of what is
    done."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._trials: dict[str, TrialRow] = {}  # by label
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Show:
        self._live.start()
        return self.show

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        text = text_of(event)
        # Starts and epochs are in the table alone.
        if text is not None and not (isinstance(event, TrialEvent) and isinstance(event.said, Started | Epoch)):
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)
        match event:
            case Plan():
                self._trials = {label: TrialRow("waiting") for label in event.labels}
            case Ablating():
                self._trials |= {label: TrialRow("finished") for label in event.finished}
            case AblationSummary() | AblationStopped():
                self._trials = {}
            case TrialEvent(said=AttemptStarted() | Step() | Epoch() as said):
                self._row(event.trial).update(said)
            case TrialEnded():
                row = self._row(event.trial)
                row.state, row.test = event.state, event.test_bits_per_dim
        self._live.update(self._table(), refresh=True)

    def _row(self, label: str) -> TrialRow:
        return self._trials.setdefault(label, TrialRow("running"))

    def _table(self) -> Table | str:
        if not self._trials:
            return ""
        table = Table("trial", "epoch", "train", "validation bits/dim", "test", "images/s", "left", "state")
        order = {"running": 0, "waiting": 2}
        rows = sorted(self._trials.items(), key=lambda item: order.get(item[1].state, 1))
        room = max(4, self._console.height - 8)
        for label, row in rows[:room]:
            table.add_row(label, *row.cells())
        if len(rows) > room:
            table.add_row(f"and {len(rows) - room} more", *[""] * 7)
        return table
