"""The levels of a Glow: a squeeze, then steps of flow. The checkerboard couplings at full resolution are a level too.

Shapes: B images, C channels, H rows, W columns, K steps of flow per level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from glow.config import GlowConfig, Normalization
from glow.layers import (
    ActNorm,
    AffineLayer,
    Checkerboard,
    CheckerboardCoupling,
    CouplingLayer,
    FixedPermutation,
    Layer,
    Split,
    Squeeze,
    as_planes,
    make_permutation,
    mix,
    mixing,
    network_kind,
    unmixing,
)
from glow.reversible import reversible_steps


class Step(nn.Module):
    """One step of flow: ActNorm -> channel permutation -> coupling (Kingma & Dhariwal 2018, figure 2a).

    `Level` computes `affine_layers` of all its steps together, so this class has no forward.

    Args:
        channels: C, of the input and the output.
        permutation: the channel permutation.
        coupling: the coupling layer.
        actnorm: whether the step begins with an ActNorm.

    Examples:
        >>> coupling = CouplingLayer(4, width=8, coupling="affine", scale="sigmoid")
        >>> step = Step(4, make_permutation("reverse", 4, torch.Generator()), coupling)
        >>> step.initialize(torch.randn(2, 4, 3, 3)).shape
        torch.Size([2, 4, 3, 3])
    """

    def __init__(
        self, channels: int, permutation: AffineLayer, coupling: CouplingLayer, actnorm: Normalization = "on"
    ) -> None:
        super().__init__()
        self.actnorm = ActNorm(channels) if actnorm == "on" else None
        self.permutation = permutation
        self.coupling = coupling

    @property
    def affine_layers(self) -> list[AffineLayer]:
        """The layers before the coupling, in forward order."""
        return [layer for layer in (self.actnorm, self.permutation) if layer is not None]

    def initialize(self, x_BCHW: Tensor) -> Tensor:
        """Initialize each layer from a batch, and return the step's output for this batch."""
        layers: list[Layer] = [*self.affine_layers, self.coupling]
        for layer in layers:
            x_BCHW = layer.initialize(x_BCHW)
        return x_BCHW


