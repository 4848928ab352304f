"""Conversion of uint8 images to the real numbers for which a flow has a density, and back.

A model of `bits` bits distinguishes 2**bits bins of pixel values. The value k, from 0 to 255, is in the bin with number
floor(k / 2**(8 - bits)).

Shapes: B images, C channels, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The constants of SplitMix64 (Steele, Lea & Flood 2014). It turns a counter into 64 well-mixed bits, so that devices
# and processes can make the noise of any pixel in any order.
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def dequantize(images_BCHW: Tensor, noise_BCHW: Tensor, bits: int = 8) -> Tensor:
    """Add noise to the bins of uint8 images, and scale them to [-0.5, 0.5].

    x = (floor(k / 2**(8 - bits)) + u) / 2**bits - 1/2, after Theis et al. (2016, "A note on the evaluation of
    generative models", section 3.1). Kingma & Dhariwal (2018) use 5 bits for CelebA-HQ.

    Args:
        images_BCHW: uint8 (B, C, H, W), the values k.
        noise_BCHW: float (B, C, H, W), the noise u in [0, 1).
        bits: number of bits, from 1 to 8; the model distinguishes 2**bits bins of pixel values.

    Returns:
        (B, C, H, W) of the noise's type.

    Raises:
        ValueError: if the images are not uint8.

    Examples:
        >>> images = torch.tensor([0, 64, 255], dtype=torch.uint8)
        >>> dequantize(images, torch.full((3,), 0.5), bits=1)
        tensor([-0.2500, -0.2500,  0.2500])
    """
    if images_BCHW.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, from 0 to 255, not {images_BCHW.dtype}")
    bins_BCHW = (images_BCHW.to(noise_BCHW.dtype) / 2 ** (8 - bits)).floor()  # no shift: ONNX has none for uint8
    return (bins_BCHW + noise_BCHW) / 2**bits - 0.5


def quantize(x_BCHW: Tensor, bits: int = 8) -> Tensor:
    """Convert real numbers to uint8 images: each number becomes the lowest pixel value of its bin.

    This value is k = 2**(8 - bits) * floor((x + 1/2) * 2**bits). So `quantize` undoes `dequantize`, except that the low
    8 - bits bits of each pixel value become 0, as in the result of `reduced`, and that noise near 1 can be rounded to
    the next bin: in float32, about 4 in a million values are.

    Args:
        x_BCHW: float (B, C, H, W). Numbers below -0.5 and NaN are assigned to the first bin, and numbers from 0.5 on to
            the last bin.
        bits: number of bits, from 1 to 8; the model distinguishes 2**bits bins of pixel values.

    Returns:
        uint8 (B, C, H, W).

    Examples:
        >>> quantize(torch.tensor([-0.25, 0.25, 7.0, torch.nan]), bits=1)
        tensor([  0, 128, 128,   0], dtype=torch.uint8)
    """
    bins = 2**bits
    return ((x_BCHW + 0.5) * bins).floor().nan_to_num(0.0).clamp(0, bins - 1).to(torch.uint8) << (8 - bits)


def not_finite(x_BCHW: Tensor) -> Tensor:
    """Return which images have a value that is infinite or NaN, and that `quantize` replaces.

    Args:
        x_BCHW: float (B, C, H, W).

    Returns:
        bool (B,).

    Examples:
        >>> not_finite(torch.tensor([0.25, torch.nan, -torch.inf]).view(3, 1, 1, 1))
        tensor([False,  True,  True])
    """
    return ~x_BCHW.isfinite().flatten(1).all(1)


def reduced(images: Tensor, bits: int) -> Tensor:
    """Set the low 8 - bits bits of uint8 images to 0, as a model of `bits` bits sees them.

    Examples:
        >>> reduced(torch.tensor([7, 8, 255], dtype=torch.uint8), bits=5)
        tensor([  0,   8, 248], dtype=torch.uint8)
    """
    return images >> (8 - bits) << (8 - bits)


def uniform_noise(indices_B: Tensor, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Make uniform noise u in [0, 1) that depends only on the seed, the index of the image and the pixel.

    So an image has the same noise, and the same likelihood up to rounding, in every batch and order, and on every
    process and device. Let mix be SplitMix64 in 64-bit arithmetic, and g its increment. The noise of pixel p of image i
    is u = (mix(mix(mix(seed) + i) + p * g) >> 40) / 2**24.

    Args:
        indices_B: int64 (B,), each image's index in its data set; the noise is made on this tensor's device.
        shape: (C, H, W) of one image.
        seed: different seeds give independent noise.

    Returns:
        float32 (B, C, H, W), multiples of 2**-24.

    Examples:
        >>> uniform_noise(torch.tensor([0, 1]), (1, 1, 2))
        tensor([[[[0.1387, 0.9711]]],
        <BLANKLINE>
                [[[0.5804, 0.1644]]]])
        >>> uniform_noise(torch.tensor([1]), (1, 1, 2))
        tensor([[[[0.5804, 0.1644]]]])
    """
    channels, height, width = shape
    pixels = torch.arange(channels * height * width, device=indices_B.device)
    stream_B = _mix(_mix(torch.full_like(indices_B, seed)) + indices_B)
    bits = _mix(stream_B[:, None] + pixels * _signed(_GOLDEN))
    return ((bits >> 40) & 0xFFFFFF).float().div_(2**24).view(-1, channels, height, width)


def _mix(counter: Tensor) -> Tensor:
    z = counter + _signed(_GOLDEN)
    z = (z ^ _logical_shift(z, 30)) * _signed(_MIX_1)
    z = (z ^ _logical_shift(z, 27)) * _signed(_MIX_2)
    return z ^ _logical_shift(z, 31)


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    """Shift zeros in from the left; the shift of int64 tensors copies the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    """Return the int64 that has the bits of an unsigned 64-bit word."""
    return word - (1 << 64) if word >= 1 << 63 else word
