"""What a trial of an ablation costs before its first step, on a Ray that is up: `python benchmarks/trial_start.py`.

Trials of one worker, one at a time, on the digits, in a store and a folder of their own. The first of them starts its
process; the next take it over. Events are looked at every 0.2 s, and what is shorter shows as 0. `--workers 2` shows
what trials cost that start a process a worker.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

from jobs import dispatch
from jobs.specs.ablation import make_ablate_spec

TRIALS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1)
    workers = parser.parse_args().workers
    seen: list[tuple[float, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        own = {"output": folder, "tracking_uri": f"sqlite:///{folder}/mlflow.db"}
        how = {"seeds": TRIALS, "concurrent": 1, "workers_per_trial": workers, "sample_every": 0}
        dispatch.ablate(make_ablate_spec("smoke", own | how), Stamps(seen))
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
    """A display that keeps when each event came."""

    def __init__(self, seen: list[tuple[float, dict[str, Any]]]) -> None:
        self._seen = seen

    def __enter__(self) -> Any:
        return lambda event: self._seen.append((time.monotonic(), event))

    def __exit__(self, *exception: object) -> None:
        """Nothing to put away."""


if __name__ == "__main__":
    main()
