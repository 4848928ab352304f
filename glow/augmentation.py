"""What training does to images and nothing else does."""

from __future__ import annotations

import torch
from torch import Tensor

from glow.dequantization import uniform_noise

__all__ = ["flip_half"]


def flip_half(images_BCHW: Tensor, indices_B: Tensor, seed: int) -> Tensor:
    """The images, each mirrored left to right with probability 1/2.

    Args:
        indices_B: (B,) int64, each image's index in its data set, on the images' device. It and `seed` alone decide
            whether the image is mirrored: it is where the first number of its `uniform_noise` is below 1/2.
        seed: another seed gives independent choices; one that noise is made of as well does not.
    """
    return torch.where(uniform_noise(indices_B, (1, 1, 1), seed) < 0.5, images_BCHW.flip(3), images_BCHW)
