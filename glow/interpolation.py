"""Interpolation between images through their latents in all levels.

Shapes: P pairs of images, S images per pair, C channels, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from glow.dequantization import dequantize, not_finite, quantize, uniform_noise
from glow.model import Glow

Mode = Literal["linear", "slerp"]
"""The path between two latents: a straight line, or an arc (spherical linear interpolation)."""

MARGIN = 0.125
"""Distance of the noise from the ends of its bin, in grey levels: a smaller error of the inverse changes no pixel."""


@dataclass(frozen=True)
class Interpolation:
    """The images on the paths between P pairs of images.

    Attributes:
        images: uint8 (P, S, C, H, W); the first and the last image of each path are its ends.
        end_error: float (P,). For each pair, this is the largest difference of a pixel value between the two real
            images and their decoded ends, before rounding. The unit is one of the 2**bits grey levels of the model. If
            it is below 0.5, the ends equal the real images, reduced to the model's bits. It is infinite if a pixel
            value of an end is not finite.
        non_finite: number of images that have a pixel value which is not finite. In `images`, plus infinity is the
            highest of the model's grey levels; minus infinity and NaN are 0.

    Examples:
        >>> from glow import GlowConfig
        >>> model = Glow(GlowConfig(image_shape=(1, 4, 4), levels=1, depth=1, width=4))
        >>> images = torch.arange(64, dtype=torch.uint8).view(4, 1, 4, 4)
        >>> result = interpolate(model, images[:2], images[2:], steps=5)
        >>> bool((result.end_error < 0.5).all()), result.non_finite
        (True, 0)
    """

    images: Tensor
    end_error: Tensor
    non_finite: int


@torch.no_grad()
def interpolate(
    model: Glow, start_PCHW: Tensor, end_PCHW: Tensor, steps: int = 10, mode: Mode = "linear"
) -> Interpolation:
    r"""Decode evenly spaced points between the latents of each pair of images, in all levels at once.

    At each point :math:`t = 0, \dots, 1` between :math:`z_0` and :math:`z_1`, the latent of each level is

    - ``linear``: :math:`(1 - t) z_0 + t z_1`;
    - ``slerp``: :math:`(\sin((1 - t) \theta) z_0 + \sin(t \theta) z_1) / \sin \theta` with the angle :math:`\theta`
      between :math:`z_0` and :math:`z_1` (Shoemake 1985, "Animating rotation with quaternion curves"). The points keep
      the distance from the origin that Gaussian latents have. Latents of equal or opposite direction are interpolated
      linearly.

    An image is encoded with noise, as in training, and both images of a pair with the same. At the middle of their
    bins, images would have latents that no training image has, and what lies between them would be full of specks.
    The noise is kept `MARGIN` from the ends of its bin, so the ends equal the real images, reduced to the model's bits,
    wherever the error of the inverse is less than that.

    Args:
        model: the flow, on any device.
        start_PCHW: uint8 (P, C, H, W), the images at t = 0.
        end_PCHW: uint8 (P, C, H, W), the images at t = 1.
        steps: S, the number of images per pair, both ends included; at least 2.
        mode: "linear" or "slerp", the path between two latents.

    Returns:
        The images and the errors of their ends, on the CPU.

    Raises:
        ValueError: for fewer than two steps, an unknown mode, unequal numbers of images, or images of another type or
            shape than the model's.

    Examples:
        >>> from glow import GlowConfig
        >>> model = Glow(GlowConfig(image_shape=(1, 4, 4), levels=1, depth=1, width=4))
        >>> black, grey = torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.full((1, 1, 4, 4), 100, dtype=torch.uint8)
        >>> interpolate(model, black, grey, steps=5).images[0, :, 0, 0, 0]
        tensor([  0,  25,  50,  75, 100], dtype=torch.uint8)
    """
    if steps < 2:
        raise ValueError(f"steps includes both ends, so it must be at least 2, not {steps}")
    if mode not in ("linear", "slerp"):
        raise ValueError(f"mode must be linear or slerp, not {mode!r}")
    for images in (start_PCHW, end_PCHW):
        model.check_shape(images)
    if len(start_PCHW) != len(end_PCHW):
        raise ValueError(
            f"there are {len(start_PCHW)} first images but {len(end_PCHW)} last ones: pass one of each per pair"
        )
    real_2PCHW = torch.stack([start_PCHW, end_PCHW]).to(model.device)
    x_2PCHW = torch.stack([_with_noise(model, images) for images in real_2PCHW])
    latents_0, latents_1 = (model(x_PCHW)[0] for x_PCHW in x_2PCHW)
    rows = []
    for t in torch.linspace(0, 1, steps, dtype=torch.float64).tolist():
        rows.append(model.inverse([_between(z_0, z_1, t, mode) for z_0, z_1 in zip(latents_0, latents_1, strict=True)]))
    x_PSCHW = torch.stack(rows, 1)
    error_P = (x_PSCHW[:, [0, -1]] - x_2PCHW.transpose(0, 1)).abs().flatten(1).amax(1) * model.config.bins
    return Interpolation(
        quantize(x_PSCHW.flatten(0, 1), model.config.bits).view(x_PSCHW.shape).cpu(),
        error_P.nan_to_num(torch.inf, torch.inf).cpu(),
        int(not_finite(x_PSCHW.flatten(0, 1)).sum()),
    )


def _with_noise(model: Glow, images_PCHW: Tensor) -> Tensor:
    """Make images real-valued by the model's own noise, from the same uniform noise for each image."""
    uniform_1CHW = uniform_noise(torch.zeros(1, dtype=torch.int64, device=model.device), model.config.image_shape)
    x_PCHW, _ = model.dequantize(images_PCHW, uniform_1CHW.expand(images_PCHW.shape))
    least_PCHW = dequantize(images_PCHW, torch.zeros_like(x_PCHW), model.config.bits)
    noise_PCHW = ((x_PCHW - least_PCHW) * model.config.bins).clamp(MARGIN, 1 - MARGIN)
    return dequantize(images_PCHW, noise_PCHW, model.config.bits)


def _between(z_0: Tensor, z_1: Tensor, t: float, mode: Mode) -> Tensor:
    if t in (0.0, 1.0):
        return z_1 if t else z_0
    if mode == "linear":
        return (1 - t) * z_0 + t * z_1
    flat_0, flat_1 = z_0.flatten(1), z_1.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(flat_0, flat_1, dim=1).clamp(-1, 1)
    angle = cosine.acos().view(-1, 1, 1, 1)
    sine = angle.sin()
    # Latents of equal or opposite direction, and those of norm 0, determine no arc.
    arc = ((1 - t) * angle).sin() / sine * z_0 + (t * angle).sin() / sine * z_1
    return torch.where(sine.abs() > 1e-4, arc, (1 - t) * z_0 + t * z_1)
