"""What a row of the benchmark is: a name, bars, and a function that measures figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from glow.model import Precision

__all__ = ["Bar", "Figure", "Row", "Setting", "at_least", "at_most", "measured"]


@dataclass(frozen=True)
class Setting:
    """How rows are run: on so many threads, with the precisions that the hardware computes in, the fastest last."""

    threads: int
    precisions: Sequence[Precision]
    quick: bool = False

    @property
    def fastest(self) -> Precision:
        return self.precisions[-1]

    def times(self, repetitions: int) -> int:
        """Of `repetitions`, or of a few if it shall be quick."""
        return max(1, repetitions // 3) if self.quick else repetitions


@dataclass(frozen=True)
class Figure:
    """One number, by a name that is its own within the row. Units: x, %, s, images/s, MB, or a noun that is counted."""

    what: str
    value: float
    unit: str = ""


@dataclass(frozen=True)
class Bar:
    """What the figure `what` of a row shall be: at least or at most `limit`."""

    what: str
    limit: float
    unit: str
    most: bool = False

    def met(self, value: float) -> bool:
        return value <= self.limit if self.most else value >= self.limit


def at_least(what: str, limit: float, unit: str) -> Bar:
    return Bar(what, limit, unit)


def at_most(what: str, limit: float, unit: str) -> Bar:
    return Bar(what, limit, unit, most=True)


@dataclass(frozen=True)
class Row:
    """`measure` gives its figures, and a remark on them where there is one to make. A row without bars shows what costs
    how much."""

    name: str
    title: str
    measure: Callable[[Setting], tuple[list[Figure], str]]
    bars: tuple[Bar, ...] = ()


def measured(row: Row, figures: Sequence[Figure], remark: str) -> dict[str, Any]:
    """A row as it is written to JSON. A bar whose figure was not measured has the value None."""
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
