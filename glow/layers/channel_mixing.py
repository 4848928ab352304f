"""Layers that are affine in the channels of a position: ActNorm and every channel permutation.

Such a layer is z = A x + c at each position, with the same A and c everywhere. A subclass of `AffineLayer` defines how
A and c follow from its parameters. This file applies A and c to images. It also computes the A and c of many layers in
one batched operation, which for K small matrices takes about the time of one matrix. Read this file to add a channel
permutation.

`mixing` composes the ActNorm and the permutation of each step of a level, for all steps at once: the composition is one
affine map, too. Step by step, this would take as long as the coupling layers of a narrow network.

Shapes: K layers or steps, C channels, B images, H height, W width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from glow.layers.base import Layer


class Affine(NamedTuple):
    """The map A x + c of the channels of a position, or a stack of K such maps.

    The shapes of the attributes are those of one map. In a stack, every attribute has K as an additional first axis.

    Examples:
        >>> scale = Affine(torch.tensor([2.0, 3.0]), torch.zeros(2), torch.tensor(6.0).log())
        >>> swap = Affine(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.zeros(2), torch.tensor(0.0))
        >>> swap.after(scale).matrix
        tensor([[0., 3.],
                [2., 0.]])
        >>> scale.is_diagonal, swap.is_diagonal
        (True, False)
    """

    matrix: Tensor
    """A, (C, C); or only its diagonal, (C,), if channels are not mixed, which makes products with it cheap."""
    offset: Tensor
    """c, (C,)."""
    log_det: Tensor
    """log |det A| in nats, a scalar; an image of H * W positions has H * W times as much."""

    def after(self, first: Affine) -> Affine:
        """Return the composition that applies `first` and then this map.

        Its matrix is A A_first, its offset A c_first + c, and its log_det the sum of both.
        """
        if self.is_diagonal:
            matrix = self.matrix * first.matrix if first.is_diagonal else self.matrix[..., None] * first.matrix
            offset = self.matrix * first.offset
        else:
            matrix = self.matrix * first.matrix[..., None, :] if first.is_diagonal else self.matrix @ first.matrix
            offset = (self.matrix @ first.offset[..., None])[..., 0]
        return Affine(matrix, offset + self.offset, self.log_det + first.log_det)

    @property
    def is_diagonal(self) -> bool:
        """True if `matrix` holds only the diagonal of A."""
        return self.matrix.dim() == self.offset.dim()

    def dense(self) -> Affine:
        """Return the same map with the whole matrix A, (C, C)."""
        return self._replace(matrix=torch.diag_embed(self.matrix)) if self.is_diagonal else self

    def to(self, dtype: torch.dtype) -> Affine:
        """Return the same map with all three tensors in `dtype`."""
        return Affine(*(part.to(dtype) for part in self))


class AffineLayer(Layer):
    """A layer with z = A x + c at every position, so that log |det| = H W log |det A|.

    A subclass defines `factors` and `affine_of`, and `inverse_affine_of` if it has a better inverse than
    `torch.linalg.inv`. `forward`, `inverse`, `affine_stack` and `inverse_affine_stack` call these methods. The factors
    are the tensors that determine A and c, such as the parameters. `factors` and `affine_of` are separate methods
    because `affine_stack` first stacks the factors of K layers, and then computes the K maps at once.

    Examples:
        >>> from torch import nn
        >>> class Scale(AffineLayer):  # multiplies each channel by a learned number
        ...     def __init__(self, channels):
        ...         super().__init__()
        ...         self.log_scale = nn.Parameter(torch.zeros(channels))
        ...     def factors(self):
        ...         return (self.log_scale,)
        ...     @classmethod
        ...     def affine_of(cls, factors):
        ...         (log_scale,) = factors
        ...         return Affine(log_scale.exp(), torch.zeros_like(log_scale), log_scale.sum(-1))
        >>> layer = Scale(2)
        >>> _ = nn.init.constant_(layer.log_scale, 0.5)
        >>> z, log_det = layer(torch.ones(1, 2, 4, 4))
        >>> log_det  # 4 * 4 positions, 2 channels of 0.5 each
        tensor([16.], grad_fn=...)
        >>> torch.allclose(layer.inverse(z), torch.ones(1, 2, 4, 4))
        True
    """

    @abstractmethod
    def factors(self) -> tuple[Tensor, ...]:
        """Return the parameters and buffers that determine the map.

        Their shapes must be the same in every layer of a stack.
        """

    @classmethod
    @abstractmethod
    def affine_of(cls, factors: Sequence[Tensor]) -> Affine:
        """Return the map that a layer with these parameters and buffers computes, or a stack of K such maps.

        Args:
            factors: the result of the method `factors` of a layer; or, for a stack of K layers, each of those tensors
                stacked along a new first axis of length K.

        Returns:
            The map, or the stack of maps, in the floating-point type of the factors. An implementation whose factors
            are integers, such as the order of channels, chooses a type that represents the map exactly.
        """

    @classmethod
    def inverse_affine_of(cls, factors: Sequence[Tensor]) -> Affine:
        """Return the inverse of the map that `affine_of` returns: A^-1 z - A^-1 c, or a stack of K such maps."""
        matrix, offset, log_det = cls.affine_of(factors).dense()
        inverse = torch.linalg.inv(matrix)
        return Affine(inverse, -(inverse @ offset[..., None])[..., 0], -log_det)

    def affine(self) -> Affine:
        """Return the map A x + c of this layer, in the floating-point type that `affine_of` gives it."""
        return self.affine_of(self.factors())

    def inverse_affine(self) -> Affine:
        """Return the inverse map A^-1 z - A^-1 c of this layer, in float64 and without a gradient.

        A sample passes through the inverses of all layers of a model, and the rounding errors of float32 inverses would
        add up.
        """
        return Affine(*(part[0] for part in inverse_affine_stack([self])))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return A x + c at every position, (B, C, H, W), and the log-det (B,) in nats."""
        matrix, offset, log_det = self.affine().dense().to(x_BCHW.dtype)
        _, _, height, width = x_BCHW.shape
        return mix(x_BCHW, matrix, offset), (height * width * log_det).expand(x_BCHW.shape[0])

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        """Return A^-1 (z - c) at every position, (B, C, H, W)."""
        matrix, offset, _ = self.inverse_affine().dense().to(z_BCHW.dtype)
        return mix(z_BCHW, matrix, offset)


