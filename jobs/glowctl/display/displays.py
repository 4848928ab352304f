"""The displays of a job: a live bar or table in a terminal, plain lines in a pipe, and JSON lines for machines.

A job emits events (`glowctl.display.events`). A display turns them into text (`glowctl.display.lines`) or JSON. A job
on a cluster writes JSON lines into its log (`Wire`), from which its client restores the events (`sent_event`).
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol, TextIO

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from glowctl.display.events import (
    KINDS,
    OF_TRIAL,
    Ablating,
    AblationStopped,
    AblationSummary,
    AttemptStarted,
    Epoch,
    Event,
    Packing,
    Plan,
    Scoring,
    Show,
    Started,
    Step,
    TrialEnded,
    TrialEvent,
)
from glowctl.display.lines import image_figures, progress_of, step_figures, text_of
from glowctl.text import JsonObject, bits, duration, json_text

QUIET_S = 30.0
"""Seconds without a line after which plain lines report the progress."""


class Display(Protocol):
    """A context manager that yields a function to show events, and at its end restores the terminal."""

    def __enter__(self) -> Show: ...
    def __exit__(self, *exception: object) -> None: ...


def forgiving(show: Show) -> Show:
    """Wrap `show` so that it stops showing events after its first OSError instead of raising it.

    A closed pipe, such as that of ``glowctl train | head``, should not end a training.
    """
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
    """Make the display that the user asked for.

    Args:
        kind: "json", "plain", or "auto", which is live in a terminal and plain otherwise.
        table: whether the live display is a table of trials rather than a progress bar.
    """
    if kind == "json":
        return JsonLines()
    if kind == "plain" or not sys.stdout.isatty():
        return PlainLines()
    return LiveTable() if table else LiveBar()


class EventLines:
    """What displays of lines have in common: each event is written at once.

    Args:
        out: where the lines are written; None for standard output.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout

    def __enter__(self) -> Show:
        return self.show

    def __exit__(self, *exception: object) -> None:
        """Do nothing: each line is flushed when it is written."""

    def show(self, event: Event) -> None:
        """Write an event, unless it has no text."""
        text = self.text(event)
        if text is not None:
            self.write(text)

    def text(self, event: Event) -> str | None:
        """Return an event as text; None to leave it out."""
        return text_of(event)

    def write(self, text: str) -> None:
        """Write a text and a line break."""
        print(text, file=self._out, flush=True)


class PlainLines(EventLines):
    """A display of plain lines, such as one per epoch.

    After `QUIET_S` seconds without a line, it writes one with the newest progress, so that the reader of a file or a
    pipe sees that the job is at work.
    """

    def __enter__(self) -> Show:
        self._began = self._last = time.monotonic()
        self._progress = ""
        self._ended, self._writing = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._report_progress, name="progress", daemon=True)
        self._thread.start()
        return self.show_or_keep

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def show_or_keep(self, event: Event) -> None:
        """Write an event; if it is one for live displays, keep it as the newest progress."""
        text = self.text(event)
        if text is None:
            self._progress = progress_of(event) or self._progress
            return
        with self._writing:
            self.write(text)
            self._progress, self._last = "", time.monotonic()

    def _report_progress(self) -> None:
        while not self._ended.wait(max(0.1, self._last + QUIET_S - time.monotonic())):
            with self._writing, suppress(OSError, ValueError):  # the reader has gone; an event meets the same error
                now = time.monotonic()
                if now - self._last >= QUIET_S:
                    text, self._progress, self._last = self._progress, "", now
                    self.write(text or f"at work for {duration(now - self._began)}")


class JsonLines(EventLines):
    """A display that writes every event as a JSON object, one per line."""

    def text(self, event: Event) -> str:
        """Return an event as JSON, in which numbers that are not finite are null."""
        return json_text(event.to_dict())


class Wire(EventLines):
    """A display for jobs on a cluster: it writes every event as a JSON line, which the client reads from the log."""

    def text(self, event: Event) -> str:
        """Return an event as JSON, in which NaN and infinity stay as they are."""
        return json.dumps(event.to_dict())


def sent_event(line: str) -> Event | None:
    """Return the event in a line that `Wire` wrote; None for any other line."""
    if not line.startswith('{"event":'):
        return None
    try:
        said: JsonObject = json.loads(line)
        name = str(said["event"])
        if name in KINDS:
            event: Event = _reader(name).validate_python(said)
            return event
        inner = name.removeprefix(OF_TRIAL)
        return TrialEvent(said["trial"], _reader(inner).validate_python(said)) if inner in KINDS else None
    except (ValueError, KeyError, ValidationError):
        return None


