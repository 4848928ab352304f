"""What an OOD test adds to scoring, and what the intervals of AUROCs add to an OOD test, on one core."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import torch

from benchmarks.contestants import images_and_noise
from benchmarks.row import Figure, Row, Setting, at_most
from benchmarks.timing import ratio, seconds
from benchmarks.typicality import one_core
from glow import Glow, GlowConfig
from glow.model import LogProbTerms
from glow.ood import Estimate, OodResult, OodSettings, auroc_estimate, evaluate_ood, held_out_protocol
from glow.scoring import BATCH_SIZE, latent_statistics, score

__all__ = ["ROW"]

MODELS = {
    "32x32x1, width 64": GlowConfig((1, 32, 32), levels=3, depth=8, width=64),
    "32x32x3, width 64": GlowConfig((3, 32, 32), levels=3, depth=8, width=64),
    "32x32x3, width 96": GlowConfig((3, 32, 32), levels=3, depth=8, width=96),
}
"""K = 8 and L = 3 with plain networks: for MNIST, for coloured images (more latents per unit of work), and the model of
CIFAR-10 in the docs."""

TINY = GlowConfig((1, 8, 8), levels=2, depth=1, width=8)
STATISTICS = "statistics of the latents, share of a scoring pass"
COLUMNS = "columns per level, share of a scoring pass"
INTERVALS = "AUROCs with intervals, share of the arithmetic"
ROUNDS = 15
TRAIN, HELD_OUT, TESTED = 5000, 2000, 5000
"""Numbers of images behind the arithmetic of an OOD test."""


def measure(how: Setting) -> tuple[list[Figure], str]:
    """Measure the statistics of the latents against a scoring pass, and the intervals of AUROCs against a test."""
    figures: list[Figure] = []
    with one_core(), torch.no_grad():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for name, config in MODELS.items():
                figures += scoring(name, config, how.times(ROUNDS))
            figures += arithmetic(how.times(3))
        finally:
            torch.set_num_threads(threads)
    return figures, (
        f"Random images, {BATCH_SIZE} per pass, float32, K=8 L=3. A pass computes log p(x) from terms of each level, "
        "so that columns per level only have to be copied into the table. Shares are medians over rounds of the ratio "
        f"of two processor times. The arithmetic has {TRAIN:,} training, {HELD_OUT:,} held-out and {TESTED:,} tested "
        "images of each of two data sets."
    )


def scoring(name: str, config: GlowConfig, rounds: int) -> list[Figure]:
    """Measure for one model what the statistics of the latents, and the columns per level, add to a pass."""
    model = Glow(config)
    images, noise = images_and_noise(config, BATCH_SIZE)
    model.initialize(images, noise)

    def terms() -> LogProbTerms:
        return model.log_prob_terms(images, noise_BCHW=noise)

    computed = terms()

    def columns() -> np.ndarray:
        return np.asarray(
            torch.cat([computed.input_log_det_B[:, None], computed.log_det_BL, computed.log_prior_BL], 1).double()
        )

    def statistics() -> np.ndarray:
        return np.asarray(latent_statistics(computed.standardized))

    return [
        Figure(f"{name}: {STATISTICS}", 100 * ratio(statistics, terms, rounds), "%"),
        Figure(f"{name}: {COLUMNS}", 100 * ratio(columns, terms, rounds), "%"),
    ]


def arithmetic(rounds: int) -> list[Figure]:
    """Measure an OOD test of images that have been scored, and the share of the AUROCs and their intervals."""
    train, held_out, own, far = tables()

    def test() -> OodResult:
        return evaluate_ood(train, held_out_protocol(held_out, {"own": own, "far": far}), OodSettings())

    statistics = test().statistics
    pairs = [
        (statistics[detector, "own", m], scores) for (detector, name, m), scores in statistics.items() if name == "far"
    ]

    def intervals() -> list[Estimate]:
        return [auroc_estimate(*pair) for pair in pairs]

    return [
        Figure(INTERVALS, 100 * ratio(intervals, test, rounds, warmups=0), "%"),
        Figure("arithmetic of an OOD test, processor time", seconds(test, time.process_time), "s"),
        Figure("AUROCs of an OOD test", len(pairs), "AUROCs"),
    ]


def tables() -> list[pd.DataFrame]:
    """Return score tables of random images under a tiny model: three of noise, and one of images that are darker."""
    model = Glow(TINY)
    sizes = (TRAIN, HELD_OUT, TESTED, TESTED)
    images, noise = images_and_noise(TINY, sum(sizes))
    model.initialize(images[:BATCH_SIZE], noise[:BATCH_SIZE])
    *ours, far = images.split(sizes)
    return [score(model, part) for part in (*ours, far // 8 * 7)]


ROW = Row(
    "ood",
    "cost of an OOD test, on one core",
    measure,
    (
        *(at_most(f"{name}: {STATISTICS}", 15, "%") for name in MODELS),
        *(at_most(f"{name}: {COLUMNS}", 2, "%") for name in MODELS),
        at_most(INTERVALS, 2, "%"),
    ),
)
