r"""How far an image's latents are from the independent standard normal numbers that they should be.

An image that a flow was not trained on can have a likely latent that is no noise: its numbers are too alike, or follow
a pattern. Bomatter et al. (2026, arXiv 2605.22496) test for both, by `anderson_darling` and `spectrum_variation`. The
latents of a Glow are planes, so that a pattern shows first in neighbours that are alike: `second_moments`.

Shapes: B images, D latent numbers per image; C channels, H height and W width of a level's latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["SecondMoments", "anderson_darling", "second_moments", "spectrum_variation"]


def anderson_darling(standardized_BD: Tensor) -> Tensor:
    r"""The Anderson-Darling statistic of each image's latents against the standard normal distribution.

    :math:`A^2 = -D - \frac1D \sum_{i=1}^D (2i - 1) (\log \Phi(e_{(i)}) + \log(1 - \Phi(e_{(D + 1 - i)})))`, where
    :math:`e_{(1)} \le \dots \le e_{(D)}` are the numbers in order (Anderson & Darling 1954, equation 4.). Its mean is 1
    for independent standard normal numbers, whatever D is.

    Args:
        standardized_BD: the latents, each less its prior's mean and divided by its standard deviation.

    Returns:
        (B,) float64. Numbers that are not finite give NaN or infinity.

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> noise = torch.randn(2, 1000)
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
    """Each row in ascending order. On CPUs numpy sorts ten times as fast."""
    if numbers_BD.device.type == "cpu":
        return torch.from_numpy(np.sort(numbers_BD.numpy(), axis=1))
    return numbers_BD.sort(1).values


def spectrum_variation(standardized_BD: Tensor) -> Tensor:
    r"""The coefficient of variation of the power spectrum of each image's latents.

    It is the standard deviation of the power :math:`|F_k|^2` over the frequencies, divided by its mean, where F is the
    discrete Fourier transform of the D numbers in a row, less the frequency 0. Independent normal numbers have a flat
    spectrum with exponentially distributed powers, and so a coefficient near 1; a pattern that repeats has a larger
    one.

    Args:
        standardized_BD: the latents, each less its prior's mean and divided by its standard deviation; D is at least 4.

    Returns:
        (B,) float64. Numbers that are not finite, or all equal, give NaN.

    Example:
        >>> steps = torch.arange(64.0)
        >>> spectrum_variation(torch.stack([(steps / 4).sin(), steps % 7 - 3])).round(decimals=1).tolist()
        [3.4, 3.5]
    """
    if len(standardized_BD) == 0:  # which a Fourier transform does not take
        return standardized_BD.new_empty(0, dtype=torch.float64)
    power_BF = torch.fft.rfft(standardized_BD.double(), dim=1)[:, 1:].abs().square()
    return power_BF.std(1, correction=0) / power_BF.mean(1)


@dataclass(frozen=True)
class SecondMoments:
    r"""How strong the latents of each level are, and how their neighbours correlate. Of noise the power is 1 and every
    correlation 0, up to what chance makes of so many numbers.

    Args:
        power_BL: the mean square of each level's latents, (B, L).
        rows_BL: the correlation :math:`\overline{e e'} / \overline{e^2}` of numbers that stand side by side in a row;
            0 for a level of one column.
        columns_BL: the same of numbers one above the other.
        pairs_L2: of each level, the number of pairs behind the two correlations.
    """

    power_BL: Tensor
    rows_BL: Tensor
    columns_BL: Tensor
    pairs_L2: Sequence[tuple[int, int]]

    def portmanteau(self) -> Tensor:
        r"""One number for all correlations: :math:`Q = \sum_l n_l r_l^2 + m_l s_l^2`, (B,) (after Box & Pierce 1970).

        Of independent standard normal numbers it is distributed like chi-squared with one degree of freedom for each
        correlation, so that its mean is 2 per level of more than one row and column.
        """
        pairs_L2 = torch.tensor(self.pairs_L2, dtype=torch.float64, device=self.power_BL.device)
        return self.rows_BL.square() @ pairs_L2[:, 0] + self.columns_BL.square() @ pairs_L2[:, 1]


def second_moments(standardized: Sequence[Tensor]) -> SecondMoments:
    """Power and neighbour correlations of latents.

    Args:
        standardized: of each level the latents (B, C, H, W), each number less its prior's mean and divided by its
            standard deviation.

    Returns:
        All in float64. Numbers that are not finite give values that are not finite, for their image alone.

    Example:
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
    _, channels, height, width = level_BCHW.shape
    power_B = level_BCHW.square().mean((1, 2, 3), dtype=torch.float64)
    rows_B, columns_B = (_correlation(level_BCHW, axis, power_B) for axis in (3, 2))
    return (power_B, rows_B, columns_B), (channels * height * (width - 1), channels * (height - 1) * width)


def _correlation(level_BCHW: Tensor, axis: int, power_B: Tensor) -> Tensor:
    length = level_BCHW.shape[axis] - 1
    if length == 0:
        return torch.zeros_like(power_B)
    products = level_BCHW.narrow(axis, 0, length) * level_BCHW.narrow(axis, 1, length)
    return products.mean((1, 2, 3), dtype=torch.float64) / power_B
