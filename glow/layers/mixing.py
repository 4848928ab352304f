"""The composition of the ActNorm and the channel permutation of each step, computed for all steps of a level at once.

Both layers are affine in the channels of a position, so their composition is one affine map z = A x + c. A level has
many such maps with small matrices A. To compute all of them together takes almost no time; to compute them step by step
takes as long as the coupling layers of a narrow network. `glow.levels.Level` uses this file.

Shapes: K steps, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from glow.layers.affine import Affine, AffineLayer, affine_stack, inverse_affine_stack

__all__ = ["mixing", "unmixing"]

Stage = Sequence[AffineLayer]
"""The layers in one place of each of the K steps, such as the ActNorms of all steps."""


def mixing(stages: Sequence[Stage]) -> Affine:
    """Compose the affine layers of each step into one affine map.

    Args:
        stages: at least one stage. A stage holds one layer of each of the K steps, such as all ActNorms; every layer
            has C channels. Each step applies its layer of the first stage first.

    Returns:
        A stack of K maps: matrix (K, C, C), offset (K, C), log_det (K,) in nats. They are differentiable.

    Example:
        >>> import torch
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

    Example:
        >>> import torch
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