def affine_stack(layers: Sequence[AffineLayer]) -> Affine:
    """Return the maps of K layers as one stack.

    Args:
        layers: K layers of C channels. If all are of one class, their maps are computed in one batched operation.

    Returns:
        matrix (K, C, C), or (K, C) if all are of one class with a diagonal map; offset (K, C); log_det (K,) in nats.

    Examples:
        >>> from glow.layers import ActNorm
        >>> stack = affine_stack([ActNorm(4) for _ in range(8)])
        >>> stack.matrix.shape, stack.log_det.shape
        (torch.Size([8, 4]), torch.Size([8]))
    """
    kind = type(layers[0])
    if any(type(layer) is not kind for layer in layers):
        return _together([layer.affine() for layer in layers])
    return kind.affine_of(_stacked(layers))


@torch.no_grad()
def inverse_affine_stack(layers: Sequence[AffineLayer]) -> Affine:
    """Return the inverse maps of K layers as one stack, in float64 and without a gradient.

    Args:
        layers: K layers of C channels. If all are of one class, their maps are computed in one batched operation.

    Returns:
        matrix (K, C, C); offset (K, C); log_det (K,) of the inverse maps, in nats per position. If all layers are of
        one class whose inverse is diagonal, such as ActNorm, matrix is (K, C), the diagonals.

    Examples:
        >>> from glow.layers import InvertibleConv1x1
        >>> layers = [InvertibleConv1x1(4, torch.Generator().manual_seed(seed)) for seed in range(8)]
        >>> products = inverse_affine_stack(layers).matrix @ affine_stack(layers).matrix.double()
        >>> torch.allclose(products, torch.eye(4, dtype=torch.float64).expand(8, 4, 4), atol=1e-6)
        True
    """
    kind = type(layers[0])
    if any(type(layer) is not kind for layer in layers):
        return _together([layer.inverse_affine() for layer in layers])
    factors = [factor.double() if factor.is_floating_point() else factor for factor in _stacked(layers)]
    return kind.inverse_affine_of(factors).to(torch.float64)