class Level(Layer):
    """One scale of a Glow: a squeeze, then K steps of flow (Kingma & Dhariwal 2018, figure 2b).

    (B, C, H, W) -> (B, 4C, H/2, W/2).

    Args:
        squeeze: the first layer, which gives the steps their channels.
        steps: the K steps, in forward order.
        split: the split at the end of the level; None at the top level.

    Attributes:
        split: the split at the end of the level, which `Glow` applies; None at the top level.
        reversible: whether the steps compute their activations again for the gradient, in place of storing them.

    Examples:
        >>> config = GlowConfig(image_shape=(1, 8, 8), levels=1, depth=2, width=8)
        >>> level = Level.make(0, config, torch.Generator())
        >>> x = torch.randn(2, 1, 8, 8)
        >>> z, log_det = level(x)
        >>> z.shape, torch.allclose(level.inverse(z), x, atol=1e-5)
        (torch.Size([2, 4, 4, 4]), True)
    """

    steps: Sequence[Step]
    """The K steps, in forward order."""

    def __init__(self, squeeze: Layer, steps: Sequence[Step], split: Split | None) -> None:
        super().__init__()
        self.squeeze = squeeze
        self.register_module("steps", nn.ModuleList(steps))
        self.split = split
        self.reversible = False

    @classmethod
    def make(cls, level: int, config: GlowConfig, generator: torch.Generator) -> Level:
        """Make the level of a Glow with an index from 0 on; `generator` draws the permutations."""
        squeezed, is_top = 4 * 2**level * config.image_shape[0], level == config.levels - 1
        _, height, width = config.latent_shapes[level]
        network = network_kind(config.network, (height, width), config.heads)
        steps = [
            Step(
                squeezed,
                make_permutation(config.permutation, squeezed, generator),
                CouplingLayer(squeezed, config.width, config.coupling, config.scale, network),
                config.actnorm,
            )
            for _ in range(config.depth)
        ]
        return cls(Squeeze(), steps, None if is_top else Split(squeezed))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output (B, 4C, H/2, W/2), before the split, and the log-det (B,) in nats."""
        x_BCHW, log_det_B = self.squeeze(x_BCHW)
        x_BCHW = as_planes(x_BCHW)
        matrices, offsets, log_det_K = mixing(self._stages()).to(x_BCHW.dtype)
        _, _, height, width = x_BCHW.shape
        log_det_B = log_det_B + height * width * log_det_K.sum()
        mixers = zip(matrices.unbind(), offsets.unbind(), strict=True)
        couplings = [step.coupling for step in self.steps]
        if self.reversible and torch.is_grad_enabled():
            unmixers = zip(*self._unmixing(x_BCHW.dtype), strict=True)
            return reversible_steps(x_BCHW, log_det_B, zip(couplings, mixers, unmixers, strict=True))
        for coupling, mixer in zip(couplings, mixers, strict=True):
            x_BCHW, step_log_det_B = coupling(mix(x_BCHW, *mixer))
            log_det_B = log_det_B + step_log_det_B
        return x_BCHW, log_det_B

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        """Return the input (B, C, H, W) whose output is `z_BCHW` (B, 4C, H/2, W/2)."""
        z_BCHW = as_planes(z_BCHW)
        matrices, offsets = self._unmixing(z_BCHW.dtype)
        for step, matrix, offset in zip(reversed(self.steps), matrices.flip(0), offsets.flip(0), strict=True):
            z_BCHW = mix(step.coupling.inverse(z_BCHW), matrix, offset)
        return self.squeeze.inverse(z_BCHW)

    def initialize(self, x_BCHW: Tensor) -> Tensor:
        """Initialize the squeeze and each step from a batch, and return the level's output for this batch."""
        x_BCHW = self.squeeze.initialize(x_BCHW)
        for step in self.steps:
            x_BCHW = step.initialize(x_BCHW)
        return x_BCHW

    def _stages(self) -> list[list[AffineLayer]]:
        return [list(stage) for stage in zip(*(step.affine_layers for step in self.steps), strict=True)]

    def _unmixing(self, dtype: torch.dtype) -> list[Tensor]:
        return [part.to(dtype) for part in unmixing(self._stages())]


class FullResolution(Level):
    """The checkerboard couplings before the first level, as the steps of a level: (B, C, H, W) -> (B, C, H, W).

    Each step normalizes, exchanges the two colours, and transforms one of them, given the other. The networks have half
    of the model's width, because they see four times as many positions as those of the first level.

    Args:
        config: the architecture; its number of checkerboard couplings must be at least 1.

    Examples:
        >>> level = FullResolution(GlowConfig(image_shape=(1, 8, 8), levels=1, width=8, checkerboard=3))
        >>> x = torch.randn(2, 1, 8, 8)
        >>> z, log_det = level(x)
        >>> z.shape, torch.allclose(level.inverse(z), x, atol=1e-5)
        (torch.Size([2, 1, 8, 8]), True)
    """

    def __init__(self, config: GlowConfig) -> None:
        (channels, *size), width = config.image_shape, max(1, config.width // 2)
        network = network_kind(config.network, (size[0], size[1]), config.heads)
        super().__init__(
            Checkerboard(first=0),
            [
                Step(
                    2 * channels,
                    FixedPermutation(torch.arange(2 * channels).roll(channels)),
                    CheckerboardCoupling(channels, width, config.coupling, config.scale, index % 2, network),
                    config.actnorm,
                )
                for index in range(config.checkerboard)
            ],
            split=None,
        )
        self.join = Checkerboard(first=config.checkerboard % 2)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output (B, C, H, W), and the log-det (B,) in nats."""
        z_BCHW, log_det_B = super().forward(x_BCHW)
        return self.join.inverse(z_BCHW), log_det_B

    def inverse(self, z_BCHW: Tensor) -> Tensor:
        """Return the input (B, C, H, W) whose output is `z_BCHW`."""
        return super().inverse(self.join(z_BCHW)[0])

    def initialize(self, x_BCHW: Tensor) -> Tensor:
        """Initialize each step from a batch, and return the output for this batch."""
        return self.join.inverse(super().initialize(x_BCHW))
