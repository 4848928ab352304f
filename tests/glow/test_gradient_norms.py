"""Gradient norms by layer: against autograd, one image at a time, in score tables, and as a detector."""

import numpy as np
import pandas as pd
import pytest
import torch

from glow import Glow, GlowConfig, score, uniform_noise
from glow.gradient_norms import gradient_layers, gradient_norms
from glow.ood import fit_detectors
from tests.glow.flows import perturb

SHAPE = (1, 8, 8)
VARIANTS = [
    {},
    {"permutation": "shuffle", "coupling": "additive"},
    {"input": "logit", "dequantization": "variational", "num_classes": 3},
    {"coupling": "spline", "scale": "floored"},
    {"checkerboard": 2, "network": "residual"},
    {"network": "attention"},
    {"actnorm": "off", "permutation": "reverse"},
]


@pytest.fixture(params=VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())) or "default")
def model(request):
    made = Glow(GlowConfig(image_shape=SHAPE, levels=2, depth=2, width=8, **request.param))
    made.initialize(images(16))
    return perturb(made)


def images(n, seed=0):
    return torch.randint(0, 256, (n, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_they_are_the_squared_norms_of_the_gradient_of_each_image(model):
    norms = gradient_norms(model, images(3), uniform_noise(torch.arange(3), SHAPE))
    layers = gradient_layers(model)
    for i in range(3):
        model.zero_grad()
        model.log_prob(images(3)[i : i + 1], noise_BCHW=uniform_noise(torch.tensor([i]), SHAPE)).sum().backward()
        for layer, norm in zip(layers, norms[i], strict=True):
            own = [p.grad for name, p in model.named_parameters() if name.startswith(f"{layer}.")]
            expected = sum(float(grad.double().square().sum()) for grad in own if grad is not None)
            assert norm.item() == pytest.approx(expected, rel=1e-4)
    names = {name for name, _ in model.named_parameters()}
    assert all(sum(name.startswith(f"{layer}.") for layer in layers) == 1 for name in names)


def test_gradients_of_the_model_stay_as_they_were(model):
    gradient_norms(model, images(2), uniform_noise(torch.arange(2), SHAPE))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_score_table_has_them_for_every_nth_image_of_the_split(model):
    table = score(model, images(7), gradient_stride=3, batch_size=4)
    columns = [f"gradient_{layer + 1}" for layer in range(len(gradient_layers(model)))]
    assert table[columns].notna().all(axis=1).tolist() == [True, False, False, True, False, False, True]
    assert table[columns[0]].dropna().tolist() == pytest.approx(
        gradient_norms(model, images(7)[::3], uniform_noise(torch.tensor([0, 3, 6]), SHAPE))[:, 0].tolist(), rel=1e-5
    )
    assert list(score(model, images(2)).filter(regex="^gradient")) == []
    part = score(model, images(7)[5:], indices_N=torch.arange(5, 7), gradient_stride=3)
    pd.testing.assert_frame_equal(part.reset_index(drop=True), table[5:].reset_index(drop=True), rtol=1e-4)


def table_of(logs, known=None):
    """Return a score table of images whose likelihoods tell nothing, with gradient norms of these logarithms."""
    random = np.random.default_rng(1)
    n = len(logs)
    names = ["nll", "log_det", "log_prior_1", "log_det_1", "complexity", "latent_anderson", "latent_spectrum"]
    names += ["latent_neighbours", "latent_power_1", "latent_rows_1", "latent_columns_1"]
    table = pd.DataFrame({name: random.normal(10, 1, n) for name in names}).assign(finite=True)
    norms = np.exp(logs)
    if known is not None:
        norms = np.where(known[:, None], norms, np.nan)
    return table.assign(**{f"gradient_{layer + 1}": norms[:, layer] for layer in range(logs.shape[1])})


def test_the_detector_is_the_density_of_the_logarithms():
    random = np.random.default_rng(0)
    mean, deviation = np.array([0.0, 5.0, -3.0]), np.array([1.0, 0.1, 2.0])
    known = np.arange(6000) % 3 == 0
    train = table_of(mean + deviation * random.normal(size=(6000, 3)), known)
    [detector] = [each for each in fit_detectors(train) if each.name == "gradients"]
    z = random.normal(size=(500, 3))
    scores = detector.image_scores(table_of(mean + deviation * z))
    assert scores == pytest.approx((z**2).sum(1) / 2, rel=0.15, abs=0.1)
    held_out = table_of(mean + deviation * random.normal(size=(1000, 3)))
    test = detector.fit(held_out, batch_size=1, alpha=0.95)
    assert test.is_ood(scores[:, None]).mean() == pytest.approx(0.05, abs=0.03)
    far = detector.image_scores(table_of(mean + deviation * (z + np.array([0, 6, 0]))))
    assert test.is_ood(far[:, None]).mean() > 0.95
    assert detector.image_scores(held_out.assign(finite=False)).min() == np.inf


def test_there_is_no_such_detector_without_the_columns():
    train = table_of(np.zeros((60, 0)))
    assert "gradients" not in [detector.name for detector in fit_detectors(train)]
