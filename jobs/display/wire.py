"""The transport of events from a job on a cluster to its client, as JSON lines in the job's log."""

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
"""The class of each kind of event, by its name in JSON."""


def event_line(event: Event) -> str:
    """Return an event in the form that `sent_event` reads: JSON, except that NaN and infinity are allowed."""
    return json.dumps(event.to_dict())


def sent_event(line: str) -> Event | None:
    """Return the event in a line that `event_line` made; None for any other line."""
    if not line.startswith('{"event":'):
        return None
    try:
        said: JsonObject = json.loads(line)
    except ValueError:
        return None
    return event_from_dict(said)


def event_from_dict(said: JsonObject) -> Event:
    """Restore an event from the JSON object that `Event.to_dict` made from it.

    Fields that this version of glowctl does not have are dropped. If this version cannot read the event, the result is
    an `Unknown` event.
    """
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
