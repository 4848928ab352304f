"""What `glowctl demo` does and says, and the record that it leaves."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.jobs.command_line import glowctl

__all__ = ["Demo", "run_demo"]


@dataclass(frozen=True)
class Demo:
    """A demo that has ended well. `ends` has the last event of each kind."""

    uri: str
    seconds: float
    ends: dict[str, Any]


def run_demo(folder: Path) -> Demo:
    """Runs it in a folder of its own, which takes minutes."""
    uri = f"sqlite:///{folder}/mlflow.db"
    started = time.monotonic()
    done = glowctl(folder, "demo", "--json", "--output", str(folder / "outputs"), "--tracking-uri", uri, timeout=500)
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return Demo(uri, seconds, {event["event"]: event for event in events})
