"""The bare convolutions: those of a Glow's coupling networks with their ReLUs, and nothing else of the model.

They are the largest speed that a Glow could have if it used torch's own convolutions and everything else took no time:
weights already have the precision, inputs have channels last, and nothing is cast, summed or updated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from glow import GlowConfig
from glow.model import Precision

__all__ = ["BareConvolutions"]


class BareConvolutions(nn.Module):
    """The coupling networks of a Glow, each with a batch of random inputs of the right shape."""

    def __init__(self, config: GlowConfig, precision: Precision, batch: int) -> None:
        super().__init__()
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        like: dict[str, Any] = {"dtype": dtype, "memory_format": torch.channels_last}
        self.networks = nn.ModuleList()
        self.inputs: list[Tensor] = []
        self.gradients: list[Tensor] = []
        channels, height, width = config.image_shape
        for _ in range(config.levels):
            channels, height, width = 4 * channels, height // 2, width // 2
            half = channels // 2
            for _ in range(config.depth):
                self.networks.append(_network(half, 2 * half, config.width).to(**like))
                self.inputs.append(torch.randn(batch, half, height, width).to(**like).requires_grad_())
                self.gradients.append(torch.randn(batch, 2 * half, height, width).to(**like))
            channels = half

    def forward(self) -> list[Tensor]:
        """Return the output of every network."""
        return [network(x) for network, x in zip(self.networks, self.inputs, strict=True)]

    def train_step(self) -> None:
        """Compute the outputs, and the gradients of all weights and inputs."""
        self.zero_grad(set_to_none=True)
        for x in self.inputs:
            x.grad = None
        torch.autograd.backward(self(), self.gradients)

    @torch.no_grad()
    def score(self) -> None:
        """Compute the outputs without gradients."""
        for network, x in zip(self.networks, self.inputs, strict=True):
            network(x)


def _network(in_channels: int, out_channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, out_channels, 3, padding=1),
    )
