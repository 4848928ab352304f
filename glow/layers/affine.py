r"""Layers that are affine in the channels of a position: ActNorm and every channel permutation.

Such a layer is :math:`x \mapsto A x + c` at each position. It says what A and c are made of; this file applies them,
and makes those of many layers in one go, which for K small matrices takes about the time of one.

Shapes: K layers, C channels, B images, H height, W width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from glow.layers.base import Layer

__all__ = ["Affine", "AffineLayer", "affine_stack", "inverse_affine_stack", "mix"]


class Affine(NamedTuple):
    """The map A x + c of the channels of a position. In a stack of K maps every shape starts with K."""

    matrix: Tensor
    """A, (C, C); or its diagonal (C,), where channels are not mixed: products with it are then cheap."""
    offset: Tensor
    """c, (C,)."""
    log_det: Tensor
    """log |det A|, a scalar in nats: an image of H * W positions has H * W times as much."""

    def after(self, first: Affine) -> Affine:
        """This map of what `first` gives."""
        if self.is_diagonal:
            matrix = self.matrix * first.matrix if first.is_diagonal else self.matrix[..., None] * first.matrix
            offset = self.matrix * first.offset
        else:
            matrix = self.matrix * first.matrix[..., None, :] if first.is_diagonal else self.matrix @ first.matrix
            offset = (self.matrix @ first.offset[..., None])[..., 0]
        return Affine(matrix, offset + self.offset, self.log_det + first.log_det)

    @property
    def is_diagonal(self) -> bool:
        return self.matrix.dim() == self.offset.dim()

    def dense(self) -> Affine:
        """The same with all of A."""
        return self._replace(matrix=torch.diag_embed(self.matrix)) if self.is_diagonal else self

    def to(self, dtype: torch.dtype) -> Affine:
        return Affine(*(part.to(dtype) for part in self))


class AffineLayer(Layer):
    r"""A layer with :math:`z = A x + c` at every position, and :math:`\log |\det| = H W \log |\det A|`.

    A subclass defines `factors` and `affine_of`, and `inverse_affine_of` where it knows a better inverse than
    `torch.linalg.inv`. `forward`, `inverse` and stacks of layers follow from them. A layer that multiplies every
    channel by a learned number::

        class Scale(AffineLayer):
            def __init__(self, channels):
                super().__init__()
                self.log_scale = nn.Parameter(torch.zeros(channels))

            def factors(self):
                return (self.log_scale,)

            @classmethod
            def affine_of(cls, factors):
                (log_scale,) = factors
                return Affine(log_scale.exp(), torch.zeros_like(log_scale), log_scale.sum(-1))
    """

    @abstractmethod
    def factors(self) -> tuple[Tensor, ...]:
        """The tensors that the map is made of: parameters and buffers, with the same shapes in every layer of a
        stack."""

    @classmethod
    @abstractmethod
    def affine_of(cls, factors: Sequence[Tensor]) -> Affine:
        """The map that these factors make. Those of a stack have K as their first dimension, and so has the map.

        Where no factor is of a floating type, any floating type will do, provided that it holds the map exactly.
        """

    @classmethod
    def inverse_affine_of(cls, factors: Sequence[Tensor]) -> Affine:
        """The inverse of `affine_of`, of a stack too."""
        matrix, offset, log_det = cls.affine_of(factors).dense()
        inverse = torch.linalg.inv(matrix)
        return Affine(inverse, -(inverse @ offset[..., None])[..., 0], -log_det)

    def affine(self) -> Affine:
        """The map of this layer."""
        return self.affine_of(self.factors())

    def inverse_affine(self) -> Affine:
        """Its inverse, made in float64 and without a gradient: a sample passes through all inverses of a model."""
        return Affine(*(part[0] for part in inverse_affine_stack([self])))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        matrix, offset, log_det = self.affine().dense().to(x_BCHW.dtype)
        _, _, height, width = x_BCHW.shape
        return mix(x_BCHW, matrix, offset), (height * width * log_det).expand(len(x_BCHW))

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        matrix, offset, _ = self.inverse_affine().dense().to(z_BCHW.dtype)
        return mix(z_BCHW, matrix, offset)


def affine_stack(layers: Sequence[AffineLayer]) -> Affine:
    """The maps of K layers, in one go if all are of one class."""
    kind = type(layers[0])
    if any(type(layer) is not kind for layer in layers):
        return _together([layer.affine() for layer in layers])
    return kind.affine_of(_stacked(layers))


@torch.no_grad()
def inverse_affine_stack(layers: Sequence[AffineLayer]) -> Affine:
    """The inverses of K layers as `AffineLayer.inverse_affine` gives them, in one go if all are of one class."""
    kind = type(layers[0])
    if any(type(layer) is not kind for layer in layers):
        return _together([layer.inverse_affine() for layer in layers])
    factors = [factor.double() if factor.is_floating_point() else factor for factor in _stacked(layers)]
    return kind.inverse_affine_of(factors).to(torch.float64)


def _stacked(layers: Sequence[AffineLayer]) -> list[Tensor]:
    """Each factor of all layers, (K, ...)."""
    return [torch.stack(factors) for factors in zip(*(layer.factors() for layer in layers), strict=True)]


def _together(maps: Sequence[Affine]) -> Affine:
    return Affine(*(torch.stack(parts) for parts in zip(*(each.dense() for each in maps), strict=True)))


def mix(x_BCHW: Tensor, matrix_CC: Tensor, offset_C: Tensor) -> Tensor:
    """A x + c at every position: planes, made without a copy from planes."""
    x_CBHW = x_BCHW.transpose(0, 1)
    mixed_CN = torch.addmm(offset_C[:, None], matrix_CC, x_CBHW.flatten(1))
    return mixed_CN.view(x_CBHW.shape).transpose(0, 1)
