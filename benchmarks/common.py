"""What the scripts share: the work that is timed, turns in one process, and a line on the machine."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
from torch import Tensor, nn

from glow import Glow, GlowConfig
from glow.hardware import hardware_precision
from glow.model import Precision

__all__ = ["SMALL", "Job", "glow_work", "images_and_noise", "medians", "parse", "precisions", "threads", "trained_by"]

SMALL = GlowConfig(depth=8, width=128)


@dataclass(frozen=True)
class Job:
    """A kind of work on a batch of images by a model of a certain architecture."""

    work: Literal["training", "scoring", "sampling"]
    config: GlowConfig = SMALL
    batch: int = 128


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line of a script with the flag `--quick`, and print a line on the machine."""
    parser.add_argument("--quick", action="store_true", help="take fewer repetitions and smaller sizes")
    asked = parser.parse_args()
    described = Path("/proc/cpuinfo").read_text()
    cpu = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", described, re.MULTILINE))
    print(
        f"{cpu.get('model name', platform.machine())} (family {cpu.get('cpu family')}, model {cpu.get('model')}), "
        f"{threads()} threads, {' and '.join(precisions())}; Python {platform.python_version()}, torch "
        f"{importlib.metadata.version('torch')}; {datetime.date.today()}, load average {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    torch.set_num_threads(threads())
    return asked


def threads() -> int:
    """Return the number of physical cores that this process may use."""
    return min(psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0)))


def precisions() -> tuple[Precision, ...]:
    """Return the precisions in which the hardware computes, the fastest last."""
    return ("float32", "bf16") if hardware_precision(torch.device("cpu")) == "bf16" else ("float32",)


def medians(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    warmups: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each function; they take turns, so that a busy machine slows all of them."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(-warmups, rounds):
        for name, run in runs.items():
            started = clock()
            run()
            if number >= 0:
                taken[name].append(clock() - started)
    return {name: statistics.median(times) for name, times in taken.items()}


def images_and_noise(config: GlowConfig, batch: int) -> tuple[Tensor, Tensor]:
    """Return random uint8 images and noise in [0, 1), both (B, C, H, W) and always the same."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, *config.image_shape)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator), torch.rand(shape, generator=generator)


def glow_work(job: Job, precision: Precision, memory: Literal["stored", "reversible"] = "stored") -> Callable:
    """Return a function that does the work once with a Glow of this library, whose ActNorm is initialized."""
    model = Glow(job.config).set_precision(precision).set_memory(memory)
    images, noise = images_and_noise(job.config, job.batch)
    model.initialize(images, noise)
    if job.work == "training":
        return trained_by(lambda: model.bits_per_dim(images, noise_BCHW=noise).mean(), model.parameters())
    if job.work == "scoring":
        return torch.no_grad()(lambda: model.log_prob(images, noise_BCHW=noise))
    return lambda: model.sample(job.batch)


def trained_by(loss: Callable[[], Tensor], parameters: Iterable[nn.Parameter]) -> Callable[[], object]:
    """Return a function that takes a training step on a loss, with the fused implementation of Adam."""
    optimizer = torch.optim.Adam(parameters, 1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step
