"""Numbers and tables as text, and the types of what is read from tables and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "JsonObject",
    "Row",
    "bits",
    "count",
    "duration",
    "json_text",
    "markdown_table",
    "megabytes",
    "numbers",
    "plain",
    "rows_of",
    "text_table",
]

JsonObject = dict[str, Any]
"""A JSON object: what is in it, only its reader knows."""

Row = dict[str, Any]
"""A row of a table whose columns vary, as with the factors of an ablation."""


def duration(seconds: float) -> str:
    """3725 -> "1:02:05"; 65 -> "1:05"."""
    if not math.isfinite(seconds):
        return "-"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def bits(bits_per_dim: float) -> str:
    """A dash where there is no value yet."""
    return "-" if math.isnan(bits_per_dim) else f"{bits_per_dim:.3f}"


def count(number: float, thing: str) -> str:
    """1 -> "1 trial"; 2 -> "2 trials"; 0.5 -> "0.5 trials"."""
    return f"{number:g} {thing}" + ("" if number == 1 else "s")


def numbers(thing: str, of: Sequence[int]) -> str:
    """[3] -> "epoch 3"; [1, 2, 3, 7] -> "epochs 1 to 3, 7"."""
    ordered = sorted(of)
    starts = [number for number in ordered if number - 1 not in of]
    ends = [number for number in ordered if number + 1 not in of]
    parts = [str(start) if start == end else f"{start} to {end}" for start, end in zip(starts, ends, strict=True)]
    return f"{thing}{'' if len(ordered) == 1 else 's'} {', '.join(parts)}"


def megabytes(size: float) -> str:
    """Bytes as a person reads them.

    >>> megabytes(5_242_880), megabytes(50 * 2**30)
    ('5 MB', '51,200 MB')
    """
    return f"{size / 2**20:,.0f} MB"


def plain(value: str | float) -> str:
    """A setting's value, exactly; 0.002 -> "0.002", 1e7 -> "1e+07"."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if isinstance(value, str) or float(short) == value else repr(value)


def text_table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows of cells, the first of them the headings, as aligned columns: the first `left` to the left, others to the
    right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width) for column, (cell, width) in enumerate(cells)
        )
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first of them the headings, as Markdown."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def rows_of(table: pd.DataFrame) -> list[Row]:
    """The rows of a table."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def json_text(value: Any) -> str:
    """A value as JSON, with null for NaN and infinity, which JSON has not."""
    return json.dumps(_json_value(value))


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_value(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_json_value(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
