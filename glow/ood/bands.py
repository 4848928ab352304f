"""Uniform bounds on the tails of a distribution of which only n values are known.

The share of a distribution F above the k-th smallest of n values has a beta distribution, whatever F is (if F is not
continuous, it is at most that large). Bounds on these shares that hold at all k at once are a band around the empirical
distribution function. The band of `tail_bounds` has the same local level at each k (Berk & Jones 1979), so that it is
narrow in the tails, where out-of-distribution images are. The band of Dvoretzky, Kiefer and Wolfowitz is as wide in the
tails as in the middle.

Shapes: n values, K of their ranks.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import special

NEGLIGIBLE = 1e-25
"""Probabilities of single counts that are smaller are left out when a band is calibrated."""

STEPS = 45
"""Number of ranks in each half of `spread_ranks`, before equal ones are removed."""


def spread_ranks(n: int) -> np.ndarray:
    """Return ranks from 1 to n that are dense near both ends, and symmetric: with k they contain n + 1 - k.

    Args:
        n: number of values.

    Returns:
        int (K,), ascending, with K at most 2 `STEPS` + 1.

    Examples:
        >>> spread_ranks(9).tolist()
        [1, 2, 3, 4, 5, 6, 7, 8, 9]
        >>> len(spread_ranks(100_000))
        84
    """
    half = np.unique(np.geomspace(1, (n + 1) / 2, STEPS).astype(int))
    return np.unique(np.concatenate([half, n + 1 - half]))


@lru_cache(maxsize=64)
def tail_bounds(n: int, failure: float) -> np.ndarray:
    """Return bounds on the shares of a distribution above some of n values drawn from it, which hold simultaneously.

    The bound at rank k is the (1 - level)-quantile of the beta distribution (n + 1 - k, k). The level is the largest
    with which all bounds hold with probability 1 - failure; this probability is computed as a recursion over the counts
    of a Poisson process that has n points in total (see Moscovich & Nadler 2017).

    Args:
        n: number of values.
        failure: the probability with which at least one bound may be wrong.

    Returns:
        float (K,), for each rank k of `spread_ranks` an upper bound on the share above the k-th smallest value,
        descending. By symmetry, the reversed array bounds the share below each of these values.

    Raises:
        ValueError: if n is below 2, or `failure` is not between 0 and 1.

    Examples:
        >>> bounds = tail_bounds(1000, failure=0.01)
        >>> [round(float(bound), 3) for bound in bounds[[-1, -10, 40]]]
        [0.008, 0.026, 0.379]
    """
    if n < 2:
        raise ValueError(f"a band needs at least 2 values, not {n}")
    if not 0 < failure < 1:
        raise ValueError(f"failure must be between 0 and 1, both excluded, not {failure}")
    counts_K = spread_ranks(n)  # the numbers of values at or above each rank, ascending
    low, high = math.log(failure / len(counts_K)), math.log(failure)  # Bonferroni's level holds, one rank's is reached
    while high - low > 1e-4:
        middle = (low + high) / 2
        holds = _coverage(n, counts_K, _quantiles(n, counts_K, math.exp(middle))) >= 1 - failure
        low, high = (middle, high) if holds else (low, middle)
    return _quantiles(n, counts_K, math.exp(low))[::-1]


def _quantiles(n: int, counts_K: np.ndarray, level: float) -> np.ndarray:
    """Return the (1 - level)-quantiles of the shares that the largest values cut off, for numbers of such values."""
    return 1 - special.betaincinv(n + 1 - counts_K, counts_K, level)


def _coverage(n: int, counts_K: np.ndarray, bounds_K: np.ndarray) -> float:
    """Return the probability that among n uniform values at least counts_K are at or below bounds_K, for all K."""
    least, probabilities, before = 0, np.ones(1), 0.0
    for count, bound in zip([*counts_K, n], [*bounds_K, 1.0], strict=True):
        probabilities = np.convolve(probabilities, _poisson(n * (bound - before)))
        kept = np.flatnonzero(probabilities > NEGLIGIBLE)
        first = max(int(count) - least, int(kept[0]))
        probabilities = probabilities[first : max(int(kept[-1]), n - least) + 1]
        least, before = least + first, bound
    return float(probabilities[n - least] / _poisson(n)[n])


def _poisson(mean: float) -> np.ndarray:
    """Return the probabilities of the counts 0, 1, ... of a Poisson distribution, up to those that are negligible."""
    counts = np.arange(int(mean + 15 * math.sqrt(mean) + 40))
    return np.exp(special.xlogy(counts, mean) - mean - special.gammaln(counts + 1))
