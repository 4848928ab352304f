"""Exported likelihoods, run by onnxruntime and by torch.export, against the model's own."""

import pytest
import torch
from scipy.special import ndtri

from glow import GlowConfig, load_dataset, load_pretrained, uniform_noise
from glow.errors import CheckpointError
from glow.export import ExportRefused, _normal_quantile, export
from glow.model import Glow
from glow.pretrained import NAMES
from tests.glow.flows import random_images, small_glow

TOLERANCE = 1e-4  # nats per dimension

CONFIGS = [
    {},
    {"permutation": "shuffle", "coupling": "spline"},
    {"coupling": "additive", "bits": 5},
    {"dequantization": "variational", "network": "residual"},
    {"input": "logit", "scale": "floored", "checkerboard": 2},
    {"network": "attention", "num_classes": 3, "permutation": "reverse"},
]


def trained(**changes):
    glow = small_glow(**changes).float()
    glow.initialized.fill_(True)
    return glow


def by_onnx(file):
    session = pytest.importorskip("onnxruntime").InferenceSession(str(file))

    def log_prob(images, noise):
        return torch.tensor(session.run(None, {"images": images.numpy(), "noise": noise.numpy()})[0])

    return log_prob


def by_torch(file):
    return torch.export.load(file).module()


def largest_difference(glow, log_prob, images):
    noise = uniform_noise(torch.arange(len(images)), glow.config.image_shape)
    with torch.no_grad():
        ours = glow.log_prob(images, noise_BCHW=noise)
    return ((log_prob(images, noise) - ours).abs().max() / glow.config.dimensions).item()


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_a_program_of_torch_gives_the_likelihoods_of_any_batch(changes, tmp_path):
    glow = trained(**changes)
    export(glow, tmp_path / "glow.pt2")
    for n in (1, 2, 5):
        images = random_images(n, glow.config.image_shape)
        assert largest_difference(glow, by_torch(tmp_path / "glow.pt2"), images) < TOLERANCE


@pytest.mark.slow  # onnxscript takes half a minute to convert all
@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_onnx_gives_the_likelihoods_of_any_batch(changes, tmp_path):
    pytest.importorskip("onnxscript")
    glow = trained(**changes)
    export(glow, tmp_path / "glow.onnx")
    for n in (1, 2, 5):
        images = random_images(n, glow.config.image_shape)
        assert largest_difference(glow, by_onnx(tmp_path / "glow.onnx"), images) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_onnx_of_a_pretrained_model_gives_the_likelihoods_of_a_thousand_images(name, tmp_path):
    pytest.importorskip("onnxscript")
    glow = load_pretrained(name)
    try:
        images, _ = load_dataset(name, "test", download=False)
    except Exception:
        pytest.skip(f"{name} is not on this machine")
    export(glow, tmp_path / "glow.onnx")
    assert largest_difference(glow, by_onnx(tmp_path / "glow.onnx"), images[:1000]) < TOLERANCE


def test_the_inverse_normal_for_onnx_is_right_over_its_whole_range():
    low = torch.logspace(-25, -1, 10_000, base=2, dtype=torch.float64)
    p = torch.cat([low, 1 - low[low > 2**-24]])
    torch.testing.assert_close(_normal_quantile(p), torch.tensor(ndtri(p.numpy())), rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("name", ["glow", "glow.bin", "glow.onnx.gz"])
def test_a_file_of_no_known_format_is_refused(name, tmp_path):
    with pytest.raises(ExportRefused, match=r"end it in \.onnx or \.pt2"):
        export(trained(), tmp_path / name)


def test_an_untrained_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="never trained"):
        export(Glow(GlowConfig(image_shape=(1, 8, 8), levels=1, depth=1, width=4)), tmp_path / "glow.pt2")


def test_onnx_without_its_packages_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("glow.export.find_spec", lambda name: None)
    with pytest.raises(ExportRefused, match=r"install glowctl\[onnx\]"):
        export(trained(), tmp_path / "glow.onnx")
