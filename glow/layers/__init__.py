"""The layers and priors that a Glow is built from, one idea per file.

`Layer` is the interface of an invertible layer. A flow step is an `ActNorm`, a channel permutation (`make_permutation`)
and a `CouplingLayer`. `mixing` computes the ActNorms and permutations of all steps of a level together. A level begins
with a `Squeeze`, and ends with a `Split` unless it is the last level. `Logit`, `NoiseFlow` and `CheckerboardCoupling`
are optional and come before the first level; `TopPrior` comes after the last one.

docs/format.md has every formula in one place.
"""

from glow.layers.actnorm import ActNorm
from glow.layers.base import Layer, as_planes, join
from glow.layers.channel_mixing import Affine, AffineLayer, mix, mixing, unmixing
from glow.layers.coupling import Checkerboard, CheckerboardCoupling, CouplingLayer
from glow.layers.inputs import Logit, Unchanged
from glow.layers.networks import (
    AttentionNetwork,
    CouplingNetwork,
    PlainNetwork,
    ResidualNetwork,
    ZeroConv2d,
    network_kind,
)
from glow.layers.noise_flow import NoiseFlow
from glow.layers.permutation import PERMUTATIONS, FixedPermutation, InvertibleConv1x1, make_permutation
from glow.layers.split import Split, Squeeze, TopPrior, gaussian_log_prob

__all__ = [
    "PERMUTATIONS",
    "ActNorm",
    "Affine",
    "AffineLayer",
    "AttentionNetwork",
    "Checkerboard",
    "CheckerboardCoupling",
    "CouplingLayer",
    "CouplingNetwork",
    "FixedPermutation",
    "InvertibleConv1x1",
    "Layer",
    "Logit",
    "NoiseFlow",
    "PlainNetwork",
    "ResidualNetwork",
    "Split",
    "Squeeze",
    "TopPrior",
    "Unchanged",
    "ZeroConv2d",
    "as_planes",
    "gaussian_log_prob",
    "join",
    "make_permutation",
    "mix",
    "mixing",
    "network_kind",
    "unmixing",
]
