"""The false alarms, the run lengths and the delays of `glow.ood.Monitor` on simulated scores.

    python -m benchmarks.monitoring [--streams 1000]

The script prints, for both references, the share of healthy streams of 10,000 images that have a false alarm at alpha
0.99; the mean number of images between false alarms with every=10000, where a stream without an alarm counts with its
length; and the median number of images until the alarm after scores turn from N(0, 1) to N(1, 1).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import get_args

import numpy as np

from glow.ood.monitor import Monitor, Reference

Draw = Callable[[np.random.Generator, int], np.ndarray]
DRAWS: dict[str, Draw] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "Cauchy": lambda rng, size: rng.standard_cauchy(size=size),
    "tied": lambda rng, size: rng.poisson(1.0, size=size).astype(float),
}
HELD_OUT = (50, 200, 5000)
IMAGES = 10_000


def false_alarms(
    reference: Reference, draw: Draw, n: int, streams: int, alpha: float = 0.99, images: int = IMAGES
) -> float:
    """Return the share of healthy streams in which there is ever an alarm, whenever one looks."""
    count = 0
    for seed in range(streams):
        rng = np.random.default_rng([seed, n])
        monitor = Monitor(draw(rng, n)[:, None], reference=reference, alpha=alpha, seed=seed)
        monitor.update(draw(rng, images)[:, None])
        count += len(monitor.alarms)
    return count / streams


def run_length(reference: Reference, n: int, every: int, streams: int) -> float:
    """Return the mean number of images until the first false alarm, of at most 20 * `every`: a lower bound."""
    lengths = []
    for seed in range(streams):
        rng = np.random.default_rng([seed, n])
        monitor = Monitor(rng.normal(size=(n, 1)), reference=reference, every=every, seed=seed)
        while not monitor.alarms and monitor.images < 20 * every:
            monitor.update(rng.normal(size=(every, 1)))
        lengths.append(monitor.alarms[0].image if monitor.alarms else monitor.images)
    return float(np.mean(lengths))


def delay(reference: Reference, n: int, healthy: int, streams: int, alpha: float = 0.95) -> float:
    """Return the median number of images from the change to the alarm."""
    delays = []
    for seed in range(streams):
        rng = np.random.default_rng([seed, n, healthy])
        monitor = Monitor(rng.normal(size=(n, 1)), reference=reference, alpha=alpha, seed=seed)
        monitor.update(np.concatenate([rng.normal(size=healthy), rng.normal(1.0, size=1000)])[:, None])
        if not monitor.alarms or monitor.alarms[0].image > healthy:
            delays.append(monitor.alarms[0].image - healthy if monitor.alarms else np.inf)
    return float(np.median(delays))


def main() -> None:
    """Print a line per case, and the time of a million images."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.monitoring", description=__doc__)
    parser.add_argument("--streams", type=int, default=1000, help="simulated streams per case (default 1000)")
    streams = parser.parse_args().streams
    for reference in get_args(Reference):
        for n in HELD_OUT:
            shares = {name: false_alarms(reference, draw, n, streams) for name, draw in DRAWS.items()}
            print(f"{reference}, {n} held out, false alarms:", *(f"{k} {v:.2%}" for k, v in shares.items()), flush=True)
        lengths = {n: run_length(reference, n, 10_000, max(1, streams // 20)) for n in HELD_OUT}
        print(
            f"{reference}, every=10000:", *(f"{n} held out {length:.0f}" for n, length in lengths.items()), flush=True
        )
        delays = {healthy: delay(reference, 1000, healthy, streams) for healthy in (0, 100, 1000, 5000)}
        print(f"{reference}, delay:", *(f"after {k} images {v:.0f}" for k, v in delays.items()), flush=True)
        monitor = Monitor(np.random.default_rng(0).normal(size=(5000, 2)), reference=reference)
        started = time.process_time()
        monitor.update(np.random.default_rng(1).normal(size=(1_000_000, 2)))
        print(
            f"{reference}, 1,000,000 images, 2 detectors: {time.process_time() - started:.1f} s of a core", flush=True
        )


if __name__ == "__main__":
    main()
