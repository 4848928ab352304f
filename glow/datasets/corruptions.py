"""Images as a camera, a codec or a file might spoil them, at five severities (after Hendrycks & Dietterich 2019).

The strengths follow that paper's for images of 32x32 where it has the corruption. An image's noise depends on nothing
but the seed and its position in its data set.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from glow.datasets.lazy import LazyDataset
from glow.dequantization import uniform_noise

__all__ = ["CORRUPTIONS", "SEVERITIES", "all_corrupted", "corrupted"]

SEVERITIES = (1, 2, 3, 4, 5)

Corrupt = Callable[[Tensor, Tensor, float, int], Tensor]
"""uint8 images (N, C, H, W), their positions (N,), a strength and a seed -> uint8 images."""


def corrupted(dataset: LazyDataset, corruption: str, severity: int, seed: int = 0) -> LazyDataset:
    """The data set with every image corrupted when it is asked for.

    Args:
        dataset: the images as they are.
        corruption: one of `CORRUPTIONS`.
        severity: 1, the slightest, to 5.
        seed: of noise and of elastic shifts.

    Raises:
        ValueError: for a corruption or severity that there is not.

    Example:
        >>> black = LazyDataset.held(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
        >>> corrupted(black, "brightness", 5).images().unique().tolist()
        [76]
    """
    if corruption not in CORRUPTIONS:
        raise ValueError(f"there is no corruption {corruption!r}: choose from {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"a severity is from {SEVERITIES[0]} to {SEVERITIES[-1]}, not {severity}")
    corrupt, strengths = CORRUPTIONS[corruption]

    def pick(positions: Tensor) -> Tensor:
        return corrupt(dataset.pick(positions), positions, strengths[severity - 1], seed)

    return replace(dataset, pick=pick, known_fingerprint=None, in_memory=None)


def all_corrupted(
    dataset: LazyDataset, corruptions: Sequence[str], severities: Sequence[int], images: int, seed: int = 0
) -> LazyDataset:
    """The first images of a data set under each corruption at each severity, one kind after the other.

    Their labels count the kinds, whose names are ``noise1``, ``noise2`` and so on.

    Args:
        images: how many of the data set; all if it has fewer.

    Raises:
        ValueError: for a corruption or severity that there is not.
    """
    kinds = [(corruption, severity) for corruption in corruptions for severity in severities]
    each = min(images, len(dataset))
    parts = [corrupted(dataset, *kind, seed) for kind in kinds]

    def pick(positions: Tensor) -> Tensor:
        chosen = torch.empty(len(positions), *dataset.image_shape, dtype=torch.uint8)
        for kind in (positions // each).unique().tolist():
            where = positions // each == kind
            chosen[where] = parts[kind].pick(positions[where] % each)
        return chosen

    labels = torch.arange(len(kinds)).repeat_interleave(each)
    names = tuple(f"{corruption}{severity}" for corruption, severity in kinds)
    return LazyDataset(labels, names, dataset.image_shape, pick, dataset.notes)


def _uint8(images: Tensor) -> Tensor:
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def _normal(positions: Tensor, shape: tuple[int, int, int], seed: int) -> Tensor:
    uniform = uniform_noise(positions, shape, seed).double().clamp(1e-9, 1 - 1e-9)
    return torch.special.ndtri(uniform).float()


def _noise(images: Tensor, positions: Tensor, sd: float, seed: int) -> Tensor:
    _, channels, height, width = images.shape
    return _uint8(images / 255 + sd * _normal(positions, (channels, height, width), seed))


def _blur(images: Tensor, positions: Tensor, sigma: float, seed: int) -> Tensor:
    from torchvision.transforms.v2 import functional as tv

    return tv.gaussian_blur(images, kernel_size=[5, 5], sigma=[sigma, sigma])


def _contrast(images: Tensor, positions: Tensor, factor: float, seed: int) -> Tensor:
    from torchvision.transforms.v2 import functional as tv

    return tv.adjust_contrast(images, factor)


def _brightness(images: Tensor, positions: Tensor, added: float, seed: int) -> Tensor:
    return _uint8(images / 255 + added)


def _pixelate(images: Tensor, positions: Tensor, factor: float, seed: int) -> Tensor:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    size = list(images.shape[2:])
    small = [max(1, round(side * factor)) for side in size]
    coarse = tv.resize(images, small, interpolation=InterpolationMode.BILINEAR, antialias=True)
    return tv.resize(coarse, size, interpolation=InterpolationMode.NEAREST)


def _rotate(images: Tensor, positions: Tensor, degrees: float, seed: int) -> Tensor:
    """By so much to one side or the other."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    left = uniform_noise(positions, (1, 1, 1), seed).flatten() < 0.5
    to_left, to_right = (
        tv.rotate(images, angle, interpolation=InterpolationMode.BILINEAR) for angle in (degrees, -degrees)
    )
    return torch.where(left[:, None, None, None], to_left, to_right)


def _elastic(images: Tensor, positions: Tensor, pixels: float, seed: int) -> Tensor:
    """Shifts every pixel along a smooth random field, whose standard deviation is so many pixels."""
    from torchvision.transforms.v2 import functional as tv

    if len(images) == 0:
        return images
    height, width = images.shape[2:]
    field = tv.gaussian_blur(_normal(positions, (2, height, width), seed), kernel_size=[7, 7], sigma=[2.0, 2.0])
    field = field / field.std((1, 2, 3), keepdim=True).clamp(min=1e-9) * pixels
    shifts = field.permute(0, 2, 3, 1) * torch.tensor([2 / width, 2 / height])
    return torch.stack([tv.elastic(image, shift[None]) for image, shift in zip(images, shifts, strict=True)])


def _jpeg(images: Tensor, positions: Tensor, quality: float, seed: int) -> Tensor:
    from torchvision.transforms.v2 import functional as tv

    return tv.jpeg(images, int(quality)) if len(images) else images


CORRUPTIONS: dict[str, tuple[Corrupt, tuple[float, ...]]] = {
    "noise": (_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "blur": (_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "rotate": (_rotate, (5, 10, 15, 20, 30)),
    "elastic": (_elastic, (0.3, 0.5, 0.7, 1.0, 1.4)),
    "jpeg": (_jpeg, (80, 65, 58, 50, 40)),
}
"""Corruption -> (function, the strengths of severities 1 to 5): the standard deviation of the noise and what is added
to the brightness (of 0 to 1), the width of the blur and of the elastic shifts (pixels), what is left of the contrast
and of the resolution, degrees, and the quality of a JPEG."""
