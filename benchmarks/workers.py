"""What several workers gain: `python -m benchmarks.workers [--quick]`.

One process with one core trains at a global batch of 128, and two processes with one core each share the same batch.
Two processes that train separate models on half batches, and exchange nothing, show what the cores, caches and memory
of the machine allow.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.common import SMALL, images_and_noise, parse, precisions
from glow import FitConfig, Glow, GlowConfig, Trainer
from glow.memory import keep_freed_memory

IMAGES, BATCH = 1280, 128
MODELS = {"K=8 width 128": SMALL, "K=4 width 512": GlowConfig(depth=4, width=512)}
TINY = {"a tiny model": GlowConfig((1, 8, 8), levels=2, depth=2, width=8)}


class Training(NamedTuple):
    """The settings of a training; `exchange` is whether its processes share one model."""

    config: GlowConfig
    processes: int
    exchange: bool = True


def speed(training: Training) -> list[float]:
    """Return the images per second of two epochs, over all processes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_join, (training, folder), nprocs=training.processes)
        return torch.load(Path(folder) / "speeds.pt")


def _join(rank: int, training: Training, folder: str) -> None:
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    keep_freed_memory()
    torch.set_num_threads(1)
    config, processes, exchange = training
    if exchange and processes > 1:
        dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=processes)
    parts = 1 if exchange else processes
    images, _ = images_and_noise(config, IMAGES // parts)
    settings = FitConfig(epochs=3, batch_size=BATCH // parts, precision=precisions()[-1])
    _, *epochs = Trainer(Glow(config), images, config=settings).epochs()  # the first warms up
    if rank == 0:
        torch.save([parts * epoch.images_per_second for epoch in epochs], Path(folder) / "speeds.pt")
    if exchange and processes > 1:
        dist.destroy_process_group()
    os._exit(0)  # results are on disk, and a normal exit can abort because threads of gloo still run


def main() -> None:
    """Print the speeds and their ratios for each model."""
    asked = parse(argparse.ArgumentParser(description=__doc__))
    for name, config in (TINY if asked.quick else MODELS).items():
        speeds: list[list[float]] = [[], [], []]
        for _ in range(1 if asked.quick else 3):  # in turns, so that a busy machine slows all
            speeds[0] += speed(Training(config, 1))
            speeds[1] += speed(Training(config, 2))
            speeds[2] += speed(Training(config, 2, exchange=False))
        one, two, apart = map(statistics.median, speeds)
        print(f"{name}: 1 worker {one:.0f}, 2 workers {two:.0f} images/s; 2 workers against 1 {two / one:.2f}, of")
        print(f"  {apart / one:.2f} that two processes reach which exchange nothing", flush=True)


if __name__ == "__main__":
    main()
