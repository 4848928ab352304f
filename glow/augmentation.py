"""What training does to images and nothing else does."""

from __future__ import annotations

import torch
from torch import Tensor

from glow.dequantization import uniform_noise

__all__ = ["flip_half", "mutate"]


def flip_half(images_BCHW: Tensor, indices_B: Tensor, seed: int) -> Tensor:
    """The images, each mirrored left to right with probability 1/2.

    Args:
        indices_B: (B,) int64, each image's index in its data set, on the images' device. It and `seed` alone decide
            whether the image is mirrored: it is where the first number of its `uniform_noise` is below 1/2.
        seed: another seed gives independent choices; one that noise is made of as well does not.
    """
    return torch.where(uniform_noise(indices_B, (1, 1, 1), seed) < 0.5, images_BCHW.flip(3), images_BCHW)


def mutate(images_BCHW: Tensor, indices_B: Tensor, rate: float, seed: int) -> Tensor:
    """The images with some numbers replaced by any of the 256 values, each as likely.

    A model of such images learns what images have in common whatever they show: a background model (Ren et al. 2019,
    section 4.1).

    Args:
        images_BCHW: uint8.
        indices_B: (B,) int64, each image's index in its data set. It and `seed` alone decide what is replaced: the
            numbers whose `uniform_noise` u is below the rate, by floor(256 u / rate).
        rate: the share of the numbers that is replaced, from 0 to below 1.
        seed: as of `flip_half`.

    Example:
        >>> grey = torch.full((1, 1, 64, 64), 128, dtype=torch.uint8)
        >>> round((mutate(grey, torch.zeros(1, dtype=torch.int64), 0.25, 0) != 128).double().mean().item(), 2)
        0.25
    """
    if rate == 0:
        return images_BCHW
    _, channels, height, width = images_BCHW.shape
    noise_BCHW = uniform_noise(indices_B, (channels, height, width), seed)
    return torch.where(noise_BCHW < rate, (noise_BCHW / rate * 256).floor().clamp(max=255).to(torch.uint8), images_BCHW)
