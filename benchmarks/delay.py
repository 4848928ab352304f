"""How many images a monitor needs to notice that a stream has changed: real scores of a model of MNIST.

    python -m benchmarks.delay CHECKPOINT [--held-out 1000] [--streams 40] [--scores FILE]

A stream of MNIST's test images turns to EMNIST letters, in part or altogether, or to blurred or noisy test images. The
script prints the median number of images from the change to the alarm by both references of `glow.ood.Monitor`, and by
the typicality test of every M images in a row, whose levels add up to 1 - alpha over 10,000 images. The detectors are
`joint` and `typicality`. With --scores, the scores are kept in a file for a second call.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch

from benchmarks.streams import ALPHA, CHANGES, HEALTHY, LONGEST, stream
from glow.checkpoint import load_checkpoint
from glow.datasets import open_dataset
from glow.datasets.corruptions import corrupted
from glow.ood import Monitor, TypicalityTest, fit_detectors
from glow.scoring import score

HORIZON = 10_000
MOST = {"train": 5000, "validation": 5000, "test": 10_000}


def scores_of(checkpoint: str) -> dict[str, np.ndarray]:
    """Return for each set of images the scores (N, 2) of the detectors `typicality` and `joint`."""
    model, root = load_checkpoint(checkpoint).eval(), os.environ.get("GLOW_DATA_ROOT")
    splits = {split: open_dataset("mnist", split, root, image_shape=model.config.image_shape) for split in MOST}
    letters = open_dataset("emnist-letters", "test", root, image_shape=model.config.image_shape)
    sets = splits | {"letters": letters} | {kind: corrupted(splits["test"], kind, 1) for kind in ("blur", "noise")}
    tables = {}
    for name, images in sets.items():
        chosen = torch.from_numpy(np.random.default_rng(0).permutation(len(images))[: MOST.get(name, LONGEST)])
        with torch.no_grad():
            tables[name] = score(model, images.pick(chosen), indices_N=chosen)
    chosen_detectors = [each for each in fit_detectors(tables["train"]) if each.name in ("typicality", "joint")]
    return {k: np.stack([each.image_scores(v) for each in chosen_detectors], 1) for k, v in tables.items()}


def alarm_of_batches(train: np.ndarray, held_out: np.ndarray, images: np.ndarray, m: int) -> float:
    """Return the number of images after which a batch of M in a row is OOD, at a level that Bonferroni divides."""
    test = TypicalityTest.fit(train, held_out, m, 1 - (1 - ALPHA) * m / HORIZON, interval=False)
    found = np.flatnonzero(test.is_ood(images[: len(images) // m * m].reshape(-1, m)))
    return (found[0] + 1) * m if len(found) else np.inf


def main() -> None:
    """Print a line per change."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delay", description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--held-out", type=int, default=1000, help="held-out images (default 1000)")
    parser.add_argument("--streams", type=int, default=40, help="streams per change (default 40)")
    parser.add_argument("--scores", type=Path, help="file that keeps the scores")
    asked = parser.parse_args()
    if asked.scores and asked.scores.exists():
        scores = dict(np.load(asked.scores))
    else:
        scores = scores_of(asked.checkpoint)
        if asked.scores:
            np.savez(asked.scores, **scores)  # type: ignore[arg-type] # mypy takes a score for allow_pickle
    for healthy in HEALTHY:
        for change in CHANGES:
            delays: dict[str, list[float]] = {}
            for seed in range(asked.streams):
                held_out = np.random.default_rng(seed).permutation(scores["validation"])[: asked.held_out]
                images = stream(scores, change, healthy, seed)
                for reference in ("growing", "fixed"):
                    monitor = Monitor(held_out, reference=reference, alpha=ALPHA, seed=seed)
                    for part in np.array_split(images, 10):
                        if not monitor.alarms:
                            monitor.update(part)
                    at = monitor.alarms[0].image if monitor.alarms else np.inf
                    delays.setdefault(reference, []).append(at - healthy)
                for m in (5, 25) if seed < 5 else ():
                    at = alarm_of_batches(scores["train"][:, 0], held_out[:, 0], images[:, 0], m)
                    delays.setdefault(f"M = {m}", []).append(at - healthy)
            medians = ", ".join(f"{name} {np.median(each):.0f}" for name, each in delays.items())
            print(f"{change[0]} {change[1]:.0%} after {healthy}: {medians}", flush=True)


if __name__ == "__main__":
    main()
