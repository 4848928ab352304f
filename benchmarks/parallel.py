"""The gain from data-parallel training: two processes against one, each with one thread on a separate core."""

from __future__ import annotations

import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from benchmarks.contestants import images_and_noise
from benchmarks.row import Figure, Row, Setting, at_least
from benchmarks.speed import SMALL
from glow import FitConfig, Glow, GlowConfig
from glow.memory import keep_freed_memory
from glow.model import Precision
from glow.training import Trainer

__all__ = ["ROW"]

IMAGES, BATCH = 1280, 128
MODELS = {"K=8 width 128": SMALL, "K=4 width 512": GlowConfig(depth=4, width=512)}


@dataclass(frozen=True)
class Training:
    """The settings that every process of a training receives.

    Attributes:
        alone: whether each process trains a separate model on its part of each batch and sends nothing. The speed of
            all of them is the most that the machine's cores, caches and memory allow.
    """

    processes: int
    precision: Precision
    epochs: int
    config: GlowConfig
    alone: bool = False


def compare(how: Setting) -> tuple[list[Figure], str]:
    """Measure every model with one and with two processes."""
    if len(os.sched_getaffinity(0)) < 2:
        return [], "Not measured: there is one core."
    figures = []
    for name, config in MODELS.items():
        figures += _figures(name, config, how)
    return figures, f"Global batch {BATCH}, {how.fastest}, gloo, DDP by glow.training.Trainer."


def _figures(name: str, config: GlowConfig, how: Setting) -> list[Figure]:
    one: list[float] = []
    two: list[float] = []
    apart: list[float] = []
    for _ in range(how.times(3)):  # in turns, so that a busy machine slows both
        one += train(Training(1, how.fastest, 2, config))["images_per_second"]
        last = train(Training(2, how.fastest, 2, config))
        two += last["images_per_second"]
        apart += train(Training(2, how.fastest, 2, config, alone=True))["images_per_second"]
    alone, together, most = (statistics.median(speeds) for speeds in (one, two, apart))
    return [
        Figure(f"{name}: 2 workers of 1 core against 1", together / alone, "x"),
        Figure(f"{name}: 2 processes that exchange nothing against 1", most / alone, "x"),
        Figure(f"{name}: 1 worker", alone, "images/s"),
        Figure(f"{name}: 2 workers", together, "images/s"),
        Figure(f"{name}: all-reduced a step", last["gradient_bytes"] / 1e6, "MB"),
        Figure(f"{name}: all-reduced in", last["buckets"], "buckets"),
        Figure(
            f"{name}: share of the all-reduce's time in which the backward pass goes on", 100 * last["overlap"], "%"
        ),
    ]


def train(training: Training) -> dict[str, Any]:
    """Train, and return what the first process has measured."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_join, (training, folder), nprocs=training.processes)
        return torch.load(Path(folder) / "seen.pt")


def _join(rank: int, training: Training, folder: str) -> None:
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    keep_freed_memory()
    torch.set_num_threads(1)
    exchanging = training.processes > 1 and not training.alone
    if exchanging:
        dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=training.processes)
    seen = _train(training)
    if rank == 0:
        torch.save(seen, Path(folder) / "seen.pt")
    if exchanging:
        dist.destroy_process_group()
    os._exit(0)  # results are on disk, and a normal exit can abort because threads of gloo still run


def _train(training: Training) -> dict[str, Any]:
    model = Glow(training.config)
    parts = training.processes if training.alone else 1
    images, _ = images_and_noise(training.config, IMAGES // parts)
    config = FitConfig(epochs=1 + training.epochs, batch_size=BATCH // parts, precision=training.precision)
    trainer = Trainer(model, images, config=config)
    _, *epochs = trainer.epochs()  # the first warms up
    return {
        "images_per_second": [parts * epoch.images_per_second for epoch in epochs],
        "gradient_bytes": sum(4 * parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        **_all_reduce(trainer),
    }


def _all_reduce(trainer: Trainer) -> dict[str, float]:
    """Return how DDP reduces the gradient; empty for a single process.

    The result has the number of buckets, each of which is reduced as soon as it is complete, and the share of that time
    in which the backward pass goes on, by DDP's own clocks.
    """
    objective = trainer._objective
    if not isinstance(objective, DistributedDataParallel):
        return {}
    told = objective._get_ddp_logging_data()
    return {
        "buckets": told["num_buckets_reduced"],
        "overlap": told["avg_backward_compute_comm_overlap_time"] / told["avg_backward_comm_time"],
    }


ROW = Row(
    "data-parallel",
    "data-parallel training, the same global batch",
    compare,
    tuple(at_least(f"{name}: 2 workers of 1 core against 1", 1.7, "x") for name in MODELS),
)
