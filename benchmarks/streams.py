"""Streams of real scores that change, for the scripts that measure how soon that is noticed. It needs only NumPy."""

from __future__ import annotations

import numpy as np

ALPHA, LONGEST = 0.99, 4000
HEALTHY = (100, 5000)
CHANGES = [("letters", share) for share in (1.0, 0.3, 0.1, 0.03)] + [("blur", 1.0), ("noise", 1.0)]


def stream(scores: dict[str, np.ndarray], change: tuple[str, float], healthy: int, seed: int) -> np.ndarray:
    """Return scores of healthy images, and then of changed ones among healthy ones."""
    rng, (kind, share) = np.random.default_rng([seed, healthy]), change
    images = rng.permutation(scores["test"])[: healthy + LONGEST]
    strange = healthy + np.flatnonzero(rng.random(len(images) - healthy) < share)
    images[strange] = rng.permutation(scores[kind])[: len(strange)]
    return images
