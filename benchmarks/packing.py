"""The speed of `glowctl pack`, compared with a loop of Pillow: `python -m benchmarks.packed --pack [--quick]`.

The script makes a folder of PNG and JPEG images with random textures. Then a loop of Pillow in one thread, which opens,
decodes and shrinks each image, takes turns with the packing of the folder on a Ray that has started. At the end it runs
the whole command, with Ray's start and end. Seconds of the processors show what another program on the machine does not
change.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

import numpy as np
import psutil
import torch
from PIL import Image

from jobs.ray_runtime.connection import connected, set_environment
from jobs.specs.base import validated
from jobs.specs.request import PackSpec
from jobs.system.process_setup import set_up_process

__all__ = ["packing_speed", "write_textures"]

IMAGE_SIZE = 64
"""Height and width of the packed images in pixels."""

GLOWCTL = str(Path(sys.executable).with_name("glowctl"))

LOOK_S = 0.5
"""Seconds between two looks at the processes, which take time from what is measured."""


class Cost(NamedTuple):
    """The cost of one measured call.

    Attributes:
        wall: seconds that passed.
        cpu: seconds that all processors spent on it, in user and system mode.
    """

    wall: float
    cpu: float


def packing_speed(images: int, size: tuple[int, int], rounds: int) -> None:
    """Print the speeds of Pillow in one thread and of packing, and their ratios.

    Args:
        images: number of images, half of them PNG and half JPEG.
        size: (width, height) of the images in pixels.
        rounds: number of measured turns of Pillow and of packing.
    """
    set_up_process()  # as in every process of glowctl: freed memory is used again
    torch.set_num_threads(1)
    set_environment()
    with tempfile.TemporaryDirectory() as folder:
        textures = Path(folder, "textures")
        write_textures(textures, images, size)
        files = sorted(textures.iterdir())
        costs: dict[str, list[Cost]] = {"Pillow": [], "packing": []}
        with connected() as ready:
            ready()
            _pack(textures, Path(folder, "warm-up"))  # starts Ray's workers
            for number in range(rounds):
                costs["Pillow"].append(_cost(partial(_pillow, files)))
                costs["packing"].append(_cost(partial(_pack, textures, Path(folder, str(number)))))
        costs["whole command"] = [_cost(partial(_command, textures, Path(folder, "command")))]
    base = {each: statistics.median(getattr(cost, each) for cost in costs["Pillow"]) for each in Cost._fields}
    for name, measured in costs.items():
        wall, cpu = (statistics.median(getattr(cost, each) for cost in measured) for each in Cost._fields)
        ratios = f"{base['wall'] / wall:.2f} times as fast as Pillow, {cpu / base['cpu']:.2f} times its CPU seconds"
        each = ", ".join(f"{cost.wall:.1f}/{cost.cpu:.1f}" for cost in measured)
        print(f"{name}: {images / wall:.0f} images/s, {wall:.1f} s, {cpu:.1f} CPU s: {ratios} ({each})")


def write_textures(folder: Path, images: int, size: tuple[int, int]) -> None:
    """Write images with smooth random textures and some noise; every second one is PNG, the others JPEG."""
    width, height = size
    draw = np.random.default_rng(0)
    folder.mkdir()
    for number in range(images):
        coarse = draw.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.int16)
        noise = draw.integers(-12, 13, smooth.shape, dtype=np.int16)
        pixels = Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))
        pixels.save(folder / f"{number:06}.{'png' if number % 2 else 'jpg'}", quality=90)


def _pillow(files: list[Path]) -> None:
    """Open, decode and shrink every image as a short script would, with the filter that packing uses."""
    for file in files:
        with Image.open(file) as image:
            scale = IMAGE_SIZE / max(image.size)
            shrunk = (round(image.width * scale), round(image.height * scale))
            np.asarray(image.convert("RGB").resize(shrunk, Image.Resampling.BILINEAR))


def _pack(source: Path, dest: Path) -> None:
    """Pack a folder as the command does, on the Ray to which this process is connected."""
    from jobs.packing.plan import prepare
    from jobs.packing.run import run  # imports ray, which reads its environment when it is imported

    spec = validated(PackSpec, {"source": f"folder:{source}", "dest": str(dest), "image_size": IMAGE_SIZE})
    run(prepare(spec), lambda event: None)


def _command(source: Path, dest: Path) -> None:
    """Run `glowctl pack` from its start to its end."""
    command = [GLOWCTL, "pack", f"folder:{source}", str(dest), "--image-size", str(IMAGE_SIZE), "--json"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(command, cwd=dest.parent, env=own, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "packed"


def _cost(work: Callable[[], object]) -> Cost:
    """Return the cost of a call, in this process and in all processes that descend from it."""
    seen: dict[tuple[int, float], float] = {}
    ended = Event()

    def look() -> None:
        while not ended.wait(LOOK_S):
            seen.update(_cpu_seconds())

    before = _cpu_seconds()
    watch = Thread(target=look)
    watch.start()
    started = time.perf_counter()
    try:
        work()
    finally:
        wall = time.perf_counter() - started
        seen.update(_cpu_seconds())
        ended.set()
        watch.join()
    return Cost(wall, sum(seconds - before.get(process, 0.0) for process, seconds in seen.items()))


def _cpu_seconds() -> dict[tuple[int, float], float]:
    """Return the CPU seconds of this process and of each descendant so far, by its id and its time of start."""
    found = {}
    this = psutil.Process()
    for process in [this, *this.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid, process.create_time()] = times.user + times.system
    return found
