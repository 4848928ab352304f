"""`glowctl ood --encoder`: features are computed once per image, kept, and become detectors."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from glow.datasets import load_dataset
from glow.encoders import EncoderError, open_encoder
from glow.features import FeatureReferences, features_table
from glow.ood import DETECTORS
from glowctl.display.events import Event, Ood, Scored
from glowctl.errors import JobError, SpecError, explained
from glowctl.estimate.cost import cost_of_evaluation
from glowctl.evaluation import ood, run, scoring
from glowctl.specs.base import validated
from glowctl.specs.evaluation import OodSpec
from glowctl.tracking.runs import find_run
from tests.jobs.command_line import glowctl
from tests.jobs.evaluation.small_model import SHAPE, record_scores, save_model, where
from tests.jobs.trained import train_into

OF_CONTENT = {"features", "mahalanobis", "combined"}


def save_encoder(path, width=6):
    torch.manual_seed(width)
    network = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.13 calls TorchScript deprecated
        torch.jit.save(torch.jit.trace(network, torch.zeros(2, 3, 8, 8)), path)
    return f"file:{path}"


def save_images(folder, names, noise=40):
    """Save flat images with some noise as arrays: 120 to train on, 60 held out, and 60 to test on."""
    rng = np.random.default_rng(noise)
    folder.mkdir()
    for split, n in names.items():
        flat = rng.integers(40, 200, size=(n, 1, 1, 1)) + rng.integers(-noise, noise, size=(n, *SHAPE))
        np.savez(folder / f"{split}.npz", images=flat.astype(np.uint8), labels=rng.integers(3, size=n))
    return f"arrays:{folder}"


@pytest.fixture
def seen(monkeypatch):
    """The images that encoders see, while this process computes what workers would."""
    images: list[bytes] = []

    def here(encoder, tables, resources, machines, show):
        for table in tables:
            shard = table.images.images()
            images.extend(image.numpy().tobytes() for image in shard)
            features = encoder.features(shard)
            yield scoring.Scored(table, table.of_these_images(features_table(features)), None)

    monkeypatch.setattr(run, "score_on_ray", here)
    monkeypatch.setattr(run, "resources_for", lambda *args: None)
    monkeypatch.setattr(run, "waiting", lambda resources: None)
    return images


@pytest.fixture
def given(tmp_path):
    """Settings of `ood` with an encoder of 24 features, for a model in `tmp_path`/model."""
    return {
        "model": str(tmp_path / "model"),
        "trained_on": save_images(tmp_path / "own", {"train": 120, "validation": 60, "test": 60}),
        "ood_datasets": save_images(tmp_path / "other", {"test": 60}, noise=5),
        "batch_sizes": "1,3",
        "alpha": 0.9,
        "bootstraps": 100,
        "encoder": save_encoder(tmp_path / "encoder.pt"),
        "encoder_size": 8,
        **where(tmp_path),
    }


@pytest.fixture
def tested(tmp_path, seen):
    """A function that runs `ood` with some settings; all scores of the model are there before."""
    model = save_model(tmp_path / "model")

    def test(settings):
        record_scores(ood.prepare(validated(OodSpec, settings)).evaluation, model, "earlier")
        events: list[Event] = []
        result = ood.run(ood.prepare(validated(OodSpec, settings)), events.append)
        return pd.DataFrame(result.rows), events

    return test


def missing_features(settings):
    features = ood.prepare(validated(OodSpec, settings)).evaluation.features
    assert features is not None
    return len(features.missing)


@pytest.mark.slow
def test_features_are_never_computed_twice(given, tested, seen, tmp_path):
    """Not in one job whose data sets share images, nor in a later one, of another model, with another seed."""
    same = save_images(tmp_path / "same", {"test": 60}, noise=5)
    _, first = tested(given | {"ood_datasets": f"{given['ood_datasets']},{same}"})
    assert len(seen) == 120 + 60 + 60 + 60 + 8 * 60  # the last are corrupted held-out images
    by_encoder = [event for event in first if isinstance(event, Scored) and event.encoder]
    assert {event.from_run for event in by_encoder} == {None}
    before = len(seen)
    _, again = tested(given | {"seed": 1, "batch_sizes": "2"})
    corrupted_anew = 8 * 60  # the seed is that of the corruptions, too
    assert len(seen) == before + corrupted_anew
    save_model(tmp_path / "second", seed=3)
    settings = given | {"model": str(tmp_path / "second")}
    assert missing_features(settings) == 0
    assert len(seen) == before + corrupted_anew
    found = {event.dataset: event.from_run for event in again if isinstance(event, Scored) and event.encoder}
    assert found["arrays-own"] == found["arrays-other"] == next(e.run_id for e in first if isinstance(e, Ood))
    other = given | {"encoder": save_encoder(tmp_path / "other.pt", width=7)}
    assert missing_features(other) == 5  # another encoder shares nothing


@pytest.mark.slow
def test_detectors_of_content_are_tested_recommended_and_recorded(given, tested):
    ratios, events = tested(given)
    assert set(ratios["detector"]) >= OF_CONTENT
    (end,) = (event for event in events if isinstance(event, Ood))
    recorded = find_run(given["tracking_uri"], "glow", end.run_id)
    assert given["encoder"] in recorded.data.tags["glow.notes"]
    assert "resized to 8x8 (bilinear), mean (0.485, 0.456, 0.406)" in recorded.data.tags["glow.notes"]
    spec = json.loads(recorded.data.tags["glow.spec"])
    assert (spec["encoder"], spec["encoder_size"]) == (given["encoder"], 8)
    assert recorded.data.metrics["features/auroc/arrays-other/M3"] == pytest.approx(
        ratios.query("detector == 'features' and dataset == 'arrays-other' and batch_size == 3")["auroc"].item()
    )


@pytest.mark.slow
def test_of_many_training_images_only_some_are_references(given, tested, seen):
    ratios, _ = tested(given | {"encoder_references": 50})
    assert len(seen) == 50 + 60 + 60 + 60 + 8 * 60
    shares = ratios.query("detector in @OF_CONTENT and dataset == 'arrays-own' and batch_size == 1")["ratio"]
    assert (shares <= 0.1 + 3 * (0.09 * (1 / 60 + 1 / 60)) ** 0.5).all()


@pytest.mark.slow
def test_thresholds_from_a_part_of_the_test_set_serve_them_too(given, tested):
    ratios, _ = tested(given | {"protocol": "split-test"})
    assert set(ratios["detector"]) >= OF_CONTENT


@pytest.mark.slow
def test_without_an_encoder_nothing_changes(given, tested, seen):
    ratios, events = tested({name: value for name, value in given.items() if "encoder" not in name})
    assert seen == []
    assert not OF_CONTENT & set(ratios["detector"])
    assert len(set(ratios["detector"]) & set(DETECTORS)) == len(DETECTORS) - len(OF_CONTENT) - 2
    assert not [event for event in events if isinstance(event, Scored) and event.encoder]


def test_an_estimate_does_not_leave_features_out(given, tmp_path):
    save_model(tmp_path / "model")
    with pytest.raises(JobError) as caught:
        cost_of_evaluation(ood.prepare(validated(OodSpec, given)).evaluation)
    assert caught.value.code == "encoder-not-estimated"
    assert "--encoder" in caught.value.remedy


def test_weights_that_are_missing_are_asked_for_in_words_of_the_command_line(given, tmp_path, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    save_model(tmp_path / "model")
    with pytest.raises(EncoderError) as caught:
        ood.prepare(validated(OodSpec, given | {"encoder": "timm:mobilenetv4_conv_blur_medium"}))
    shown = explained(caught.value)
    assert shown.code == "encoder-weights-missing"
    assert "--encoder-download" in shown.remedy
    assert "--encoder-weights" in shown.remedy


@pytest.mark.ray
@pytest.mark.slow
def test_workers_compute_the_features_of_the_library(tmp_path):
    train_into(tmp_path, per_class=60)
    asked = ("--encoder", save_encoder(tmp_path / "encoder.pt"), "--encoder-size", "8", "--batch-sizes", "1")
    done = glowctl(tmp_path, "ood", *asked, "--ood-datasets", "noise", "--json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    rows = [row for row in events[-1]["rows"] if row["detector"] == "features" and row["dataset"] == "noise"]
    digits, labels = load_dataset("digits", "train")
    train = digits[[position for digit in range(10) for position in np.flatnonzero(labels == digit)[:60]]]
    encoder = open_encoder(asked[1], size=8)
    own, noise = (load_dataset(name, "test", image_shape=SHAPE)[0] for name in ("digits", "noise"))
    references = FeatureReferences.fit(encoder.features(train))
    near, far = (references.from_neighbour(encoder.features(images)) for images in (own, noise))
    expected = roc_auc_score(np.r_[np.zeros(len(near)), np.ones(len(far))], np.r_[near, far])
    assert [row["auroc"] for row in rows] == [pytest.approx(expected, abs=1e-4)]  # batches round float16 otherwise
    again = glowctl(tmp_path, "ood", *asked, "--ood-datasets", "noise", "--cpus-per-worker", "999", "--json")
    assert again.returncode == 0, again.stderr  # no worker of 999 cores was asked for


@pytest.mark.parametrize("name", ["resnet18", "timm:", "hub:resnet18", "file"])
def test_a_name_of_no_library_is_refused_before_anything_is_opened(name):
    with pytest.raises(SpecError, match=r"--encoder must be timm:NAME, torchvision:NAME or file:PATH") as caught:
        validated(OodSpec, {"encoder": name})
    assert caught.value.code == "setting-not-allowed"


def test_settings_of_an_encoder_need_one(tmp_path):
    done = glowctl(tmp_path, "ood", "--encoder-size", "64")
    assert done.returncode == 2
    assert "--encoder-size" in done.stderr
    assert "--encoder" in done.stderr
