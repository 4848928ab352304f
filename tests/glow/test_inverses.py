"""Inverses in float32, the type in which models are trained and sampled, on real images."""

from copy import deepcopy
from typing import Any

import pytest
import torch

from glow import load_dataset, uniform_noise
from tests.glow.flows import rounding_error, small_glow

MODELS: dict[str, dict[str, Any]] = {
    "logit": {"input": "logit"},
    "spline": {"coupling": "spline"},
    "floored": {"scale": "floored"},
    "variational": {"dequantization": "variational"},
    "checkerboard": {"checkerboard": 2},
    "residual": {"network": "residual"},
    "attention": {"network": "attention", "checkerboard": 1},
    "no ActNorm": {"actnorm": "off", "permutation": "shuffle"},
    "laptop": {"input": "logit", "dequantization": "variational", "checkerboard": 2, "network": "residual"},
}

SD = 0.05
"""How far the weights are from those of a new model. Far enough that every layer does something; with weights twice as
far away, models of logits stretch so much that float32 cannot invert them."""

ERRORS = 20
"""How many times the rounding error of the latents the inverse may be off. Forward and inverse round after each of
their layers, of which there are eight each, and each of these errors is magnified about as much as that of the
latents."""


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("model", MODELS)
def test_float32_inverts_real_images(model, seed):
    glow = small_glow(SD, width=16, seed=seed, **MODELS[model])
    images = load_dataset("digits", "test")[0][:8]
    noise = uniform_noise(torch.arange(8), glow.config.image_shape, seed)
    x, _ = glow.dequantize(images, noise)
    assert x.dtype == torch.float32
    latents, _ = glow(x)
    error = (glow.inverse(latents) - x).abs().flatten(1).amax(1)
    with torch.enable_grad():  # for the Jacobian, to which float64 adds no errors that count
        bound = rounding_error(deepcopy(glow).double(), [z.double() for z in latents], torch.float32)
    # The images themselves have values up to 1/2, so that their own rounding is an error of up to eps.
    assert (error <= ERRORS * bound + torch.finfo(torch.float32).eps).all()
    # Half a grey level would be another image, so that the bound above says something.
    assert (ERRORS * bound < 0.5 / 256).all()
