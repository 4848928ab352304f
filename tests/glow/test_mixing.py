"""Compare the composed ActNorms and permutations of a level with the layers one after the other."""

from typing import Any

import pytest
import torch

from glow import Glow, GlowConfig
from glow.layers import mix, mixing, unmixing
from glow.levels import Level
from tests.glow.flows import gradients, perturb

PERMUTATIONS = ["1x1", "shuffle", "reverse"]


def level(permutation: Any) -> Level:
    config = GlowConfig(image_shape=(2, 8, 8), levels=1, depth=3, width=8, permutation=permutation)
    (only,) = perturb(Glow(config)).double().levels
    return only


def images(n: int = 3) -> torch.Tensor:
    return torch.randn(n, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("permutation", PERMUTATIONS)
def test_a_level_and_its_gradients_are_those_of_its_layers_one_after_the_other(permutation):
    flow = level(permutation)
    x, log_det = flow.squeeze(images())
    for step in flow.steps:
        for layer in filter(None, (step.actnorm, step.permutation, step.coupling)):
            x, more = layer(x)
            log_det = log_det + more
    z, folded_log_det = flow(images())
    torch.testing.assert_close(z, x, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(folded_log_det, log_det, atol=1e-10, rtol=1e-10)
    folded_log_det.sum().backward()
    folded = gradients(flow)
    flow.zero_grad()
    log_det.sum().backward()
    for name, gradient in gradients(flow).items():
        torch.testing.assert_close(gradient, folded[name], atol=1e-9, rtol=1e-9, msg=name)


@pytest.mark.parametrize("permutation", PERMUTATIONS)
def test_unmixing_undoes_mixing(permutation):
    flow = level(permutation)
    stages = [[getattr(step, name) for step in flow.steps] for name in ("actnorm", "permutation")]
    matrices, offsets, _ = mixing(stages)
    back, back_offsets = unmixing(stages)
    x = flow.squeeze(images())[0]
    for index in range(len(flow.steps)):
        y = mix(x, matrices[index], offsets[index])
        torch.testing.assert_close(mix(y, back[index], back_offsets[index]), x, atol=1e-10, rtol=1e-10)
