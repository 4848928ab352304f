"""Between two images, through the latents of every level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from glow.dequantization import dequantize, quantize
from glow.model import Glow

__all__ = ["Interpolation", "Mode", "interpolate"]

Mode = Literal["linear", "slerp"]


@dataclass(frozen=True)
class Interpolation:
    """P pairs of images and S images between each.

    Args:
        images: uint8 (P, S, C, H, W).
        end_error: (P,) the largest difference between the ends and the real images, before rounding, in grey levels of
            the model's 2**bits; infinite if an end is not finite. Below 0.5 the ends are the real images, reduced to
            the model's bits.
        non_finite: how many of the images have a pixel that is not finite (drawn black, or white if it is infinity).
    """

    images: Tensor
    end_error: Tensor
    non_finite: int


@torch.no_grad()
def interpolate(
    model: Glow, start_PCHW: Tensor, end_PCHW: Tensor, steps: int = 10, mode: Mode = "linear"
) -> Interpolation:
    r"""Decodes points between the latents of two images, in all levels at once, ends included.

    ``linear``: :math:`(1 - t) z_0 + t z_1`. ``slerp``, in each level: :math:`(\sin((1 - t) \theta) z_0 +
    \sin(t \theta) z_1) / \sin \theta` with :math:`\theta` the angle between the two (Shoemake 1985), which keeps to the
    distance from the origin at which Gaussian latents lie.

    An image enters as the middle of its bins, u = 1/2, so that its end survives an inverse that is exact to half a grey
    level.

    Args:
        start_PCHW, end_PCHW: uint8.
        steps: images a row, both ends counted.

    Raises:
        ValueError: for fewer than two steps, an unknown mode, or images that are not the model's.
    """
    if steps < 2:
        raise ValueError(f"steps counts both ends, so it is at least 2, not {steps}")
    if mode not in ("linear", "slerp"):
        raise ValueError(f"mode must be linear or slerp, not {mode!r}")
    for images in (start_PCHW, end_PCHW):
        if tuple(images.shape[1:]) != model.config.image_shape:
            raise ValueError(f"this Glow takes images of {model.config.image_shape}, not {tuple(images.shape[1:])}")
    if len(start_PCHW) != len(end_PCHW):
        raise ValueError(f"each start needs an end: there are {len(start_PCHW)} and {len(end_PCHW)}")
    real_2PCHW = torch.stack([start_PCHW, end_PCHW]).to(model.device)
    middle_2PCHW = torch.full(real_2PCHW.shape, 0.5, dtype=model.dtype, device=model.device)
    x_2PCHW = dequantize(real_2PCHW, middle_2PCHW, model.config.bits)
    latents_0, latents_1 = (model(x_PCHW)[0] for x_PCHW in x_2PCHW)
    rows = []
    for t in torch.linspace(0, 1, steps, dtype=torch.float64).tolist():
        rows.append(model.inverse([_between(z_0, z_1, t, mode) for z_0, z_1 in zip(latents_0, latents_1, strict=True)]))
    x_PSCHW = torch.stack(rows, 1)
    error_P = (x_PSCHW[:, [0, -1]] - x_2PCHW.transpose(0, 1)).abs().flatten(1).amax(1) * model.config.bins
    bad = ~x_PSCHW.flatten(2).isfinite().all(2)
    return Interpolation(
        quantize(x_PSCHW.flatten(0, 1), model.config.bits).view(x_PSCHW.shape).cpu(),
        error_P.nan_to_num(torch.inf, torch.inf).cpu(),
        int(bad.sum()),
    )


def _between(z_0: Tensor, z_1: Tensor, t: float, mode: Mode) -> Tensor:
    if t in (0.0, 1.0):
        return z_1 if t else z_0
    if mode == "linear":
        return (1 - t) * z_0 + t * z_1
    flat_0, flat_1 = z_0.flatten(1), z_1.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(flat_0, flat_1, dim=1).clamp(-1, 1)
    angle = cosine.acos().view(-1, 1, 1, 1)
    sine = angle.sin()
    # Latents that point the same way, or opposite ways, span no arc.
    arc = ((1 - t) * angle).sin() / sine * z_0 + (t * angle).sin() / sine * z_1
    return torch.where(sine.abs() > 1e-4, arc, (1 - t) * z_0 + t * z_1)
