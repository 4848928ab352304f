"""The false alarms and the power of batch tests that are calibrated with few held-out images.

    python -m benchmarks.few_held_out

For normal and lognormal scores, the script prints how often a test at alpha = 0.99 calls batches of M images OOD: by a
bootstrapped threshold, and by the exact p-values of `glow.ood`. It does so for ordinary batches, of which 1 % should be
called OOD, and for batches whose scores are shifted by three standard errors of their mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from glow.ood import MeanTest

DRAWS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "lognormal": lambda rng, size: rng.lognormal(size=size),
}
SD = {"normal": 1.0, "lognormal": float(np.sqrt((np.e - 1) * np.e))}
CASES = ((50, 2), (50, 10), (50, 25), (200, 10), (200, 25), (5000, 25))
BATCHES = 100


def rates(kind: str, n: int, m: int, shift: float, simulations: int) -> tuple[float, float]:
    """Return the shares of batches that are called OOD, by the threshold and by exact p-values."""
    by_threshold, exact = [], []
    for seed in range(simulations):
        rng = np.random.default_rng([seed, n, m])
        test = MeanTest.fit(DRAWS[kind](rng, (n,)), m, 0.99, 2000, seed, interval=False)
        batches = DRAWS[kind](rng, (BATCHES, m)) + shift
        by_threshold.append(test.threshold.exceeded(test.statistic(batches)).mean())
        exact.append(test.is_ood(batches).mean())
    return float(np.mean(by_threshold)), float(np.mean(exact))


def main() -> None:
    """Simulate every case, and print a line per case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.few_held_out", description=__doc__)
    parser.add_argument("--simulations", type=int, default=150, help="simulations per case (default 150)")
    simulations = parser.parse_args().simulations
    print("held out  M   scores     false alarms, %       found, %")
    print("                         threshold  exact  threshold  exact")
    for n, m in CASES:
        for kind in DRAWS:
            alarms = rates(kind, n, m, 0.0, simulations)
            found = rates(kind, n, m, 3 * SD[kind] / m**0.5, simulations)
            shares = "  ".join(f"{100 * share:9.1f}" for share in (*alarms, *found))
            print(f"{n:8d} {m:3d}  {kind:9s} {shares}", flush=True)


if __name__ == "__main__":
    main()