@cache
def _reader(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(KINDS[name])


class LiveDisplay(ABC):
    """A display of which a part changes; the texts of events are printed as lines above that part.

    Args:
        console: the terminal.
        live: the part that changes.
    """

    def __init__(self, console: Console, live: Progress | Live) -> None:
        self._console, self._live = console, live

    def __enter__(self) -> Show:
        self._live.start()
        return self.show

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # the terminal was closed
            self._live.stop()

    def show(self, event: Event) -> None:
        """Print the text of an event, if it has one, and update what is below."""
        text = text_of(event)
        if text is not None and not self.is_seen_below(event):
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)
        self.update(event)

    def is_seen_below(self, event: Event) -> bool:
        """Return whether an event needs no line, because the part that changes shows it."""
        return False

    @abstractmethod
    def update(self, event: Event) -> None:
        """Update the part that changes."""


class LiveBar(LiveDisplay):
    """A display with a progress bar; finished epochs and other events are printed as lines above the bar."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console()
        self._progress = Progress(
            TextColumn("{task.fields[where]}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("job", total=None, where="starting", figures="")
        super().__init__(console, self._progress)

    def update(self, event: Event) -> None:
        """Move the bar."""
        match event:
            case Epoch():
                self._progress.update(self._task, total=event.epochs, completed=event.epoch, figures="")
            case Step():
                where = f"epoch {event.epoch}/{event.epochs}"
                self._move(event.epoch - 1 + event.step / event.steps, event.epochs, where, step_figures(event))
            case Packing() | Scoring():
                where = "packing" if isinstance(event, Packing) else f"scoring {event.dataset} {event.split}"
                self._move(event.images, event.of, where, image_figures(event))

    def _move(self, done: float, of: int, where: str, figures: str) -> None:
        self._progress.update(self._task, total=of, completed=done, where=where, figures=figures, refresh=True)


@dataclass
class TrialRow:
    """The state of a trial, for a row of `LiveTable`. Values that are not known yet are NaN; epochs are 0."""

    state: str
    epoch: int = 0
    epochs: int = 0
    train: float = math.nan
    validation: float = math.nan
    test: float = math.nan
    images_per_second: float = math.nan
    seconds_left: float = math.nan

    def update(self, event: AttemptStarted | Step | Epoch) -> None:
        """Store the state, epoch, scores and speed that an event reports."""
        self.state, self.epoch, self.epochs = "running", event.epoch, event.epochs
        if isinstance(event, AttemptStarted):
            return
        self.train, self.validation = event.train_bits_per_dim, event.validation_bits_per_dim
        self.images_per_second, self.seconds_left = event.images_per_second, event.seconds_left
        if isinstance(event, Epoch):
            self.test = event.test_bits_per_dim_by_epoch

    def cells(self) -> list[str]:
        """Return the cells of the row after the label; speed and time left are empty unless the trial runs."""
        epoch = f"{self.epoch}/{self.epochs}" if self.epoch and self.epochs else "-"
        numbers = [bits(nll) for nll in (self.train, self.validation, self.test)]
        if self.state != "running":
            return [epoch, *numbers, "", "", self.state]
        pace = f"{self.images_per_second:.0f}" if math.isfinite(self.images_per_second) else "-"
        return [epoch, *numbers, pace, duration(self.seconds_left), self.state]


class LiveTable(LiveDisplay):
    """A display with a table of trials; trials that have ended and other events are printed as lines above the table.

    Running trials come first. Trials for which the terminal has no room are counted in the last row.
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console()
        self._table_of_trials = Live(console=console, auto_refresh=False, transient=True)
        super().__init__(console, self._table_of_trials)
        self._trials: dict[str, TrialRow] = {}  # by label

    def is_seen_below(self, event: Event) -> bool:
        """Return whether the event is the start or an epoch of a trial."""
        return isinstance(event, TrialEvent) and isinstance(event.said, Started | Epoch)

    def update(self, event: Event) -> None:
        """Update the table."""
        match event:
            case Plan():
                self._trials = {label: TrialRow("waiting") for label in event.labels}
            case Ablating():
                self._trials |= {label: TrialRow("finished") for label in event.finished}
                self._trials |= {label: TrialRow(state) for label, state in event.ended.items()}
            case AblationSummary() | AblationStopped():
                self._trials = {}
            case TrialEvent(said=AttemptStarted() | Step() | Epoch() as said):
                self._row(event.trial).update(said)
            case TrialEnded():
                row = self._row(event.trial)
                row.state, row.test = event.state, event.test_bits_per_dim
        self._table_of_trials.update(self._table(), refresh=True)

    def _row(self, label: str) -> TrialRow:
        return self._trials.setdefault(label, TrialRow("running"))

    def _table(self) -> Table | str:
        if not self._trials:
            return ""
        table = Table("trial", "epoch", "train", "validation", "test bits/dim", "images/s", "time left", "state")
        order = {"running": 0, "waiting": 2}
        rows = sorted(self._trials.items(), key=lambda item: order.get(item[1].state, 1))
        room = max(4, self._console.height - 8)
        for label, row in rows[:room]:
            table.add_row(label, *row.cells())
        if len(rows) > room:
            table.add_row(f"and {len(rows) - room} more", *[""] * 7)
        return table
