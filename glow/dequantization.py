"""uint8 images to the real numbers that a flow has a density for, and back."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["dequantize", "quantize", "reduced", "uniform_noise"]

# SplitMix64 (Steele, Lea & Flood 2014): a counter goes in, 64 well-mixed bits come out, on any device, in any order.
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def dequantize(images_BCHW: Tensor, noise_BCHW: Tensor, bits: int = 8) -> Tensor:
    """x = (floor(k / 2**(8 - bits)) + u) / 2**bits - 1/2, a float tensor of the noise's type in [-0.5, 0.5].

    Kingma & Dhariwal (2018, section 6) train on 5 bits a channel. The images are not changed.
    """
    if images_BCHW.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, 0 to 255, not {images_BCHW.dtype}")
    return ((images_BCHW >> (8 - bits)).to(noise_BCHW.dtype) + noise_BCHW) / 2**bits - 0.5


def quantize(x_BCHW: Tensor, bits: int = 8) -> Tensor:
    """The uint8 image whose bin holds x, clipped to the bins that there are; what is not a number becomes 0.

    Of the 2**(8 - bits) values in a bin this is the lowest, so that it undoes `dequantize` up to `reduced`.
    """
    bins = 2**bits
    return ((x_BCHW + 0.5) * bins).floor().nan_to_num(0.0).clamp(0, bins - 1).to(torch.uint8) << (8 - bits)


def reduced(images: Tensor, bits: int) -> Tensor:
    """uint8 images as a model of `bits` bits sees them: with the other, low bits at 0."""
    return images >> (8 - bits) << (8 - bits)


def uniform_noise(indices_B: Tensor, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Noise u in [0, 1) that depends on nothing but (seed, image index, pixel).

    Args:
        indices_B: (B,) int64, each image's index in its data set; the noise is made on this tensor's device.
        shape: (C, H, W) of one image.
        seed: another seed gives independent noise.

    Returns:
        (B, C, H, W) float32: the same for an image in any batch, order, process or device.
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
    """x >> bits with zeros shifted in; int64 shifts in copies of the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned 64-bit word."""
    return word - (1 << 64) if word >= 1 << 63 else word
