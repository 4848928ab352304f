"""Seeds of the independent random streams that training draws from.

Each (seed, epoch) has a stream for noise and order, one for flips and one for mutations. No two of them are equal, and
none equals stream 0, which evaluation uses. So no state of a random generator has to be saved with a checkpoint.
"""

from __future__ import annotations

__all__ = ["flip_stream", "mutation_stream", "noise_stream"]

EPOCHS = 2**20
"""The seed's streams are this far apart: a training has fewer epochs."""

MUTATIONS = 2**60
"""Mutation streams lie this far below flip streams, of which there are fewer."""


def noise_stream(seed: int, epoch: int) -> int:
    """Return the positive stream of the dequantization noise and of the order of the images.

    Example:
        >>> noise_stream(0, epoch=0), noise_stream(1, epoch=2)
        (1, 1048579)
    """
    return 1 + seed * EPOCHS + epoch


def flip_stream(seed: int, epoch: int) -> int:
    """Return the stream of the horizontal flips. It is negative, as no noise stream is."""
    return -noise_stream(seed, epoch)


def mutation_stream(seed: int, epoch: int) -> int:
    """Return the stream of the mutations. It is negative, and differs from every flip stream."""
    return flip_stream(seed, epoch) - MUTATIONS
