"""What a report says on the screen. Its event:

- ``report``: html, markdown (paths, or addresses of artifacts), run_id, missing (sentences), open_with
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["REPORT_LINES"]

Event = dict[str, Any]


def report_lines(event: Event) -> str:
    missing = event["missing"]
    lines = [f"missing   {sentence}" for sentence in missing]
    lines += [
        f"report    {event['html']}",
        f"          {event['markdown']}",
        f"run       {event['run_id']}; to see it: {event['open_with']}",
    ]
    return "\n".join(lines)


REPORT_LINES: dict[str, Callable[[Event], str]] = {"report": report_lines}
