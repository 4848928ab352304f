"""Memory of activations and of the allocator: `python -m benchmarks.memory [--quick]`.

The activations' memory is the peak of a process that trains on 64 images minus that of one that trains on 2, since
weights, gradients and libraries are in both. There the C library returns freed memory at once, so that the peak has
only memory in use. The gain from keeping freed memory is measured in one process with and one without it.
"""

from __future__ import annotations

import argparse
import ctypes
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.common import SMALL, Job, glow_work, images_and_noise, medians, parse, precisions, threads
from benchmarks.speed import normflows_work
from glow import Glow, GlowConfig
from glow.memory import keep_freed_memory


def in_own_process(*arguments: object) -> float:
    """Run this script with arguments in another process, and return the number that it prints."""
    command = [sys.executable, "-m", "benchmarks.memory", "--of", *map(str, arguments)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])


def work(program: str, job: Job) -> Callable[[], object]:
    """Return the work of "normflows", or of Glow with "stored" activations or "reversible" steps."""
    if program == "normflows":
        return normflows_work(job)
    return glow_work(job, precisions()[-1], program)  # type: ignore[arg-type]


def peak_megabytes(program: str, depth: str, batch: str) -> float:
    """Return the peak of this process's memory after two training steps."""
    ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: returns freed memory at once
    step = work(program, Job("training", replace(SMALL, depth=int(depth)), int(batch)))
    step()
    step()
    # getrusage would include the peak of the process from which this one was forked.
    (kilobytes,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) / 1000


def images_per_second(program: str, kind: str, memory: str) -> float:
    """Return the speed of "scoring" or "sampling" in this process, with freed memory "kept" or "returned"."""
    if memory == "kept":
        keep_freed_memory()
    job = Job(kind, batch=128 if kind == "scoring" else 256)  # type: ignore[arg-type]
    return job.batch / medians({"": work(program, job)}, 5)[""]


def gradient_difference(dtype: torch.dtype) -> float:
    """Return the largest difference of gradients with reversible steps and with stored activations.

    It is relative to the largest number of a tensor's gradient. The weights are moved away from those at the start,
    with which most of the model is the identity.
    """
    model = Glow(GlowConfig(depth=8, width=32)).to(dtype)
    generator = torch.Generator().manual_seed(0)
    images, noise = images_and_noise(model.config, 4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, dtype=dtype, generator=generator))
    gradients = []
    for memory in ("stored", "reversible"):
        bits = model.set_memory(memory).bits_per_dim(images, noise_BCHW=noise.to(dtype)).sum()
        gradients.append(torch.autograd.grad(bits, list(model.parameters())))
    return max(float((ours - theirs).abs().max() / theirs.abs().max()) for theirs, ours in zip(*gradients, strict=True))


def main() -> None:
    """Print the figures, or only one of them if this is the process that measures it."""
    if "--of" in sys.argv:
        torch.set_num_threads(threads())
        *_, first, second, third = sys.argv
        print((peak_megabytes if second.isdigit() else images_per_second)(first, second, third))
        return
    asked = parse(argparse.ArgumentParser(description=__doc__))
    depths, peers = ((1, 2), ()) if asked.quick else ((8, 64), ("normflows",))
    for program in ("stored", "reversible", *peers):
        sizes = [in_own_process(program, depth, 64) - in_own_process(program, depth, 2) for depth in depths]
        shown = ", ".join(f"{size:,.1f} MB at K={depth}" for depth, size in zip(depths, sizes, strict=True))
        print(f"activations, {program}: {shown}, {sizes[1] / sizes[0] - 1:+.1%}", flush=True)
    steps = {memory: work(memory, Job("training", batch=64)) for memory in ("stored", "reversible")}
    taken = medians(steps, 1 if asked.quick else 9)
    print(f"time of a reversible step, stored = 1: {taken['reversible'] / taken['stored']:.2f}")
    for dtype in (torch.float64, torch.float32):
        print(f"difference of gradients in {dtype}: {gradient_difference(dtype):.1e}")
    for program in ("stored", *peers):
        for kind in ("scoring", "sampling"):
            kept, returned = (in_own_process(program, kind, memory) for memory in ("kept", "returned"))
            print(
                f"{kind}, {program}: {kept:,.0f} images/s with freed memory kept, {returned:,.0f} without", flush=True
            )


if __name__ == "__main__":
    main()
