r"""What the affine layers of a step come to together, for all steps of a level at once.

ActNorm and the channel permutation are both affine in the channels of a position, so a step's pair is one map
:math:`x \mapsto A x + c`. The matrices are small and there are many of them: made for a level in one go they cost next
to nothing, made a step at a time as much as a coupling of a narrow network.

Shapes: K steps, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from glow.layers.affine import Affine, AffineLayer, affine_stack, inverse_affine_stack

__all__ = ["mixing", "unmixing"]

Stage = Sequence[AffineLayer]
"""The layers at one place of each of the K steps, such as their ActNorms."""


def mixing(stages: Sequence[Stage]) -> Affine:
    """The map of each step, a stack of K: its layers one after the other, the first stage first."""
    first, *others = (affine_stack(stage) for stage in stages)
    for then in others:
        first = then.to(first.matrix.dtype).after(first)
    return first.dense()


def unmixing(stages: Sequence[Stage]) -> tuple[Tensor, Tensor]:
    """The A (K, C, C) and c (K, C) of the inverse of each step, in float64 and without a gradient."""
    last, *others = (inverse_affine_stack(stage) for stage in reversed(stages))
    for then in others:
        last = then.after(last)
    matrix_KCC, offset_KC, _ = last.dense()
    return matrix_KCC, offset_KC
