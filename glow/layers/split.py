"""The layers between the steps of flow: the squeeze and the split of a level, and the learned priors of the latents.

A level begins with a `Squeeze`, which trades resolution for channels, and ends with a `Split`, unless it is the last
level. `Split` has the Gaussian prior of the latents that leave there, and `TopPrior` that of the last latents.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glow.layers.base import Layer, sum_per_image
from glow.layers.networks import ZeroConv2d


class Squeeze(Layer):
    """The squeeze of Dinh et al. (2017), section 3.6: (B, C, H, W) -> (B, 4 C, H/2, W/2).

    Each 2x2 block of a channel becomes four channels, in the order of `torch.nn.functional.pixel_unshuffle`:
    z[4 c + 2 i + j, h, w] = x[c, 2 h + i, 2 w + j]. It only reorders numbers, so its log-det is 0.

    Examples:
        >>> z, log_det = Squeeze()(torch.arange(8.0).view(1, 1, 2, 4))
        >>> z.shape
        torch.Size([1, 4, 1, 2])
        >>> z[0, :, 0, 0]  # the left block, row by row
        tensor([0., 1., 4., 5.])
    """

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the squeezed images, (B, 4 C, H/2, W/2), and zeros (B,); H and W must be even."""
        return F.pixel_unshuffle(x_BCHW, 2), x_BCHW.new_zeros(x_BCHW.shape[0])

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        """Return the images before the squeeze: (B, 4 C, H, W) -> (B, C, 2 H, 2 W)."""
        return F.pixel_shuffle(z_BCHW, 2)


def gaussian_log_prob(z: Tensor, mean: Tensor, log_sd: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-density of each image's latents under independent normal distributions.

    With e = (z - mean) / exp(log_sd), it is the sum of -e^2 / 2 - log_sd - log(2 pi) / 2.

    Args:
        z: float (B, ...), latents.
        mean: of each latent; broadcasts to the shape of z.
        log_sd: natural log of the standard deviation of each latent; broadcasts to the shape of z.

    Returns:
        The log-density, (B,) in nats, and the standardized latents e, (B, ...).

    Examples:
        >>> zero = torch.zeros(1)
        >>> log_prob, standardized = gaussian_log_prob(torch.tensor([[0.0], [2.0]]), zero, zero)
        >>> log_prob
        tensor([-0.9189, -2.9189])
    """
    standardized = (z - mean) * (-log_sd).exp()
    return sum_per_image(-0.5 * standardized.square() - log_sd - 0.5 * math.log(2 * math.pi)), standardized


class Split(nn.Module):
    """The split at the end of a level: half of the channels leave as a latent (Dinh et al. 2017, section 3.6).

    The first half x_a goes on to the next level. The second half x_b is the level's latent, and is modelled given x_a:
    x_b ~ N(mean(x_a), sd(x_a)), independently per number. A `ZeroConv2d` on x_a gives the mean in its first C/2
    output channels and log sd in its last C/2, so that a new split has a standard normal prior.

    Args:
        channels: C, of the tensor that is split; must be even.

    Examples:
        >>> split = Split(channels=8)
        >>> x_a, x_b = split(torch.randn(2, 8, 4, 4))
        >>> mean, log_sd = split.prior(x_a)
        >>> x_b.shape, mean.shape, log_sd.abs().max().item()
        (torch.Size([2, 4, 4, 4]), torch.Size([2, 4, 4, 4]), 0.0)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ZeroConv2d(channels // 2, channels)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_a, which goes on, and x_b, the latent, (B, C/2, H, W) each."""
        x_a, x_b = x_BCHW.chunk(2, 1)
        return x_a, x_b

    def inverse(self, x_a: Tensor, x_b: Tensor) -> Tensor:
        """Return both halves together, (B, C, H, W)."""
        return torch.cat([x_a, x_b], 1)

    def prior(self, x_a: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the log standard deviation of x_b given x_a, (B, C/2, H, W) each."""
        mean, log_sd = self.conv(x_a).chunk(2, 1)
        return mean, log_sd


class TopPrior(nn.Module):
    """The Gaussian prior of the last latent: a learned mean and log standard deviation per channel.

    Both are the same at every position, and zero at first. With `num_classes`, each class adds a learned mean and log
    standard deviation of its own (``learntop`` and ``ycond`` in the code of Kingma & Dhariwal 2018).

    Args:
        channels: C, of the last latent.
        num_classes: number of classes; None for a prior without classes.

    Examples:
        >>> top = TopPrior(channels=8, num_classes=10)
        >>> mean, log_sd = top.prior(torch.tensor([3, 7]))
        >>> mean.shape, log_sd.shape
        (torch.Size([2, 8, 1, 1]), torch.Size([2, 8, 1, 1]))
        >>> top.prior(None)[0].shape  # what the classes have in common
        torch.Size([1, 8, 1, 1])
    """

    def __init__(self, channels: int, num_classes: int | None) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(channels))
        self.log_sd = nn.Parameter(torch.zeros(channels))
        self.classes = None if num_classes is None else nn.Embedding(num_classes, 2 * channels)
        if self.classes is not None:
            nn.init.zeros_(self.classes.weight)

    def prior(self, labels_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the mean and the log standard deviation of the last latent.

        Args:
            labels_B: int64 (B,), the class of each image. With None, nothing is added for the classes. A prior without
                classes ignores `labels_B`.

        Returns:
            The mean and the log standard deviation. Both have the shape (B, C, 1, 1) if the prior has classes and gets
            labels, otherwise (1, C, 1, 1).
        """
        mean, log_sd = self.mean[None], self.log_sd[None]
        if self.classes is not None and labels_B is not None:
            class_mean, class_log_sd = self.classes(labels_B).chunk(2, 1)
            mean, log_sd = mean + class_mean, log_sd + class_log_sd
        return mean[:, :, None, None], log_sd[:, :, None, None]
