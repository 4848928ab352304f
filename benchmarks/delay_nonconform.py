"""How many images nonconform needs to notice that a stream has changed, on the scores of `benchmarks.delay`.

    python -m benchmarks.delay_nonconform SCORES [--held-out 1000] [--streams 40]

SCORES is the file that `benchmarks.delay --scores` kept. This script needs only NumPy and nonconform (measured: 2.0.0,
which needs Python 3.12). Each score is ranked among the held-out ones and all earlier ones, with ties broken at random,
so that its p-values are exact. Both tails of both detectors each have a `MixtureMartingale` of five powers with
restarts, whose mean has the same promise as our evidence: with probability alpha there is never a false alarm.
"""

from __future__ import annotations

import argparse
import bisect

import numpy as np
from nonconform.martingales import MixtureMartingale, PowerMartingale

from benchmarks.streams import ALPHA, CHANGES, HEALTHY, stream

POWERS = (0.1, 0.3, 0.5, 0.7, 0.9)


def p_values(known: np.ndarray, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the exact p-values (N, 2), of high and of low scores, of one detector."""
    earlier, found = sorted(known.tolist()), []
    for score in images.tolist():
        low, high = bisect.bisect_left(earlier, score), bisect.bisect_right(earlier, score)
        below = (low + rng.random() * (high - low + 1)) / (len(earlier) + 1)
        found.append((1 - below, below))
        earlier.insert(low, score)
    return np.array(found)


def alarm(held_out: np.ndarray, images: np.ndarray, seed: int) -> float:
    """Return the number of images until the alarm."""
    rng = np.random.default_rng(seed)
    tails = np.concatenate([p_values(held_out[:, d], images[:, d], rng) for d in range(held_out.shape[1])], 1)
    bets = [MixtureMartingale([PowerMartingale(power) for power in POWERS]) for _ in range(tails.shape[1])]
    for number, row in enumerate(tails, 1):
        won = [bet.update(p_value).restarted_martingale for bet, p_value in zip(bets, row, strict=True)]
        if np.mean(won) >= 1 / (1 - ALPHA):
            return number
    return np.inf


def main() -> None:
    """Print a line per change."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delay_nonconform", description=__doc__)
    parser.add_argument("scores")
    parser.add_argument("--held-out", type=int, default=1000, help="held-out images (default 1000)")
    parser.add_argument("--streams", type=int, default=40, help="streams per change (default 40)")
    asked = parser.parse_args()
    scores = dict(np.load(asked.scores))
    for healthy in HEALTHY:
        for change in CHANGES:
            delays = []
            for seed in range(asked.streams):
                held_out = np.random.default_rng(seed).permutation(scores["validation"])[: asked.held_out]
                delays.append(alarm(held_out, stream(scores, change, healthy, seed), seed) - healthy)
            print(f"{change[0]} {change[1]:.0%} after {healthy}: nonconform {np.median(delays):.0f}", flush=True)


if __name__ == "__main__":
    main()
