"""How often something happens, as a user writes it: every so many epochs, steps or minutes."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Every", "every"]

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
"""Seconds."""


class Every(NamedTuple):
    """One of the three is given, the others are None."""

    epochs: int | None = None
    steps: int | None = None
    seconds: float | None = None


def every(text: str) -> Every:
    """Reads "2" as epochs, "500steps" as optimizer steps, and "10m" as a time in s, m or h.

    >>> every("2")
    Every(epochs=2, steps=None, seconds=None)
    >>> every("500steps")
    Every(epochs=None, steps=500, seconds=None)
    >>> every("10m").seconds
    600.0

    Raises:
        ValueError: for anything else.
    """
    found = re.fullmatch(r"([1-9]\d*) *(steps?|s|m|h|)", text.strip())
    if found is None:
        raise ValueError(f"is a number of epochs such as 2, of steps as 500steps, or a time as 10m, not {text!r}")
    number, unit = int(found[1]), found[2]
    if unit in UNITS:
        return Every(seconds=number * UNITS[unit])
    return Every(steps=number) if unit else Every(epochs=number)
