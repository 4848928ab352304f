"""Statistics of how far an image's standardized latents are from independent standard normal numbers.

An image unlike the training images can have latents of high density that do not look like noise: the latents are too
similar to each other, or they follow a pattern. Bomatter et al. (2026, arXiv 2605.22496) test for the first with
`anderson_darling`, and for the second with `spectrum_variation`. The latents of a Glow also have rows and columns, like
an image, and a pattern in them makes neighbouring latents similar; `second_moments` measures this. `glow.scoring.score`
computes all these statistics.

Shapes: B images, L levels, D latent numbers per image; C channels, H rows and W columns of a level's latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def anderson_darling(standardized_BD: Tensor) -> Tensor:
    r"""Return the Anderson-Darling statistic of each image's latents against the standard normal distribution.

    :math:`A^2 = -D - \frac1D \sum_{i=1}^D (2i - 1) (\log \Phi(e_{(i)}) + \log(1 - \Phi(e_{(D + 1 - i)})))`, where
    :math:`e_{(1)} \le \dots \le e_{(D)}` are the latents of the image in ascending order (Anderson & Darling 1954,
    equation 4). For independent standard normal numbers the mean of the statistic is 1, whatever D is.

    Args:
        standardized_BD: float (B, D), the latents minus their prior's mean, divided by their prior's standard
            deviation.

    Returns:
        float64 (B,). Numbers that are not finite give NaN or infinity.

    Examples:
        >>> noise = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
        >>> anderson_darling(torch.stack([noise[0], 2 * noise[1]])).round().tolist()
        [1.0, 210.0]
    """
    ordered_BD = _in_order(standardized_BD).double()
    d = ordered_BD.shape[1]
    weights_D = 2 * torch.arange(1, d + 1, device=ordered_BD.device, dtype=torch.float64) - 1
    below_BD = torch.special.log_ndtr(ordered_BD)
    above_BD = torch.special.log_ndtr(-ordered_BD).flip(1)
    return -d - (below_BD + above_BD) @ weights_D / d


def _in_order(numbers_BD: Tensor) -> Tensor:
    """Sort each row in ascending order, by numpy on CPUs, where it is ten times as fast as torch."""
    if numbers_BD.device.type == "cpu":
        return torch.from_numpy(np.sort(numbers_BD.numpy(), axis=1))
    return numbers_BD.sort(1).values


def spectrum_variation(standardized_BD: Tensor) -> Tensor:
    r"""Return the coefficient of variation of the power spectrum of each image's latents.

    The coefficient is the standard deviation of the power :math:`|F_k|^2` over the frequencies k > 0, divided by the
    mean of the power. F is the discrete Fourier transform of the image's D latents, taken as one sequence. Independent
    normal numbers have a flat spectrum with exponentially distributed powers, and therefore a coefficient near 1. A
    repeated pattern has a larger coefficient.

    Args:
        standardized_BD: float (B, D), the latents minus their prior's mean, divided by their prior's standard
            deviation; D is at least 4.

    Returns:
        float64 (B,). Numbers that are not finite, or all equal, give NaN.

    Examples:
        >>> steps = torch.arange(64.0)
        >>> spectrum_variation(torch.stack([(steps / 4).sin(), steps % 7 - 3])).round(decimals=1).tolist()
        [3.4, 3.5]
        >>> noise = torch.randn(1, 10_000, generator=torch.Generator().manual_seed(0))
        >>> spectrum_variation(noise).round(decimals=1).tolist()
        [1.0]
    """
    if len(standardized_BD) == 0:  # a Fourier transform refuses an empty batch
        return standardized_BD.new_empty(0, dtype=torch.float64)
    power_BF = torch.fft.rfft(standardized_BD.double(), dim=1)[:, 1:].abs().square()
    return power_BF.std(1, correction=0) / power_BF.mean(1)


@dataclass(frozen=True)
class SecondMoments:
    r"""The power of each level's latents, and the correlation of neighbouring latents.

    For independent standard normal latents, the power is 1 and every correlation is 0, up to random deviations.

    Attributes:
        power_BL: float64 (B, L), the mean square of each level's latents.
        rows_BL: float64 (B, L), the correlation of neighbours in a row: the mean of :math:`e e'` over all pairs of
            neighbours e and e', divided by the power; 0 for a level of one column.
        columns_BL: float64 (B, L), the same for neighbours in a column; 0 for a level of one row.
        pairs_L2: for each level, the number of pairs of neighbours in rows, and in columns.

    Examples:
        >>> one, correlation = torch.ones(1, 1), torch.tensor([[0.1]]).double()
        >>> moments = SecondMoments(one.double(), correlation, 0 * correlation, [(720, 720)])
        >>> moments.portmanteau().round(decimals=3)
        tensor([7.2000], dtype=torch.float64)
    """

    power_BL: Tensor
    rows_BL: Tensor
    columns_BL: Tensor
    pairs_L2: Sequence[tuple[int, int]]

    def portmanteau(self) -> Tensor:
        r"""Combine all correlations of each image in one number (after Box & Pierce 1970).

        :math:`Q = \sum_l n_l r_l^2 + m_l s_l^2`, where level l has :math:`n_l` pairs in rows with correlation
        :math:`r_l`, and :math:`m_l` pairs in columns with correlation :math:`s_l`. For independent standard normal
        numbers Q approximately follows a chi-squared distribution with one degree of freedom per correlation. Its mean
        is then 2 for each level that has at least two rows and two columns.

        Returns:
            float64 (B,), the statistic Q; a larger Q is further from noise.
        """
        pairs_L2 = torch.tensor(self.pairs_L2, dtype=torch.float64, device=self.power_BL.device)
        return self.rows_BL.square() @ pairs_L2[:, 0] + self.columns_BL.square() @ pairs_L2[:, 1]


def second_moments(standardized: Sequence[Tensor]) -> SecondMoments:
    """Measure the power and the neighbour correlations of latents.

    Args:
        standardized: for each level float (B, C, H, W), the latents minus their prior's mean, divided by their prior's
            standard deviation.

    Returns:
        The moments of each image and level. If an image has latents that are not finite, its moments are not finite;
        the moments of the other images do not change.

    Examples:
        >>> noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> smooth = noise + noise.roll(1, -1)
        >>> found = second_moments([torch.stack([noise[0], smooth[1]])])
        >>> [[round(number, 1) for number in numbers] for numbers in found.rows_BL.tolist()]
        [[-0.0], [0.5]]
        >>> found.portmanteau().round().tolist()
        [1.0, 194.0]
    """
    levels = [_moments(level_BCHW) for level_BCHW in standardized]
    power, rows, columns = (torch.stack(each, 1) for each in zip(*(moments for moments, _ in levels), strict=True))
    return SecondMoments(power, rows, columns, [pairs for _, pairs in levels])


def _moments(level_BCHW: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int]]:
    """Return the power, both correlations, and the number of pairs behind each, of one level."""
    _, channels, height, width = level_BCHW.shape
    power_B = level_BCHW.square().mean((1, 2, 3), dtype=torch.float64)
    rows_B, columns_B = (_correlation(level_BCHW, axis, power_B) for axis in (3, 2))
    return (power_B, rows_B, columns_B), (channels * height * (width - 1), channels * (height - 1) * width)


def _correlation(level_BCHW: Tensor, axis: int, power_B: Tensor) -> Tensor:
    """Return the correlation of neighbours along an axis, 0 if it has one number."""
    length = level_BCHW.shape[axis] - 1
    if length == 0:
        return torch.zeros_like(power_B)
    products = level_BCHW.narrow(axis, 0, length) * level_BCHW.narrow(axis, 1, length)
    return products.mean((1, 2, 3), dtype=torch.float64) / power_B
