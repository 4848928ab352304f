"""Seeds of the independent random streams that training draws from.

A stream is an integer that seeds a random generator. Each (seed, epoch) has three: one for the dequantization noise and
the order of the images, one for the random flips of images, and one for their mutations (`glow.training.augmentation`).
No two streams are equal, and none equals stream 0, which evaluation uses by default. A stream follows from its (seed,
epoch), so a checkpoint need not hold the state of a random generator.

In all functions `seed` is `FitConfig.seed`, from 0 to below 2**40, and `epoch` counts from 0 and is below 2**20.
"""

from __future__ import annotations

__all__ = ["flip_stream", "mutation_stream", "noise_stream"]

EPOCHS = 2**20
"""Distance between the streams of two seeds. A training must have fewer epochs."""

MUTATIONS = 2**60
"""Distance from a flip stream down to the mutation stream of the same epoch. There are fewer flip streams than this."""


def noise_stream(seed: int, epoch: int) -> int:
    """Return the stream of the dequantization noise and of the order of the images.

    It is 1 + seed * 2**20 + epoch, which is always positive.

    Example:
        >>> noise_stream(0, epoch=0), noise_stream(1, epoch=2)
        (1, 1048579)
    """
    return 1 + seed * EPOCHS + epoch


def flip_stream(seed: int, epoch: int) -> int:
    """Return the stream of the horizontal flips (`flip_half`), the negative of the noise stream.

    Example:
        >>> flip_stream(1, epoch=2)
        -1048579
    """
    return -noise_stream(seed, epoch)


def mutation_stream(seed: int, epoch: int) -> int:
    """Return the stream of the mutations (`glow.training.augmentation.mutate`), which lies 2**60 below the flip stream.

    Example:
        >>> flip_stream(1, epoch=2) - mutation_stream(1, epoch=2) == 2**60
        True
    """
    return flip_stream(seed, epoch) - MUTATIONS
