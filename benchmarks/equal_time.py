"""The gain from choices of the model when all are trained for the same time: each against the base, with equal seeds.

    GLOW_DATA_ROOT=~/data python -m benchmarks.equal_time --seconds 150 --seeds 4

The script trains on MNIST. Each trial gets one core and the given seconds of CPU time, and as many trials run at the
same time as there are cores. The learning rate depends on the share of the time that has passed (`benchmarks.timed`),
so slow and fast choices have equal ones. The script prints the test NLL of each choice and its difference from the
base, with 95 % t intervals over the seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from benchmarks.racers import glow_racer
from benchmarks.timed import Budget, train_for
from glow import load_dataset
from glow.ood.statistics import mean_interval
from jobs.specs.training import make_train_spec

__all__ = ["CHOICES", "main"]

PLAIN = {"width": 64, "network": "plain", "checkerboard": 0}
"""The settings of the base that differ from the laptop preset, which has what the base lacks."""

BASE = "plain networks without checkerboard couplings"
"""The choice that the others are compared with."""

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
"""The settings of each choice that differ from the base."""

WARMUP = 0.1
"""Share of the time over which the learning rate grows. It is long because 30 s can be as few as 35 steps."""

TESTED = 2000
"""Number of test images."""


def trial(changes: Mapping[str, Any], seed: int, seconds: float) -> tuple[float, int]:
    """Train one choice with one seed; return the test bits/dim and the number of images trained on."""
    torch.set_num_threads(1)
    spec = make_train_spec("laptop", {**PLAIN, **changes, "seed": seed})
    train = load_dataset("mnist", "train", per_class=spec.per_class)[0]
    test = load_dataset("mnist", "test")[0][:TESTED]
    budget = Budget(seconds, 1, spec.batch_size, spec.learning_rate, WARMUP, seed)
    racer = glow_racer(spec.glow_config((1, 32, 32), 0), train[: 4 * spec.batch_size])
    curve = train_for(budget, *racer, train, test)
    return curve.best, curve.images


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in CHOICES:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(CHOICES)}")
    return names


def main() -> None:
    """Train every choice with every seed, and print a line of JSON per choice; the progress is on standard error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.equal_time", description=__doc__)
    parser.add_argument("--seconds", type=float, default=150, help="CPU time of a trial in seconds (default 150)")
    parser.add_argument("--seeds", type=int, default=4, help="number of seeds (default 4)")
    parser.add_argument(
        "--only", type=_names, default=list(CHOICES), help="some choices, with commas between (default all)"
    )
    asked = parser.parse_args()
    choices = {name: CHOICES[name] for name in dict.fromkeys([BASE, *asked.only])}
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        running = {
            (name, seed): pool.submit(trial, changes, seed, asked.seconds)
            for seed in range(asked.seeds)
            for name, changes in choices.items()
        }
        found = {}
        for (name, seed), future in running.items():
            found[name, seed] = future.result()
            print(f"{name}, seed {seed}: {found[name, seed][0]:.4f} bits/dim", file=sys.stderr, flush=True)
    base = np.array([found[BASE, seed][0] for seed in range(asked.seeds)])
    for name in choices:
        bits = np.array([found[name, seed][0] for seed in range(asked.seeds)])
        difference = mean_interval(bits - base)
        images = int(np.mean([found[name, seed][1] for seed in range(asked.seeds)]))
        print(
            json.dumps(
                {
                    "choice": name,
                    "bits_per_dim": round(float(bits.mean()), 4),
                    "difference": [round(x, 4) for x in (difference.value, difference.low, difference.high)],
                    "images": images,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
