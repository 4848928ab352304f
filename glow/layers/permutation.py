"""Channel permutations: a learned 1x1 convolution, a fixed random shuffle, and reversal.

A channel permutation is the second layer of every flow step. To add one, write a subclass of `AffineLayer`, and add a
name for it to `glow.config.Permutation` and to `PERMUTATIONS`.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glow.config import Permutation
from glow.layers.channel_mixing import Affine, AffineLayer


def make_permutation(kind: Permutation, channels: int, generator: torch.Generator) -> AffineLayer:
    """Make the channel permutation of one step.

    Args:
        kind: a key of `PERMUTATIONS`: "1x1", "shuffle" or "reverse".
        channels: C.
        generator: a CPU generator; "1x1" and "shuffle" draw from it, "reverse" does not.

    Returns:
        The layer, (B, C, H, W) -> (B, C, H, W).

    Raises:
        ValueError: if `kind` is not in `PERMUTATIONS`.
        TypeError: if the entry of `PERMUTATIONS` makes a layer that is not an `AffineLayer`.

    Examples:
        >>> reverse = make_permutation("reverse", 4, torch.Generator())
        >>> z, log_det = reverse(torch.arange(4.0).view(1, 4, 1, 1))
        >>> z.flatten()
        tensor([3., 2., 1., 0.])
    """
    if kind not in PERMUTATIONS:
        raise ValueError(f"permutation must be one of {', '.join(PERMUTATIONS)}, not {kind!r}")
    layer = PERMUTATIONS[kind](channels, generator)
    if not isinstance(layer, AffineLayer):
        raise TypeError(f"the permutation {kind!r} made a {type(layer).__name__}, which is not an AffineLayer")
    return layer


class FixedPermutation(AffineLayer):
    """A fixed order of the channels: z[:, i] = x[:, order[i]], with log-det 0.

    Args:
        order_C: int64 (C,), a permutation of 0 to C - 1.

    Attributes:
        order: buffer (C,); it is saved with the weights and never trained.

    Examples:
        >>> layer = FixedPermutation(torch.tensor([2, 0, 1]))
        >>> z, log_det = layer(torch.tensor([10.0, 20.0, 30.0]).view(1, 3, 1, 1))
        >>> z.flatten()
        tensor([30., 10., 20.])
        >>> layer.inverse(z).flatten()
        tensor([10., 20., 30.])
    """

    order: Tensor

    def __init__(self, order_C: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order_C)

    @classmethod
    def shuffle(cls, channels: int, generator: torch.Generator) -> FixedPermutation:
        """Return a layer with a random order of the channels, drawn uniformly by `generator`."""
        return cls(torch.randperm(channels, generator=generator))

    @classmethod
    def reverse(cls, channels: int, generator: torch.Generator) -> FixedPermutation:
        """Return the layer that reverses the order of the channels; `generator` is not used."""
        return cls(torch.arange(channels).flip(0))

    def factors(self) -> tuple[Tensor, ...]:
        """Return the order of the channels, int64 (C,)."""
        return (self.order,)

    @classmethod
    def affine_of(cls, factors: Sequence[Tensor]) -> Affine:
        """Return the map of the permutation matrix M, with M[i, order[i]] = 1, in float32; its offset is 0."""
        (order,) = factors
        matrix = F.one_hot(order, order.shape[-1]).float()
        offset = torch.zeros_like(matrix[..., 0])
        return Affine(matrix, offset, offset[..., 0])

    @classmethod
    def inverse_affine_of(cls, factors: Sequence[Tensor]) -> Affine:
        """Return the map of the transposed permutation matrix; its offset is 0."""
        matrix, offset, log_det = cls.affine_of(factors)
        return Affine(matrix.mT, offset, log_det)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reordered channels, (B, C, H, W), and zeros (B,)."""
        return x_BCHW[:, self.order], x_BCHW.new_zeros(x_BCHW.shape[0])

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        """Return the channels in the order that `forward` received them in."""
        return z_BCHW[:, self.order.argsort()]


class InvertibleConv1x1(AffineLayer):
    """An invertible 1x1 convolution in LU form (Kingma & Dhariwal 2018, section 3.2, equations 10 and 11).

    z[i] = sum_j M[i, j] x[j] at every position, with M = P L (U + diag(sign_s exp(log_s))), where L is lower triangular
    with a diagonal of ones and U is strictly upper triangular. So log |det| = H W sum_i log_s[i] needs no determinant,
    and M stays invertible whatever is learned. M starts as a random orthogonal matrix.

    Args:
        channels: C.
        generator: a CPU generator that the orthogonal matrix is drawn from.

    Attributes:
        permutation: buffer (C, C), P; fixed.
        sign_s: buffer (C,), -1 or 1; fixed.
        lower: parameter (C, C); only what lies below its diagonal is used.
        upper: parameter (C, C); only what lies above its diagonal is used.
        log_s: parameter (C,).

    Examples:
        >>> conv = InvertibleConv1x1(4, torch.Generator().manual_seed(0))
        >>> matrix = conv.affine().matrix
        >>> torch.allclose(matrix @ matrix.T, torch.eye(4), atol=1e-5)
        True
        >>> x = torch.rand(2, 4, 3, 3)
        >>> torch.allclose(conv.inverse(conv(x)[0]), x, atol=1e-5)
        True
    """

    permutation: Tensor
    sign_s: Tensor

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        gaussian = torch.randn(channels, channels, dtype=torch.float64, generator=generator)
        rotation = torch.linalg.qr(gaussian)[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        s = upper.diagonal()
        self.register_buffer("permutation", permutation.float())
        self.register_buffer("sign_s", s.sign().float())
        self.lower = nn.Parameter(lower.tril(-1).float())
        self.upper = nn.Parameter(upper.triu(1).float())
        self.log_s = nn.Parameter(s.abs().log().float())

    def factors(self) -> tuple[Tensor, ...]:
        """Return permutation, lower, upper, sign_s and log_s."""
        return self.permutation, self.lower, self.upper, self.sign_s, self.log_s

    @classmethod
    def affine_of(cls, factors: Sequence[Tensor]) -> Affine:
        """Return the map of the matrix M; its offset is 0."""
        permutation, lower, upper, sign_s, log_s = factors
        weight = permutation @ _unit_lower(lower) @ _upper(upper, sign_s, log_s)
        return Affine(weight, torch.zeros_like(log_s), log_s.sum(-1))

    @classmethod
    def inverse_affine_of(cls, factors: Sequence[Tensor]) -> Affine:
        """Return the map of M^-1, computed by two triangular solves; its offset is 0."""
        permutation, lower, upper, sign_s, log_s = factors
        solved = torch.linalg.solve_triangular(_unit_lower(lower), permutation.mT, upper=False, unitriangular=True)
        inverse = torch.linalg.solve_triangular(_upper(upper, sign_s, log_s), solved, upper=True)
        return Affine(inverse, torch.zeros_like(log_s), -log_s.sum(-1))


PERMUTATIONS: dict[str, Callable[[int, torch.Generator], AffineLayer]] = {
    "1x1": InvertibleConv1x1,
    "shuffle": FixedPermutation.shuffle,
    "reverse": FixedPermutation.reverse,
}
"""For each value of `GlowConfig.permutation`, what makes the layer from a number of channels and a generator."""


def _unit_lower(lower: Tensor) -> Tensor:
    return lower.tril(-1) + torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)


def _upper(upper: Tensor, sign_s: Tensor, log_s: Tensor) -> Tensor:
    return upper.triu(1) + torch.diag_embed(sign_s * log_s.exp())
