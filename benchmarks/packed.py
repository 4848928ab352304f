"""The cost of reading images from packed files: `python -m benchmarks.packed [--quick] [--pack]`.

The script prints the speed of training with images mapped from files and with images in memory, which take turns in one
process. It also prints the private memory of a process that trains on 2,000 and on 500,000 images of 64x64. The files
of these images are sparse, so that nothing large is written to the disk. With --pack, it prints the speed of packing
instead (`benchmarks.packing`).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.packing import packing_speed
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
            with (folder / shard_file(split, number)).open("wb") as file:
                np.lib.format.write_array_header_1_0(
                    file, {"descr": "|u1", "fortran_order": False, "shape": (count, *SHAPE)}
                )
                file.truncate(file.tell() + count * int(np.prod(SHAPE)))
        np.save(folder / labels_file(split), np.zeros(n, np.int64))
        splits[split] = PackedSplit(shards)
    (folder / INDEX).write_text(PackedIndex(SHAPE, SHAPE, ("black",), splits, "folder:/nowhere").to_json())
    return f"packed:{folder}"


def own_megabytes(images: int, steps: int) -> float:
    """Return the private memory, in megabytes, of a process that has trained on the images for some steps."""
    with tempfile.TemporaryDirectory() as folder:
        name = write_packed(Path(folder, "set"), images)
        command = [sys.executable, "-m", "benchmarks.packed", "--train-on", name, "--steps", str(steps)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def train_on(name: str, steps: int) -> None:
    """Train for some steps, print the private memory of this process in megabytes, and exit."""
    trainer = Trainer(
        Glow(GlowConfig(image_shape=SHAPE, levels=3, depth=1, width=16)),
        open_dataset(name, "train"),
        validation=open_dataset(name, "validation"),
        config=FitConfig(epochs=1, batch_size=32, precision="float32"),
    )

    def after_step() -> None:
        if trainer.step == steps:
            rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
            kilobytes = sum(int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty"))
            print(kilobytes / 1024)
            sys.exit()

    list(trainer.epochs(after_step=after_step))


def throughput(rounds: int) -> None:
    """Print the images per second with images in memory and in files, which take turns."""
    images = torch.randint(256, (2048, *SHAPE), dtype=torch.uint8)
    labels = torch.zeros(len(images), dtype=torch.int64)
    with tempfile.TemporaryDirectory() as folder:
        name = write_packed(Path(folder, "set"), len(images))
        np.save(Path(folder, "set", shard_file("train", 0)), images.numpy())
        mapped = open_dataset(name, "train").subset(torch.arange(256))
        held = LazyDataset.held(images[:256], labels[:256])
        paces: dict[str, list[float]] = {"memory": [], "files": []}
        for _ in range(rounds):
            for where, dataset in (("memory", held), ("files", mapped)):
                trainer = Trainer(
                    Glow(GlowConfig(image_shape=SHAPE, levels=3, depth=8, width=128)),
                    dataset,
                    config=FitConfig(epochs=1, batch_size=32),
                )
                started = time.perf_counter()
                (result,) = trainer.epochs()
                paces[where].append(256 / (time.perf_counter() - started))
                assert result.epoch == 1
        for where, pace in paces.items():
            print(f"images in {where}: {statistics.median(pace):.1f} images/s ({', '.join(f'{p:.1f}' for p in pace)})")
        print(f"files / memory: {statistics.median(paces['files']) / statistics.median(paces['memory']):.3f}")


def main() -> None:
    """Measure memory and speed, or train as one of the processes whose memory is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="take fewer steps and repetitions")
    parser.add_argument("--pack", action="store_true", help="measure packing instead, compared with a loop of Pillow")
    parser.add_argument("--images", type=int, default=4_000, help="number of images of --pack (default 4000)")
    parser.add_argument("--size", default="256x256", help="width and height of the images of --pack (default 256x256)")
    parser.add_argument("--train-on", help="only train on this data set and print the memory of this process")
    parser.add_argument("--steps", type=int, default=40, help="steps of --train-on (default 40)")
    arguments = parser.parse_args()
    if arguments.train_on:
        train_on(arguments.train_on, arguments.steps)
        return
    if arguments.pack:
        images, rounds = (400, 1) if arguments.quick else (arguments.images, 5)
        width, height = map(int, arguments.size.split("x"))
        packing_speed(images, size=(width, height), rounds=rounds)
        return
    for images in (2_000, 500_000):
        print(f"{images:,} images: {own_megabytes(images, 20 if arguments.quick else 60):.0f} MB of private memory")
    throughput(1 if arguments.quick else 5)


if __name__ == "__main__":
    main()
