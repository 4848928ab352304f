"""The events of `glowctl pack` as lines of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobs.display.events import Event, Packed
from jobs.text import count, duration

__all__ = ["PACKING_LINES"]


def packed_lines(event: Packed) -> str:
    """Return lines that say what has been packed, what was left out, and how to use the data set."""
    images = ", ".join(f"{number:,} {split}" for split, number in event.images.items())
    shape = "x".join(map(str, event.image_shape))
    lines = [f"packed    {images} images of {shape} in {duration(event.seconds)}"]
    if event.left_out:
        files = count(event.left_out, "file")
        lines.append(f"left out  {files} that could not be read, listed in {event.place}/left-out.txt")
    return "\n".join([*lines, f"to use    --dataset packed:{event.place}"])


PACKING_LINES: dict[type[Event], Callable[[Any], str]] = {Packed: packed_lines}
