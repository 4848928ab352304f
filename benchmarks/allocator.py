"""The gain from keeping freed memory (`glow.memory`): scoring and sampling with and without, in separate processes.

`python -m benchmarks.allocator CONTESTANT kept|returned` runs one of these processes.
"""

from __future__ import annotations

import json
import statistics
import sys

import torch

from benchmarks.children import in_own_process
from benchmarks.contestants import Job, glow, normflows
from benchmarks.machine import setting
from benchmarks.row import Figure, Row, Setting
from benchmarks.speed import SMALL
from benchmarks.timing import round_robin
from glow.memory import keep_freed_memory

__all__ = ["ROW"]

JOBS = {"scoring": Job("scoring", SMALL, 128), "sampling": Job("sampling", SMALL, 256)}
PROCESSES, ROUNDS = 3, 5


def compare(how: Setting) -> tuple[list[Figure], str]:
    """Measure Glow in its fastest precision, and normflows, which gains, too."""
    figures = []
    for contestant in (how.fastest, "normflows"):
        name = "normflows float32" if contestant == "normflows" else f"glow {contestant}"
        runs: dict[str, list[dict[str, float]]] = {"kept": [], "returned": []}
        for _ in range(how.times(PROCESSES)):  # in turns, so that a busy machine slows both
            for memory, speeds in runs.items():
                speeds.append(in_own_process(__spec__.name, contestant, memory))
        for work in JOBS:
            kept, returned = (statistics.median(speed[work] for speed in runs[memory]) for memory in runs)
            figures += [
                Figure(f"{name}, {work}: gain", kept / returned, "x"),
                Figure(f"{name}, {work}: freed memory kept", kept, "images/s"),
                Figure(f"{name}, {work}: returned", returned, "images/s"),
            ]
    return figures, f"Medians of {how.times(PROCESSES)} processes each, and of {ROUNDS} repetitions in each."


def alone(contestant: str, memory: str) -> dict[str, float]:
    """Return the images per second of one contestant in this process, by the kind of work."""
    if memory == "kept":
        keep_freed_memory()
    torch.set_num_threads(setting().threads)
    speed = {}
    for work, job in JOBS.items():
        run = normflows(job) if contestant == "normflows" else glow(job, contestant)  # type: ignore[arg-type]
        speed[work] = job.batch / round_robin({"": run}, ROUNDS)[""]
    return speed


ROW = Row("allocator", "keeping freed memory, each contestant in a process of its own", compare)

if __name__ == "__main__":
    print(json.dumps(alone(sys.argv[1], sys.argv[2])))
