"""Single images that do not belong: conformal p-values, and a list of images with a controlled share of false ones.

The conformal p-value of an image is the share of n held-out images whose score is at least as unusual,

    p = (1 + #{i : s_i >= s}) / (n + 1)

(Bates, Candès, Lei, Romano & Sesia 2023, "Testing for outliers with conformal p-values", equation 2; arXiv 2104.08279).
If the image is exchangeable with the held-out images, P(p <= u) <= u for every u and n. `glow.ood.BatchTest.p_value`
returns it for batches of one image, for one-sided and two-sided scores.

All images of a batch are compared with the same held-out images, so their p-values depend on each other, but in such a
way that the procedure of Benjamini & Hochberg keeps its promise (theorem 2 there): of the images that `flagged` lists,
on average at most the share `fdr` belongs after all. The average is over held-out sets and batches.

The promise does not mean that images are found. The smallest p-value is 1 / (n + 1), and of m images the list can only
contain k if the k smallest p-values are at most k fdr / m. So with few held-out images the list stays empty unless
several images are further out than all held-out ones: `least_listed` of them.
"""

from __future__ import annotations

import math

import numpy as np

ROUNDING = 1e-12
"""Tolerance when an adjusted p-value is compared with the rate, of which neither is exact."""


def flagged(p_values_N: np.ndarray, fdr: float) -> np.ndarray:
    """List the images that do not belong, by the procedure of Benjamini & Hochberg (1995).

    If k is the largest number for which the k smallest p-values are at most k fdr / N, these k images are listed.

    Args:
        p_values_N: float (N,), conformal p-values that come from the same held-out images.
        fdr: the false discovery rate: the largest share of listed images, on average, that belong after all.

    Returns:
        bool (N,).

    Raises:
        ValueError: if `fdr` is not strictly between 0 and 1.

    Examples:
        >>> flagged(np.array([0.001, 0.5, 0.04, 0.002]), fdr=0.1).tolist()
        [True, False, True, True]
        >>> flagged(np.array([0.06, 0.5, 0.06, 0.9]), fdr=0.1).tolist()
        [False, False, False, False]
    """
    from scipy.stats import false_discovery_control  # here, because a training imports this package: it takes 0.5 s

    if not 0 < fdr < 1:
        raise ValueError(f"fdr must be between 0 and 1, both excluded, not {fdr}")
    if len(p_values_N) == 0:
        return np.zeros(0, bool)
    return np.asarray(false_discovery_control(p_values_N, method="bh") <= fdr + ROUNDING)


def least_listed(held_out: int, images: int, fdr: float) -> int:
    """Return how many images must be further out than all held-out images before the list can contain any.

    Args:
        held_out: the number n of held-out images.
        images: the number m of images that are judged together.
        fdr: the false discovery rate of the list.

    Returns:
        The smallest k with 1 / (n + 1) <= k fdr / m.

    Examples:
        >>> least_listed(held_out=9_999, images=1_000, fdr=0.1), least_listed(held_out=199, images=1_000, fdr=0.1)
        (1, 50)
    """
    return max(1, math.ceil(images / (fdr * (held_out + 1)) - 1e-9))