def _stacked(layers: Sequence[AffineLayer]) -> list[Tensor]:
    """Return each factor of all layers as one tensor (K, ...)."""
    return [torch.stack(factors) for factors in zip(*(layer.factors() for layer in layers), strict=True)]


def _together(maps: Sequence[Affine]) -> Affine:
    return Affine(*(torch.stack(parts) for parts in zip(*(each.dense() for each in maps), strict=True)))


def mix(x_BCHW: Tensor, matrix_CC: Tensor, offset_C: Tensor) -> Tensor:
    """Apply A x + c to the channels of every position.

    Args:
        x_BCHW: float (B, C, H, W); it is not copied if its memory is in the order (C, B, H, W).
        matrix_CC: A, (C, C), of the type of `x_BCHW`.
        offset_C: c, (C,), of the type of `x_BCHW`.

    Returns:
        (B, C, H, W), with memory in the order (C, B, H, W).

    Examples:
        >>> swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> mix(torch.tensor([3.0, 5.0]).view(1, 2, 1, 1), swap, torch.tensor([0.0, 10.0])).flatten()
        tensor([ 5., 13.])
    """
    x_CBHW = x_BCHW.transpose(0, 1)
    mixed_CN = torch.addmm(offset_C[:, None], matrix_CC, x_CBHW.flatten(1))
    return mixed_CN.view(x_CBHW.shape).transpose(0, 1)


Stage = Sequence[AffineLayer]
"""The layers in one place of each of the K steps, such as the ActNorms of all steps."""


def mixing(stages: Sequence[Stage]) -> Affine:
    """Compose the affine layers of each step into one affine map.

    Args:
        stages: at least one stage. A stage holds one layer of each of the K steps, such as all ActNorms; every layer
            has C channels. Each step applies its layer of the first stage first.

    Returns:
        A stack of K maps: matrix (K, C, C), offset (K, C), log_det (K,) in nats. They are differentiable.

    Examples:
        >>> from glow.layers import ActNorm, make_permutation, mix
        >>> actnorms = [ActNorm(4), ActNorm(4)]
        >>> permutations = [make_permutation("1x1", 4, torch.Generator().manual_seed(seed)) for seed in range(2)]
        >>> matrix, offset, log_det = mixing([actnorms, permutations])
        >>> x = torch.rand(3, 4, 8, 8)
        >>> step_by_step = permutations[1](actnorms[1](x)[0])[0]
        >>> torch.allclose(mix(x, matrix[1], offset[1]), step_by_step, atol=1e-5)
        True
    """
    first, *others = (affine_stack(stage) for stage in stages)
    for then in others:
        first = then.to(first.matrix.dtype).after(first)
    return first.dense()


def unmixing(stages: Sequence[Stage]) -> tuple[Tensor, Tensor]:
    """Compose the inverses of the affine layers of each step into one map, the inverse of the map of `mixing`.

    Args:
        stages: as for `mixing`, in the order of the forward pass.

    Returns:
        The matrices (K, C, C) and the offsets (K, C), in float64 and without a gradient.

    Examples:
        >>> from glow.layers import ActNorm, make_permutation
        >>> stages = [[ActNorm(4)], [make_permutation("1x1", 4, torch.Generator().manual_seed(0))]]
        >>> matrix, offset = unmixing(stages)
        >>> torch.allclose(matrix[0].float() @ mixing(stages).matrix[0], torch.eye(4), atol=1e-5)
        True
    """
    last, *others = (inverse_affine_stack(stage) for stage in reversed(stages))
    for then in others:
        last = then.after(last)
    matrix_KCC, offset_KC, _ = last.dense()
    return matrix_KCC, offset_KC
