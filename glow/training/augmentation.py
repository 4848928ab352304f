"""The random numbers of training: their seeds, and the mirroring and mutation of images.

A stream is an integer that seeds a random generator. Each (seed, epoch) has three: one for the dequantization noise and
the order of the images, one for the random flips of images, and one for their mutations. No two streams are equal, and
none equals stream 0, which evaluation uses by default. A stream follows from its (seed, epoch), so a checkpoint need
not hold the state of a random generator. In all functions of streams `seed` is `FitConfig.seed`, from 0 to below 2**40,
and `epoch` counts from 0 and is below 2**20.

Validation and scoring use the images as they are.

The seed and the index of an image alone determine whether the image is mirrored and which of its values are replaced.
So the changes do not depend on batches, processes or interruptions.

Shapes: B images, C channels, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glow.dequantization import uniform_noise

EPOCHS = 2**20
"""Distance between the streams of two seeds. A training must have fewer epochs."""

MUTATIONS = 2**60
"""Distance from a flip stream down to the mutation stream of the same epoch. There are fewer flip streams than this."""


def noise_stream(seed: int, epoch: int) -> int:
    """Return the stream of the dequantization noise and of the order of the images.

    It is 1 + seed * 2**20 + epoch, which is always positive.

    Examples:
        >>> noise_stream(0, epoch=0), noise_stream(1, epoch=2)
        (1, 1048579)
    """
    return 1 + seed * EPOCHS + epoch


def flip_stream(seed: int, epoch: int) -> int:
    """Return the stream of the horizontal flips (`flip_half`), the negative of the noise stream.

    Examples:
        >>> flip_stream(1, epoch=2)
        -1048579
    """
    return -noise_stream(seed, epoch)


def mutation_stream(seed: int, epoch: int) -> int:
    """Return the stream of the mutations (`mutate`), which lies 2**60 below the flip stream.

    Examples:
        >>> flip_stream(1, epoch=2) - mutation_stream(1, epoch=2) == 2**60
        True
    """
    return flip_stream(seed, epoch) - MUTATIONS


def flip_half(images_BCHW: Tensor, indices_B: Tensor, seed: int) -> Tensor:
    """Mirror each image left to right with probability 1/2.

    `glow.dequantization.uniform_noise` gives one number per image; the image is mirrored if the number is below 1/2.

    Args:
        images_BCHW: (B, C, H, W) of any type.
        indices_B: int64 (B,), each image's index in its data set, on the images' device.
        seed: the seed of the random numbers; training uses `flip_stream`. Two seeds give
            independent choices. Do not use the seed of the dequantization noise: the choices would depend on the noise.

    Returns:
        (B, C, H, W) of the same type, a new tensor.

    Examples:
        >>> images = torch.tensor([[1, 2]], dtype=torch.uint8).expand(8, 1, 1, 2)
        >>> flip_half(images, torch.arange(8), seed=-1)[:, 0, 0].tolist()
        [[1, 2], [2, 1], [1, 2], [2, 1], [1, 2], [1, 2], [1, 2], [2, 1]]
    """
    return torch.where(uniform_noise(indices_B, (1, 1, 1), seed) < 0.5, images_BCHW.flip(3), images_BCHW)


def mutate(images_BCHW: Tensor, indices_B: Tensor, rate: float, seed: int) -> Tensor:
    """Replace a random share of the images' values by uniform random values from 0 to 255.

    A model that is trained on mutated images is a background model: it learns the statistics that all images share, not
    what these images show (Ren et al. 2019, "Likelihood Ratios for Out-of-Distribution Detection", section 4.1).

    Each value has a random number u from `glow.dequantization.uniform_noise`. If u is below the rate, the value is
    replaced by floor(256 u / rate).

    Args:
        images_BCHW: uint8 (B, C, H, W).
        indices_B: int64 (B,), each image's index in its data set, on the images' device.
        rate: the expected share of the values that are replaced, from 0 to below 1.
        seed: the seed of the random numbers; training uses `mutation_stream`. Two seeds give
            independent mutations.

    Returns:
        uint8 (B, C, H, W): a new tensor, or `images_BCHW` itself if the rate is 0.

    Examples:
        >>> grey = torch.full((1, 1, 64, 64), 128, dtype=torch.uint8)
        >>> mutated = mutate(grey, torch.tensor([0]), rate=0.25, seed=0)
        >>> round((mutated != grey).double().mean().item(), 2)
        0.25
    """
    if rate == 0:
        return images_BCHW
    _, channels, height, width = images_BCHW.shape
    noise_BCHW = uniform_noise(indices_B, (channels, height, width), seed)
    return torch.where(noise_BCHW < rate, (noise_BCHW / rate * 256).floor().clamp(max=255).to(torch.uint8), images_BCHW)
