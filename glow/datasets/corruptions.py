"""Images with noise, blur and other damage, at five severities: out-of-distribution data that resemble the original.

The corruptions follow Hendrycks & Dietterich, "Benchmarking neural network robustness to common corruptions and
perturbations" (2019). The strengths are those of the paper for images of 32x32 pixels, with two exceptions, for which
this module chooses the strengths: rotation, which is not in the paper, and elastic shifts, which are simpler than those
of the paper. The noise of an image depends only on the seed and on the position of the image in its data set, so that
it is the same in every batch.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from glow.datasets.lazy import LazyDataset
from glow.dequantization import uniform_noise

SEVERITIES = (1, 2, 3, 4, 5)
"""The severities, from the slightest to the strongest."""

RECOMMENDED_BY = 300
"""Number of held-out images per corruption, at severity `MIDDLE`, by which a detector is recommended."""

CORRUPTED = "corrupted"
"""What the images of `for_recommendation` are called, beside the splits and after the name of a data set."""

MIDDLE = 3
"""The severity in the middle of 1 to 5."""

Corrupt = Callable[[Tensor, Tensor, float, int], Tensor]
"""A function: uint8 images (N, C, H, W), their positions (N,), a strength and a seed -> uint8 images (N, C, H, W)."""


def corrupted(dataset: LazyDataset, corruption: str, severity: int, seed: int = 0) -> LazyDataset:
    """Return the data set with a corruption, which is applied to images when they are read.

    Args:
        dataset: the images without corruption.
        corruption: a key of `CORRUPTIONS`.
        severity: from 1, the slightest, to 5, the strongest.
        seed: the seed of the random noise, of the elastic shifts, and of the directions of rotation.

    Returns:
        A data set with the same number of images and the same labels.

    Raises:
        ValueError: for an unknown corruption or severity.

    Examples:
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
    """Return some random images of a data set under each corruption at each severity.

    The images are drawn at random because many data sets are ordered by class.

    Args:
        dataset: the images without corruption.
        corruptions: keys of `CORRUPTIONS`.
        severities: numbers from 1, the slightest, to 5, the strongest.
        images: number of images per corruption and severity; all images if the data set has fewer.
        seed: the seed of the choice of images, of the random noise, of the elastic shifts, and of the directions of
            rotation.

    Returns:
        A data set with one class for each corruption at each severity. Their names are like "noise1" and "noise2".
        The images are ordered by class, and every class contains the same images.

    Raises:
        ValueError: for an unknown corruption or severity.

    Examples:
        >>> black = LazyDataset.held(torch.zeros(9, 1, 8, 8, dtype=torch.uint8), torch.zeros(9, dtype=torch.int64))
        >>> kinds = all_corrupted(black, ["brightness", "noise"], (1, 5), images=2)
        >>> kinds.class_names
        ('brightness1', 'brightness5', 'noise1', 'noise5')
        >>> kinds.labels.tolist()
        [0, 0, 1, 1, 2, 2, 3, 3]
    """
    kinds = [(corruption, severity) for corruption in corruptions for severity in severities]
    each = min(images, len(dataset))
    parts = [corrupted(dataset, *kind, seed) for kind in kinds]
    drawn = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:each].sort().values

    def pick(positions: Tensor) -> Tensor:
        chosen = torch.empty(len(positions), *dataset.image_shape, dtype=torch.uint8)
        for kind in (positions // each).unique().tolist():
            where = positions // each == kind
            chosen[where] = parts[kind].pick(drawn[positions[where] % each])
        return chosen

    labels = torch.arange(len(kinds)).repeat_interleave(each)
    names = tuple(f"{corruption}{severity}" for corruption, severity in kinds)
    return LazyDataset(labels, names, dataset.image_shape, pick, dataset.notes)


def for_recommendation(held_out: LazyDataset, seed: int = 0) -> LazyDataset:
    """Return the corrupted images by which `glow.ood.recommend` chooses a detector.

    Args:
        held_out: images that the model was not trained on.
        seed: the seed of `all_corrupted`.

    Returns:
        `RECOMMENDED_BY` images under each of `CORRUPTIONS` at the severity `MIDDLE`; fewer if fewer are held out.

    Examples:
        >>> black = LazyDataset.held(torch.zeros(9, 1, 8, 8, dtype=torch.uint8), torch.zeros(9, dtype=torch.int64))
        >>> len(for_recommendation(black)) == 9 * len(CORRUPTIONS)
        True
    """
    return all_corrupted(held_out, tuple(CORRUPTIONS), (MIDDLE,), RECOMMENDED_BY, seed)


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
    """Rotate each image by the same angle, to a random side."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    left = uniform_noise(positions, (1, 1, 1), seed).flatten() < 0.5
    to_left, to_right = (
        tv.rotate(images, angle, interpolation=InterpolationMode.BILINEAR) for angle in (degrees, -degrees)
    )
    return torch.where(left[:, None, None, None], to_left, to_right)


def _elastic(images: Tensor, positions: Tensor, pixels: float, seed: int) -> Tensor:
    """Shift every pixel along a smooth random field with a standard deviation of `pixels`."""
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
"""The function of each corruption, and its strengths at severities 1 to 5.

| corruption | meaning of the strength |
| --- | --- |
| noise | standard deviation of Gaussian noise, where white is 1 |
| blur | standard deviation of a Gaussian kernel of 5x5, in pixels |
| contrast | factor of the contrast |
| brightness | increase of every value, where white is 1 |
| pixelate | factor of the resolution |
| rotate | angle in degrees, to a random side |
| elastic | standard deviation of smooth random shifts, in pixels |
| jpeg | quality of the JPEG encoder, up to 100 |
"""
