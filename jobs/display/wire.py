"""Events between a job on a cluster and its client: JSON lines in the job's log."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from jobs.display import evaluation_events, events
from jobs.display.events import OF_TRIAL, Event, TrialEvent, Unknown
from jobs.text import JsonObject

__all__ = ["event_from_dict", "event_line", "sent_event"]

KINDS: dict[str, type[Event]] = {
    found.kind: found
    for module in (events, evaluation_events)
    for found in vars(module).values()
    if isinstance(found, type) and issubclass(found, Event) and found.kind
}
"""The classes of events by their names in JSON."""


def event_line(event: Event) -> str:
    """An event as `sent_event` reads it: JSON, but with NaN and infinity."""
    return json.dumps(event.to_dict())


def sent_event(line: str) -> Event | None:
    """The event in a line that `event_line` made; None for any other line."""
    if not line.startswith('{"event":'):
        return None
    try:
        said: JsonObject = json.loads(line)
    except ValueError:
        return None
    return event_from_dict(said)


def event_from_dict(said: JsonObject) -> Event:
    """The event that `Event.to_dict` gave. Fields that this version does not know are dropped."""
    name = str(said.get("event"))
    try:
        if name in KINDS:
            return _reader(name).validate_python(said)
        inner = name.removeprefix(OF_TRIAL)
        if inner in KINDS and "trial" in said:
            return TrialEvent(str(said["trial"]), _reader(inner).validate_python(said))
    except ValidationError:  # it lacks a field
        pass
    return Unknown(said)


@cache
def _reader(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(KINDS[name])
