"""The learned Gaussian priors: of the half that leaves at a split, and of the top."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from glow.layers.base import sum_per_image
from glow.layers.coupling import ZeroConv2d

__all__ = ["Split", "TopPrior", "gaussian_log_prob"]


def gaussian_log_prob(z: Tensor, mean: Tensor, log_sd: Tensor) -> tuple[Tensor, Tensor]:
    r"""The log-density of latents under independent normal distributions.

    Args:
        z: (B, ...).
        mean, log_sd: of each number, in nats the latter; they broadcast to the shape of z.

    Returns:
        :math:`\sum -\tfrac12 \epsilon^2 - \log \sigma - \tfrac12 \log 2 \pi`, (B,) nats, and
        :math:`\epsilon = (z - \mu) / \sigma`, (B, ...).
    """
    standardized = (z - mean) * (-log_sd).exp()
    return sum_per_image(-0.5 * standardized.square() - log_sd - 0.5 * math.log(2 * math.pi)), standardized


class Split(nn.Module):
    r"""Half of the channels leave as this level's latent (Dinh et al. 2017, section 3.6).

    The first half goes on; the second is modelled given it, :math:`x_b \sim N(\mu(x_a), \sigma(x_a))`, where a
    `ZeroConv2d` gives the mean in its first C/2 channels and the log of the standard deviation in its last C/2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ZeroConv2d(channels // 2, channels)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """x -> (x_a that goes on, x_b that stays as a latent), (B, C/2, H, W) each."""
        x_a, x_b = x_BCHW.chunk(2, 1)
        return x_a, x_b

    def inverse(self, x_a: Tensor, x_b: Tensor) -> Tensor:
        return torch.cat([x_a, x_b], 1)

    def prior(self, x_a: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of x_b given x_a, (B, C/2, H, W) each."""
        mean, log_sd = self.conv(x_a).chunk(2, 1)
        return mean, log_sd


class TopPrior(nn.Module):
    """The Gaussian of the last latent: a learned mean and log standard deviation a channel, zero at first.

    With `num_classes` each class adds its own (Kingma & Dhariwal's ``learntop`` and ``ycond``).
    """

    def __init__(self, channels: int, num_classes: int | None) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(channels))
        self.log_sd = nn.Parameter(torch.zeros(channels))
        self.classes = None if num_classes is None else nn.Embedding(num_classes, 2 * channels)
        if self.classes is not None:
            nn.init.zeros_(self.classes.weight)

    def prior(self, labels_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation, (1 or B, C, 1, 1) each."""
        mean, log_sd = self.mean[None], self.log_sd[None]
        if self.classes is not None and labels_B is not None:
            class_mean, class_log_sd = self.classes(labels_B).chunk(2, 1)
            mean, log_sd = mean + class_mean, log_sd + class_log_sd
        return mean[:, :, None, None], log_sd[:, :, None, None]
