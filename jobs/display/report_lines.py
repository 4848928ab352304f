"""The events of `glowctl report` as lines of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobs.display.events import Event, Reported

__all__ = ["REPORT_LINES"]


def report_lines(event: Reported) -> str:
    """Return lines that say what the report lacks, and where the report and its run are."""
    lines = [f"missing   {sentence}" for sentence in event.missing]
    lines += [
        f"report    {event.html}",
        f"          {event.markdown}",
        f"run       {event.run_id}; to see it: {event.open_with}",
    ]
    return "\n".join(lines)


REPORT_LINES: dict[type[Event], Callable[[Any], str]] = {Reported: report_lines}
