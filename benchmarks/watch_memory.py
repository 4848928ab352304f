"""The memory of a watch of a million images, and the time in which a resumed one computes its evidence again.

    python -m benchmarks.watch_memory MODEL [--images 1000000]

MODEL is the `results` of a training. Paths of files that do not exist come on standard input, and scores drawn from
those of the held-out images take the place of theirs. The rest is the watch itself: the names that it has seen, the
journal, the bets, MLflow. The script prints the memory after each tenth.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil

from glowctl.monitoring import watch as job
from glowctl.monitoring.arrivals import Arrived
from glowctl.specs.base import validated
from glowctl.specs.monitoring import WatchSpec


def main() -> None:
    """Print a line per tenth, and one for the resumption."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watch_memory", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=int, default=1_000_000)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)

    def scored(watch: job.Watch, files: Sequence[Arrived]) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
        known = watch._known[rng.integers(len(watch._known), size=len(files))]
        return {file.file: tuple(row) for file, row in zip(files, known.tolist(), strict=True)}, {}

    job.Watch._scored = scored  # type: ignore[assignment]
    process, started = psutil.Process(), time.monotonic()

    def paths() -> Iterator[str]:
        for number in range(asked.images):
            if number % (asked.images // 10) == 0:
                memory = process.memory_info().rss / 2**20
                print(f"{number:9,} images  {memory:6.0f} MiB  {time.monotonic() - started:5.0f} s", flush=True)
            yield f"/cameras/north/2026-01-01/{number:012}.png\n"

    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/mlflow.db"
        settings = {"source": "-", "model": str(asked.model), "tracking_uri": store, "output": folder}
        job.run(job.prepare(validated(WatchSpec, settings)), paths(), lambda event: None)
        print(f"at the end         {process.memory_info().rss / 2**20:6.0f} MiB")
        (journal,) = Path(folder).glob("*/images.jsonl")
        started = time.monotonic()
        job.run(job.prepare_resume(journal.parent.name, {"tracking_uri": store}), (), lambda event: None)
        memory = process.memory_info().rss / 2**20
        print(f"resumed            {memory:6.0f} MiB  {time.monotonic() - started:5.0f} s", flush=True)


if __name__ == "__main__":
    main()
