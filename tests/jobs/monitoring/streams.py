"""Streams of images for watches, and watches of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glowctl.display import events
from glowctl.monitoring import watch as job

HEALTHY, STRANGE = 120, 60
"""Numbers of digits and of noise images in a stream."""


def paths(store: Path, *folders: str) -> list[str]:
    """Return the lines of a stream: the paths of the first images of each of these folders."""
    of = {"healthy": HEALTHY, "noise": STRANGE}
    return [f"{path}\n" for folder in folders for path in sorted((store / folder).iterdir())[: of[folder]]]


def watched(work: job.WatchWork, lines: Any) -> tuple[bool, list[events.Event]]:
    shown: list[events.Event] = []
    return job.run(work, lines, shown.append), shown


def one(shown: list[events.Event], kind: type) -> Any:
    (found,) = (event for event in shown if isinstance(event, kind))
    return found


def resumed(
    store: Path, out: Path, lines: list[str], acknowledges: bool = False, **changes: Any
) -> tuple[bool, list[events.Event]]:
    (folder,) = (path for path in out.iterdir() if path.is_dir())
    changes["tracking_uri"] = f"sqlite:///{store}/mlflow.db"
    return watched(job.prepare_resume(folder.name, changes, acknowledges), lines)
