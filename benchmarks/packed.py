"""The cost of reading images from packed files, and of packing: `python -m benchmarks.packed [--pack] [--quick]`.

The script prints the private memory of a process that trains on 2,000 and on 500,000 images of 64x64, in sparse files,
and the speed of training with images in files and in memory, in turns. With `--pack`, a loop of Pillow in one thread,
which opens, decodes and shrinks random textures (half PNG, half JPEG), takes turns with their packing on a Ray that has
started.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks.common import medians, parse
from glow import FitConfig, Glow, GlowConfig, Trainer
from glow.datasets import LazyDataset, open_dataset
from glow.datasets.packed_index import INDEX, PackedIndex, PackedShard, PackedSplit, labels_file, shard_file

SHAPE = (3, 64, 64)
SHARD = 2048


def write_packed(folder: Path, images: int) -> str:
    """Write a packed data set of black images in sparse files, and return its name."""
    folder.mkdir()
    splits = {}
    for split, n in (("train", images), ("validation", 100), ("test", 100)):
        shards = [PackedShard(min(SHARD, n - start), "0" * 16) for start in range(0, n, SHARD)]
        for number, (count, _) in enumerate(shards):
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, *SHAPE)}
            with (folder / shard_file(split, number)).open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                file.truncate(file.tell() + count * int(np.prod(SHAPE)))
        np.save(folder / labels_file(split), np.zeros(n, np.int64))
        splits[split] = PackedSplit(shards)
    (folder / INDEX).write_text(PackedIndex(SHAPE, SHAPE, ("black",), splits, "folder:/nowhere").to_json())
    return f"packed:{folder}"


def train_on(name: str, steps: int) -> None:
    """Train for some steps, print the private memory of this process in megabytes, and exit."""
    model = Glow(GlowConfig(image_shape=SHAPE, levels=3, depth=1, width=16))
    trainer = Trainer(model, open_dataset(name, "train"), config=FitConfig(1, batch_size=32, precision="float32"))

    def after_step() -> None:
        if trainer.step == steps:
            rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
            print(sum(int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty")) / 1024)
            sys.exit()

    list(trainer.epochs(after_step=after_step))


def training(folder: Path, quick: bool) -> None:
    """Print the memory of processes that train from files, and the speed from files and from memory."""
    for images in (2_000, 500_000):
        name = write_packed(folder / str(images), images)
        command = [sys.executable, "-m", "benchmarks.packed", "--train-on", name, *["--quick"] * quick]
        megabytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
        print(f"{images:,} images: {float(megabytes):.0f} MB of private memory", flush=True)
    images_NCHW = torch.randint(256, (SHARD, *SHAPE), dtype=torch.uint8)
    name = write_packed(folder / "random", SHARD)
    np.save(folder / "random" / shard_file("train", 0), images_NCHW.numpy())
    sets = {
        "memory": LazyDataset.held(images_NCHW[:256], torch.zeros(256, dtype=torch.int64)),
        "files": open_dataset(name, "train").subset(torch.arange(256)),
    }

    def epoch(images: LazyDataset) -> Callable[[], object]:
        config = GlowConfig(image_shape=SHAPE, levels=3, depth=1 if quick else 8, width=8 if quick else 128)
        return lambda: list(Trainer(Glow(config), images, config=FitConfig(1, batch_size=32)).epochs())

    runs = {where: epoch(images) for where, images in sets.items()}
    for where, seconds in medians(runs, 1 if quick else 5, warmups=0).items():
        print(f"images in {where}: {256 / seconds:.1f} images/s")


def packing(folder: Path, images: int, width: int, height: int, rounds: int) -> None:
    """Print the speeds of Pillow in one thread and of packing."""
    from glowctl.packing.plan import prepare
    from glowctl.packing.run import run
    from glowctl.ray_runtime.connection import connected, set_environment
    from glowctl.specs.base import validated
    from glowctl.specs.request import PackSpec

    set_environment()
    torch.set_num_threads(1)
    textures = folder / "textures"
    write_textures(textures, images, (width, height))
    numbers = iter(range(1000))

    def pack() -> None:
        dest = str(folder / str(next(numbers)))
        spec = validated(PackSpec, {"source": f"folder:{textures}", "dest": dest, "image_size": 64})
        run(prepare(spec), lambda event: None)

    with connected() as ready:
        ready()
        runs = {"Pillow": lambda: pillow(textures), "packing": pack}
        wall = medians(runs, rounds, warmups=1)
        cpu = medians(runs, 1, warmups=0, clock=cpu_seconds)
    for name, seconds in wall.items():
        print(f"{name}: {images / seconds:.0f} images/s, {seconds:.1f} s, {cpu[name]:.1f} CPU seconds", flush=True)


def write_textures(folder: Path, images: int, size: tuple[int, int]) -> None:
    """Write images with smooth random textures and some noise; every second one is PNG, the others JPEG."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    for number in range(images):
        coarse = draw.integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(smooth + draw.integers(-12, 13, smooth.shape, dtype=np.int16), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:06}.{'png' if number % 2 else 'jpg'}", quality=90)


def pillow(folder: Path) -> None:
    """Open, decode and shrink every image as a short script would, with the filter that packing uses."""
    for file in sorted(folder.iterdir()):
        with Image.open(file) as image:
            scale = 64 / max(image.size)
            shrunk = (round(image.width * scale), round(image.height * scale))
            np.asarray(image.convert("RGB").resize(shrunk, Image.Resampling.BILINEAR))


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of all that descend from it; Ray's workers stay between calls."""
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def main() -> None:
    """Measure memory and speed, or train as one of the processes whose memory is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", action="store_true", help="measure packing instead, compared with a loop of Pillow")
    parser.add_argument("--images", type=int, default=4_000, help="number of images of --pack (default 4000)")
    parser.add_argument("--size", default="256x256", help="width and height of the images of --pack (default 256x256)")
    parser.add_argument("--train-on", help=argparse.SUPPRESS)
    asked = parse(parser)
    if asked.train_on:
        train_on(asked.train_on, 20 if asked.quick else 60)
    with tempfile.TemporaryDirectory() as folder:
        if asked.pack:
            width, height = map(int, asked.size.split("x"))
            packing(Path(folder), 40 if asked.quick else asked.images, width, height, 1 if asked.quick else 5)
        else:
            training(Path(folder), asked.quick)


if __name__ == "__main__":
    main()
