"""The start-up times of the command line: whole commands, in a separate folder and store."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.row import Figure, Row, Setting, at_most

__all__ = ["ROW"]

GLOWCTL = str(Path(sys.executable).with_name("glowctl"))
TRAIN = ("train", "--preset", "smoke", "--json")


def measure(how: Setting) -> tuple[list[Figure], str]:
    """Measure the start of a training, the whole training, and the help text."""
    with tempfile.TemporaryDirectory() as folder:
        run(folder, "--help")  # warms the file cache
        helps = [run(folder, "--help")[1] for _ in range(how.times(5))]
        trainings = [run(folder, *TRAIN, until="started") for _ in range(how.times(3))]
    started, ended = zip(*trainings, strict=True)
    return [
        Figure("glowctl train --preset smoke: until training starts", statistics.median(started), "s"),
        Figure("glowctl --help", statistics.median(helps), "s"),
        Figure("glowctl train --preset smoke: whole command", statistics.median(ended), "s"),
    ], f"Medians of {len(trainings)} and {len(helps)} commands."


def run(folder: str, *arguments: str, until: str | None = None) -> tuple[float, float]:
    """Return the seconds until the command prints the event `until` (NaN without one), and until it ends."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_"))}
    began, seen = time.monotonic(), float("nan")
    with subprocess.Popen(
        [GLOWCTL, *arguments], cwd=folder, env=own, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        for line in command.stdout:
            if until is not None and json.loads(line)["event"] == until:
                seen = time.monotonic() - began
        complaint = command.stderr.read()
    if command.returncode != 0 or (until is not None and seen != seen):
        raise RuntimeError(f"glowctl {' '.join(arguments)} failed: {complaint}")
    return seen, time.monotonic() - began


ROW = Row(
    "commands",
    "start-up of the command line",
    measure,
    (
        at_most("glowctl train --preset smoke: until training starts", 15, "s"),
        at_most("glowctl --help", 0.5, "s"),
    ),
)
