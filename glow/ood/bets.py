"""Bets on ranks: e-values that grow if scores are higher, or lower, than those of a reference.

The scores are divided into C cells, ascending, by some values of the reference. A bet pays g_c for a score in cell c.
It is fair if its mean payment is at most 1 while nothing has changed, whatever the distribution F of the scores; then
the product of its payments is a nonnegative supermartingale, which seldom becomes large (Ville 1939).

If F is known, g = q / w is fair, where w_c is the share of cell c, and q_c its share under an alternative. No fair bet
grows faster under this alternative (Kelly 1956). If F is only known to be in a band, let w be the distribution in the
band with the most mass in high cells. A bet that does not decrease from cell to cell pays no more under any other
distribution in the band, so it is fair if sum_c w_c g_c <= 1. The fastest-growing such bet is the isotonic regression
of q / w with weights w: it maximises sum_c q_c log g_c under these constraints (Barlow & Brunk 1972).

An alternative says that a share of the images comes with scores that are shifted by some standard deviations, on the
scale on which the scores are normal.

Shapes: C cells, J bets.
"""

from __future__ import annotations

import numpy as np
from scipy import special

ALTERNATIVES = ((1.0, 0.25), (1.0, 0.5), (1.0, 1.0), (1.0, 2.0), (0.3, 3.0), (0.1, 3.0), (0.03, 3.0))
"""Each alternative: the share of images whose scores change, and by how many standard deviations."""

LEAST = 1e-300
"""Replaces the mass of a cell that is rounded to zero."""


def log_bets(above_C: np.ndarray, at_most_C: np.ndarray) -> np.ndarray:
    """Return the logarithms of all bets, of those on higher scores first.

    Args:
        above_C: float (C - 1,), descending, for the upper end of each cell but the last, the share of scores above it
            in the reference. It must be symmetric: the share below each lower end, from the last cell to the first, is
            the same array.
        at_most_C: float (C - 1,), descending, an upper bound on the same shares of the true distribution; `above_C` if
            it is known.

    Returns:
        float (J, C), where J is twice the number of `ALTERNATIVES`.

    Examples:
        >>> quarters = np.array([0.75, 0.5, 0.25])
        >>> bets = log_bets(quarters, quarters)
        >>> bets.shape, np.exp(bets).mean(1).round(6).tolist() == [1.0] * 14
        ((14, 4), True)
        >>> np.exp(bets[2]).round(2).tolist(), np.exp(bets[9]).round(2).tolist()
        ([0.19, 0.45, 0.85, 2.51], [2.51, 0.85, 0.45, 0.19])
    """
    from scipy.optimize import isotonic_regression  # here, because a training imports this package: it takes 0.2 s

    tails, bounds = (np.concatenate([[1.0], each, [0.0]]) for each in (above_C, at_most_C))
    mass_C = np.maximum(-np.diff(bounds), LEAST)
    high = []
    for share, shift in ALTERNATIVES:
        changed = (1 - share) * tails + share * special.ndtr(special.ndtri(tails) + shift)
        expected_C = np.maximum(-np.diff(changed), LEAST)
        high.append(np.log(isotonic_regression(expected_C / mass_C, weights=mass_C).x))
    return np.concatenate([high, np.array(high)[:, ::-1]])
