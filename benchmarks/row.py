"""The rows of the benchmark: each has a name, bars, and a function that measures figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from glow.model import Precision

__all__ = ["Bar", "Figure", "Row", "Setting", "at_least", "at_most", "measured"]


@dataclass(frozen=True)
class Setting:
    """The conditions under which rows are measured.

    Attributes:
        threads: number of threads.
        precisions: the precisions in which the hardware computes, the fastest last.
        quick: whether to take fewer repetitions.
    """

    threads: int
    precisions: Sequence[Precision]
    quick: bool = False

    @property
    def fastest(self) -> Precision:
        """The fastest precision."""
        return self.precisions[-1]

    def times(self, repetitions: int) -> int:
        """Return the number of repetitions: `repetitions`, or a third of it if the benchmark is to be quick."""
        return max(1, repetitions // 3) if self.quick else repetitions


@dataclass(frozen=True)
class Figure:
    """A measured number.

    Attributes:
        what: its name, which is unique within the row.
        value: the number; NaN if it was not measured.
        unit: x, %, s, images/s, MB, bits/dim, a noun that is counted, or nothing.
    """

    what: str
    value: float
    unit: str = ""


@dataclass(frozen=True)
class Bar:
    """A limit that the figure `what` of a row must reach: at least `limit`, or at most `limit` if `most` is true."""

    what: str
    limit: float
    unit: str
    most: bool = False

    def met(self, value: float) -> bool:
        """Return whether a value reaches the bar."""
        return value <= self.limit if self.most else value >= self.limit


def at_least(what: str, limit: float, unit: str) -> Bar:
    """Make a bar that a figure must not be below."""
    return Bar(what, limit, unit)


def at_most(what: str, limit: float, unit: str) -> Bar:
    """Make a bar that a figure must not be above."""
    return Bar(what, limit, unit, most=True)


@dataclass(frozen=True)
class Row:
    """A row of the benchmark. A row without bars only informs.

    Attributes:
        name: its name on the command line and in the JSON file.
        title: its name in tables.
        measure: measures the figures, and returns them with a remark, which may be empty.
        bars: the bars of its figures.
    """

    name: str
    title: str
    measure: Callable[[Setting], tuple[list[Figure], str]]
    bars: tuple[Bar, ...] = ()


def measured(row: Row, figures: Sequence[Figure], remark: str) -> dict[str, Any]:
    """Return a row in the form in which it is written to JSON; a bar whose figure is missing has the value None."""
    bars = {bar.what: bar for bar in row.bars}
    values = [_entry(figure, bars.pop(figure.what, None)) for figure in figures]
    missing = [_entry(Figure(bar.what, float("nan"), bar.unit), bar) for bar in bars.values()]
    return {"title": row.title, "remark": remark, "figures": values + missing}


def _entry(figure: Figure, bar: Bar | None) -> dict[str, Any]:
    value = None if figure.value != figure.value else float(figure.value)
    entry = {"what": figure.what, "value": value, "unit": figure.unit}
    if bar is not None:
        assert bar.unit == figure.unit, f"{bar} is not in the unit of {figure}"
        met = None if value is None else bar.met(value)
        entry |= {"bar": bar.limit, "at": "most" if bar.most else "least", "passed": met}
    return entry
