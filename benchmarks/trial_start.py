"""The time before each trial of an ablation starts, on a Ray that already runs: `python benchmarks/trial_start.py`.

The trials have one worker each and run one after the other on the digits, in a separate store and folder. The first one
starts its process, and the next ones reuse it. Events arrive every 0.2 s, so that shorter times appear as 0.
`--workers 2` measures trials that start one process per worker.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

from jobs import dispatch
from jobs.specs.ablation import make_ablate_spec
from jobs.specs.request import Request

TRIALS = 6


def main() -> None:
    """Run an ablation, and print the times before its trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1, help="number of workers per trial (default 1)")
    workers = parser.parse_args().workers
    seen: list[tuple[float, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        own = {"output": folder, "tracking_uri": f"sqlite:///{folder}/mlflow.db"}
        how = {"seeds": TRIALS, "concurrent": 1, "workers_per_trial": workers, "sample_every": 0}
        dispatch.ablate(Request.of("ablate", make_ablate_spec("smoke", own | how)), Stamps(seen))
    (begun,) = (at for at, event in seen if event["event"] == "ablating")
    started = [at for at, event in seen if event["event"] == "trial_started"]
    ended = [at for at, event in seen if event["event"] == "trial_ended"]
    later = [start - end for start, end in zip(started[1:], ended[:-1], strict=True)]
    print(
        f"first trial: {started[0] - begun:.2f} s; the next {len(later)}: median {statistics.median(later):.2f} s",
        end="",
    )
    print(f", largest {max(later):.2f} s")


class Stamps:
    """A display that stores each event with the time at which it arrived."""

    def __init__(self, seen: list[tuple[float, dict[str, Any]]]) -> None:
        self._seen = seen

    def __enter__(self) -> Any:
        return lambda event: self._seen.append((time.monotonic(), event))

    def __exit__(self, *exception: object) -> None:
        """Do nothing."""


if __name__ == "__main__":
    main()
