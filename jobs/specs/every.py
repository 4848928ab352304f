"""Intervals as a user writes them, such as the value of ``--checkpoint-every``: epochs, steps, or a time."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Every", "every"]

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
"""Seconds per unit of time."""


class Every(NamedTuple):
    """An interval; exactly one of its fields is not None.

    Attributes:
        epochs: number of epochs.
        steps: number of optimizer steps.
        seconds: time in seconds.
    """

    epochs: int | None = None
    steps: int | None = None
    seconds: float | None = None


def every(text: str) -> Every:
    """Read an interval: "2" is epochs, "500steps" is optimizer steps, and "10m" is a time in s, m or h.

    Raises:
        ValueError: for any other text, zero included.

    Example:
        >>> every("2")
        Every(epochs=2, steps=None, seconds=None)
        >>> every("500steps")
        Every(epochs=None, steps=500, seconds=None)
        >>> every("10m").seconds
        600.0
    """
    found = re.fullmatch(r"([1-9]\d*) *(steps?|s|m|h|)", text.strip())
    if found is None:
        raise ValueError(f"must be epochs such as 2, steps such as 500steps, or a time such as 10m, not {text!r}")
    number, unit = int(found[1]), found[2]
    if unit in UNITS:
        return Every(seconds=number * UNITS[unit])
    return Every(steps=number) if unit else Every(epochs=number)
