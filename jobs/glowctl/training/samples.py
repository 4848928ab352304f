"""Samples that show the progress of a training, with the error of the model's inverse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from glow.datasets import LazyDataset
from glow.dequantization import dequantize, not_finite, quantize, uniform_noise
from glow.model import Glow

if TYPE_CHECKING:
    import numpy as np

GRID = 100
"""Number of images in a sample grid, which the report shows as 10 x 10."""

INVERTED_IMAGES = 32
"""Number of real images by which the error of the inverse is measured."""


@dataclass(frozen=True)
class SampleGrid:
    """Samples that the model draws after an epoch, and how exact its inverse is.

    Attributes:
        epoch: the epoch after which they were drawn.
        images: uint8 (N, C, H, W), the samples.
        inverse_error: largest error of the inverse over all pixels of some real images. The unit is one of the model's
            2**bits grey levels.
        non_finite: number of samples with a pixel that is not finite.
    """

    epoch: int
    images: np.ndarray
    inverse_error: float
    non_finite: int = 0


def draw_samples(model: Glow, epoch: int, temperature: float, images: LazyDataset) -> SampleGrid:
    """Draw samples after an epoch, always from the same noise, so that the grids of a training can be compared.

    A class-conditional model draws about equally many images of each class that it has been trained on.

    Args:
        model: the model.
        epoch: number of finished epochs, which becomes the `epoch` of the result.
        temperature: the temperature of the latents.
        images: real images; the error of the inverse is measured on the first `INVERTED_IMAGES` of them.
    """
    classes = model.trained_classes
    labels = classes[torch.arange(GRID) * len(classes) // GRID] if len(classes) else None
    x_NCHW = model.sample_real(GRID, temperature, torch.Generator().manual_seed(0), labels)
    return SampleGrid(
        epoch,
        quantize(x_NCHW, model.config.bits).cpu().numpy(),
        inverse_error(model, images.images(0, INVERTED_IMAGES)),
        int(not_finite(x_NCHW).sum()),
    )


@torch.no_grad()
def inverse_error(model: Glow, images: torch.Tensor) -> float:
    """Return the largest error of inverse(forward(x)) over all pixels, in units of the model's 2**bits grey levels.

    Args:
        model: the model.
        images: uint8 (N, C, H, W).
    """
    noise = uniform_noise(torch.arange(len(images)), model.config.image_shape).to(model.device)
    x_BCHW = dequantize(images.to(model.device), noise, model.config.bits)
    return (model.inverse(model(x_BCHW)[0]) - x_BCHW).abs().max().item() * model.config.bins
