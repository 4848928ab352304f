"""The start of a command and of the trials of an ablation: `python -m benchmarks.start_up [--trials] [--workers N]`.

Without flags, the script prints the times of whole commands in a separate folder: of `glowctl --help`, and until
`glowctl train` prints the first event of the training, and ends. `--trials` measures the time before each trial of an
ablation on a Ray that already runs: six trials of N workers on the digits, one after the other. Events arrive every
0.2 s, so that shorter times appear as 0.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import parse


def events(folder: str, *arguments: str) -> list[tuple[float, dict]]:
    """Run `glowctl`, and return each event that it prints and its end, with the seconds since its start."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_"))}
    command = [str(Path(sys.executable).with_name("glowctl")), *arguments]
    began, seen = time.monotonic(), []
    with subprocess.Popen(command, cwd=folder, env=own, text=True, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        for line in running.stdout:
            seen.append((time.monotonic() - began, json.loads(line) if line.startswith("{") else {"event": "text"}))
    assert running.returncode == 0, f"{' '.join(arguments)} failed"
    return [*seen, (time.monotonic() - began, {"event": "end"})]


def times_of(seen: list[tuple[float, dict]], event: str) -> list[float]:
    """Return the times at which events of one kind were seen."""
    return [at for at, found in seen if found["event"] == event]


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", action="store_true", help="measure the start of trials")
    parser.add_argument("--workers", default="1", help="number of workers per trial (default 1)")
    asked = parse(parser)
    with tempfile.TemporaryDirectory() as folder:
        if asked.trials:
            flags = f"--seeds 6 --concurrent 1 --workers-per-trial {asked.workers} --sample-every 0"
            seen = events(folder, "ablate", "--preset", "smoke", "--json", *flags.split())
            started, ended = times_of(seen, "trial_started"), times_of(seen, "trial_ended")
            later = [start - end for start, end in zip(started[1:], ended[:-1], strict=True)]
            print(f"first trial: {started[0] - times_of(seen, 'ablating')[0]:.2f} s; the next ", end="")
            print(f"{len(later)}: median {statistics.median(later):.2f} s, largest {max(later):.2f} s")
            return
        events(folder, "--help")  # warms the file cache
        helps = [times_of(events(folder, "--help"), "end")[0] for _ in range(1 if asked.quick else 5)]
        print(f"glowctl --help: {statistics.median(helps):.3f} s", flush=True)
        runs = [events(folder, "train", "--preset", "smoke", "--json") for _ in range(1 if asked.quick else 3)]
        for event, what in (("started", "until training starts"), ("end", "whole command")):
            print(f"glowctl train --preset smoke, {what}: ", end="")
            print(f"{statistics.median(times_of(seen, event)[0] for seen in runs):.2f} s")


if __name__ == "__main__":
    main()
