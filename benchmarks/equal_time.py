"""The gain from choices of the model when all are trained for the same time: each against the base, with equal seeds.

    GLOW_DATA_ROOT=~/data python -m benchmarks.equal_time --seconds 150 --seeds 4

The script trains on MNIST. Each trial gets one core and the given seconds of CPU time, and as many trials run at the
same time as there are cores. The learning rate grows over the first tenth of the time, and falls along half a cosine
to 0 at its end. It depends on the time alone, so that slow and fast choices have equal ones. The script prints the test
NLL of each choice and its difference from the base, with 95 % t intervals over the seeds.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from benchmarks.common import parse
from glow import Glow, load_dataset, score
from glow.ood.statistics import mean_interval
from glowctl.specs.training import make_train_spec

BASE = "plain networks without checkerboard couplings"

CHOICES: dict[str, dict[str, Any]] = {
    BASE: {},
    "linear input": {"input": "linear"},
    "uniform noise": {"dequantization": "uniform"},
    "variational noise": {"dequantization": "variational"},
    "splines": {"coupling": "spline"},
    "splines with a quarter of the learning rate": {"coupling": "spline", "learning_rate": 1e-3},
    "floored scale": {"scale": "floored"},
    "bounded scale": {"scale": "bounded"},
    "two checkerboard couplings": {"checkerboard": 2},
    "residual networks of half the width": {"width": 32, "network": "residual"},
    "laptop preset": {"width": 32, "network": "residual", "checkerboard": 2},
    "shuffle": {"permutation": "shuffle"},
    "reverse": {"permutation": "reverse"},
}
"""The settings of each choice that differ from the base, which is the laptop preset without what it has of these."""


def trial(changes: Mapping[str, Any], seed: int, seconds: float, dataset: str = "mnist") -> tuple[float, int]:
    """Train one choice with one seed; return the bits/dim of 2,000 test images and the number of images trained on."""
    torch.set_num_threads(1)
    base = {"width": 64, "network": "plain", "checkerboard": 0}
    spec = make_train_spec("laptop", {**base, **changes, "seed": seed})
    train = load_dataset(dataset, "train", per_class=spec.per_class)[0]
    channels, height, width = train.shape[1:]
    model = Glow(spec.glow_config((channels, height, width), 0))
    generator = torch.Generator().manual_seed(seed)
    first = train[: 4 * spec.batch_size]
    model.initialize(first, torch.rand(first.shape, generator=generator))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    used, seen = 0.0, 0
    while used < seconds:
        started = time.process_time()
        share = used / seconds
        rate = spec.learning_rate * min(1, share / 0.1) * 0.5 * (1 + math.cos(math.pi * share))
        optimizer.param_groups[0]["lr"] = rate
        images = train[torch.randint(len(train), (spec.batch_size,), generator=generator)]
        optimizer.zero_grad(set_to_none=True)
        model.bits_per_dim(images, noise_BCHW=torch.rand(images.shape, generator=generator)).mean().backward()
        if torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0).isfinite():
            optimizer.step()
        seen += len(images)
        used += time.process_time() - started
    return float(score(model, load_dataset(dataset, "test")[0][:2000]).bits_per_dim.mean()), seen


def main() -> None:
    """Train every choice with every seed, and print a line per choice."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.equal_time", description=__doc__)
    parser.add_argument("--seconds", type=float, default=150, help="CPU time of a trial in seconds (default 150)")
    parser.add_argument("--seeds", type=int, default=4, help="number of seeds (default 4)")
    parser.add_argument("--only", default=",".join(CHOICES), help="some choices, with commas between (default all)")
    asked = parse(parser)
    names = list(dict.fromkeys([BASE, *asked.only.split(",")]))
    seconds, seeds = (1.0, range(2)) if asked.quick else (asked.seconds, range(asked.seeds))
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        running = {name: [pool.submit(trial, CHOICES[name], seed, seconds) for seed in seeds] for name in names}
        found = {name: np.array([future.result() for future in futures]) for name, futures in running.items()}
    for name, results in found.items():
        gain = mean_interval(results[:, 0] - found[BASE][:, 0])
        print(
            f"{name}: {results[:, 0].mean():.3f} bits/dim, {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}), "
            f"{results[:, 1].mean():,.0f} images"
        )


if __name__ == "__main__":
    main()
