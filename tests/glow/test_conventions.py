"""docs/format.md is complete: `tests.glow.reference` was written from it, and computes the same."""

import itertools
import json

import numpy as np
import pytest
import torch

from glow import Glow, GlowConfig, save_checkpoint, score
from glow.dequantization import uniform_noise
from tests.glow import reference

COUPLINGS = [
    ("affine", "sigmoid"),
    ("affine", "floored"),
    ("affine", "bounded"),
    ("additive", "sigmoid"),
    ("spline", "sigmoid"),
]
"""Each with its scale."""

PAIRS = [
    (permutation, coupling, scale, *others)
    for (permutation, (coupling, scale)), others in zip(
        itertools.product(["1x1", "shuffle", "reverse"], COUPLINGS),
        itertools.cycle(
            [
                ("linear", "uniform", None, 8, 2, 0, "plain", "on"),
                ("logit", "variational", 3, 5, 1, 2, "residual", "off"),
                ("logit", "uniform", 3, 8, 3, 0, "residual", "on"),
                ("linear", "variational", None, 5, 2, 3, "plain", "off"),
                ("logit", "variational", None, 8, 2, 1, "attention", "on"),
            ]
        ),
    )
]
"""Every permutation with every coupling, and each of the other settings with several of both."""


def perturbed(
    tmp_path, permutation, coupling, scale, input, dequantization, classes, bits, levels, board, network, actnorm
):
    """A float64 model whose weights are away from zero, the reference of its checkpoint, and 12 images with classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8, generator=generator)
    images[0], images[1] = 0, 255
    config = GlowConfig(
        image_shape=(3, 8, 8), levels=levels, depth=2, width=8, permutation=permutation, coupling=coupling, scale=scale,
        input=input, dequantization=dequantization, num_classes=classes, bits=bits, checkerboard=board,
        network=network, actnorm=actnorm,
    )  # fmt: skip
    model = Glow(config)
    model.initialize(images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    model = model.double()
    save_checkpoint(model, tmp_path)
    return model, reference.load(tmp_path), images, torch.arange(12) % 3


@pytest.mark.parametrize("settings", PAIRS, ids=lambda settings: "-".join(map(str, settings)))
@torch.no_grad()
def test_a_reference_from_the_document_computes_the_same(tmp_path, settings):
    model, second, images, labels = perturbed(tmp_path, *settings)
    seed, indices = 7 + 3 * 2**52, torch.arange(12)
    noise = uniform_noise(indices, (3, 8, 8), seed)
    torch.testing.assert_close(noise.double(), reference.noise(range(12), (3, 8, 8), seed), rtol=0, atol=0)
    expected = second.log_likelihood(images, range(12), seed)
    torch.testing.assert_close(model.log_prob(images, None, noise.double()), expected, rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(-score(model, images, seed=seed).nll, expected, rtol=1e-9)
    if model.config.num_classes:
        labelled = second.log_likelihood(images, range(12), seed, labels)
        torch.testing.assert_close(model.log_prob(images, labels, noise.double()), labelled, rtol=1e-9, atol=1e-7)
    latents, log_det = model(images.double() / 256 - 0.5 + noise / 256)
    found, second_log_det, _ = second.forward(images.double() / 256 - 0.5 + noise / 256)
    torch.testing.assert_close(log_det, second_log_det, rtol=1e-9, atol=1e-7)
    for latent, other in zip(latents, found, strict=True):
        torch.testing.assert_close(latent, other, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(model.inverse(latents), second.inverse(latents), rtol=1e-6, atol=1e-6)
    drawn = model.sample(4, temperature=0.7, generator=torch.Generator().manual_seed(5)).int()
    again = second.sample(4, 0.7, torch.Generator().manual_seed(5)).int()
    step = 2 ** (8 - model.config.bits)  # a value at the edge between two may round to either
    assert (drawn - again).abs().max() <= step
    assert (drawn != again).double().mean() < 1e-3


def test_the_reference_notices_a_wrong_convention(tmp_path):
    model, second, images, _ = perturbed(tmp_path, *PAIRS[0])
    noise = uniform_noise(torch.arange(12), (3, 8, 8), 0).double()
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["permutation"] == "1x1"
    for name in second.t:
        if name.endswith("conv3.logs"):
            second.t[name] = second.t[name] / 3  # exp(logs) in place of exp(3 logs)
    with torch.no_grad():
        difference = model.log_prob(images, None, noise) - second.log_likelihood(images, range(12))
    assert difference.abs().min() > 1e-3
