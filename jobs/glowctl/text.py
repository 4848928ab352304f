"""Numbers and tables as text, and the types of JSON objects and table rows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
"""Seconds per unit of time."""

JsonObject = dict[str, Any]
"""A JSON object, whose keys and values only its reader can check."""

Row = dict[str, Any]
"""A row of a table whose columns vary, such as that of an ablation."""


def duration(seconds: float) -> str:
    """Return a time in seconds as H:MM:SS, or M:SS below an hour; a dash if it is NaN or infinite.

    Examples:
        >>> duration(3725), duration(65), duration(float("nan"))
        ('1:02:05', '1:05', '-')
    """
    if not math.isfinite(seconds):
        return "-"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def seconds_in(text: str) -> float:
    """Return the seconds in a time such as 90s, 10m, 4h, 30d or 2w.

    Examples:
        >>> seconds_in("10m"), seconds_in("1.5d")
        (600.0, 129600.0)

    Raises:
        ValueError: if it is no time.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([smhdw])", text.strip())
    if found is None:
        raise ValueError(f"must be a time such as 10m, 4h or 30d, not {text!r}")
    return float(found[1]) * UNITS[found[2]]


def bits(bits_per_dim: float) -> str:
    """Return bits/dim with three decimals; a dash for NaN, which means that there is no value yet.

    Examples:
        >>> bits(1.23456), bits(float("nan"))
        ('1.235', '-')
    """
    return "-" if math.isnan(bits_per_dim) else f"{bits_per_dim:.3f}"


def count(number: float, thing: str) -> str:
    """Return a number with its noun, which has an s unless the number is 1.

    Examples:
        >>> count(1, "trial"), count(2_500_000, "file"), count(0.5, "core")
        ('1 trial', '2,500,000 files', '0.5 cores')
    """
    text = f"{number:,.0f}" if number == round(number) else f"{number:g}"
    return f"{text} {thing}" + ("" if number == 1 else "s")


def numbers(thing: str, of: Sequence[int]) -> str:
    """Return whole numbers with their noun; consecutive numbers become a range.

    Examples:
        >>> numbers("epoch", [3]), numbers("epoch", [7, 1, 2, 3]), numbers("epoch", [1, 3])
        ('epoch 3', 'epochs 1 to 3, 7', 'epochs 1, 3')
    """
    ordered = sorted(of)
    starts = [number for number in ordered if number - 1 not in of]
    ends = [number for number in ordered if number + 1 not in of]
    parts = [str(start) if start == end else f"{start} to {end}" for start, end in zip(starts, ends, strict=True)]
    return f"{thing}{'' if len(ordered) == 1 else 's'} {', '.join(parts)}"


def megabytes(size: float) -> str:
    """Return a number of bytes in units of 2**20 bytes.

    Examples:
        >>> megabytes(5_242_880), megabytes(50 * 2**30)
        ('5 MB', '51,200 MB')
    """
    return f"{size / 2**20:,.0f} MB"


def plain(value: object) -> str:
    """Return the value of a setting as short text; a number can be read back exactly, and a list has commas.

    Examples:
        >>> plain(0.002), plain(1e7), plain("1x1"), plain(0.0010000001)
        ('0.002', '1e+07', '1x1', '0.0010000001')
        >>> plain(8), plain(True), plain(["7", "8"])
        ('8', 'True', '7, 8')
    """
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)


def text_table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a table with aligned columns as text.

    Args:
        rows: rows of cells; the first row has the headings.
        left: number of columns, from the left, that are aligned to the left; the others are aligned to the right.

    Examples:
        >>> print(text_table([["model", "bits/dim"], ["1x1", "1.25"]]))
        model  bits/dim
        1x1        1.25
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width) for column, (cell, width) in enumerate(cells)
        )
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def rows_of(table: pd.DataFrame) -> list[Row]:
    """Return each row of a table as a dictionary from the name of a column to the value."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def json_text(value: Any) -> str:
    """Return a value as JSON, with null in place of NaN and infinity, which JSON does not have.

    Examples:
        >>> json_text({"bits": [1.5, float("nan")]})
        '{"bits": [1.5, null]}'
    """
    return json.dumps(_json_value(value))


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_value(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_json_value(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
