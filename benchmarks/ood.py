"""What an OOD test costs in addition to scoring: `python -m benchmarks.ood [--quick]`.

On one core, the script measures the statistics of the latents as a share of a scoring pass, the arithmetic of a test of
images that have been scored, and the typicality test alone.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import torch

from benchmarks.common import images_and_noise, medians, parse
from glow import Glow, GlowConfig, TypicalityTest
from glow.ood import OodSettings, auroc_estimate, evaluate_ood, held_out_protocol
from glow.scoring import BATCH_SIZE, latent_statistics, score

SHAPES = {"32x32x1, width 64": (1, 64), "32x32x3, width 64": (3, 64), "32x32x3, width 96": (3, 96)}
TINY = GlowConfig((1, 8, 8), levels=2, depth=1, width=8)


def statistics_share(config: GlowConfig, rounds: int) -> float:
    """Return the processor time of the statistics of the latents, as a share of that of a scoring pass."""
    model = Glow(config)
    images, noise = images_and_noise(config, BATCH_SIZE)
    model.initialize(images, noise)
    standardized = model.log_prob_terms(images, noise_BCHW=noise).standardized
    taken = medians(
        {
            "pass": lambda: model.log_prob_terms(images, noise_BCHW=noise),
            "statistics": lambda: latent_statistics(standardized),
        },
        rounds,
        clock=time.process_time,
    )
    return taken["statistics"] / taken["pass"]


def arithmetic(sizes: tuple[int, ...], rounds: int) -> tuple[float, float, int]:
    """Return the processor time of a test of scored images, that of its AUROCs with intervals, and their number."""
    model = Glow(TINY)
    images, noise = images_and_noise(TINY, sum(sizes))
    model.initialize(images[:250], noise[:250])
    *ours, far = images.split(sizes)
    train, held_out, own, other = (score(model, part) for part in (*ours, far // 8 * 7))
    deal = held_out_protocol(held_out, {"own": own, "other": other})
    found = evaluate_ood(train, deal, OodSettings()).statistics
    pairs = [(found[detector, "own", m], table) for (detector, name, m), table in found.items() if name == "other"]
    runs = {
        "test": lambda: evaluate_ood(train, deal, OodSettings()),
        "AUROCs": lambda: [auroc_estimate(*pair) for pair in pairs],
    }
    taken = medians(runs, rounds, warmups=0, clock=time.process_time)
    return taken["test"], taken["AUROCs"], len(pairs)


def typicality(scores: int) -> None:
    """Fit a test with its threshold and interval for each M, and decide for every batch of tested images."""
    train, held_out, tested = np.random.default_rng(0).gamma(50, 30, (3, scores))
    for m in (1, 2, 5, 10, 25):
        TypicalityTest.fit(train, held_out, m, bootstraps=10_000).is_ood(tested.reshape(-1, m))


@torch.no_grad()
def main() -> None:
    """Print the shares and the times."""
    asked = parse(argparse.ArgumentParser(description=__doc__))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    for name, (channels, width) in SHAPES.items() if not asked.quick else ():
        share = statistics_share(GlowConfig((channels, 32, 32), levels=3, depth=8, width=width), 15)
        print(f"{name}: statistics of the latents, {share:.1%} of a scoring pass", flush=True)
    test, aurocs, count = arithmetic((300, 200, 50, 50) if asked.quick else (5000, 2000, 5000, 5000), 1)
    print(f"a test of scored images: {test:.1f} s; {count} AUROCs with intervals, {aurocs / test:.1%} of it")
    taken = medians({"": lambda: typicality(1000 if asked.quick else 25_000)}, 3, warmups=1)
    print(f"the typicality test alone, M in 1, 2, 5, 10, 25: {taken['']:.3f} s")


if __name__ == "__main__":
    main()
