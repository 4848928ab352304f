"""`glowctl pack` and `glowctl data` as a user runs them, and a training and scores on a packed data set."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from glow.datasets import load_dataset, open_dataset
from tests.jobs.command_line import Running, alive, check_quiet, glowctl, wait_until
from tests.jobs.training.test_train import best_weights, results, run_id_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SIZE = 16


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Write a folder of PNG and JPEG files in two classes."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for index in range(240):
        place = folder / ("cat" if index % 2 else "dog")
        place.mkdir(exist_ok=True)
        pixels = draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{index:03}.{'png' if index % 3 else 'jpg'}")
    return folder


@pytest.fixture(scope="module")
def packed(photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    flags = ("--image-size", str(SIZE), "--shard-size", "50", "--json")
    done = glowctl(folder, "pack", f"folder:{photos}", "set", *flags)
    check_quiet(done)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["event"] == "packed"
    assert sum(events[-1]["images"].values()) == 240
    progress = [event["images"] for event in events if event["event"] == "packing"]
    assert progress == sorted(progress)
    assert progress[-1] == 240
    return folder / "set"


def test_packed_images_equal_those_of_the_folder(photos, packed):
    for split in ("train", "validation", "test"):
        images, labels = load_dataset(f"packed:{packed}", split)
        expected, expected_labels = load_dataset(f"folder:{photos}", split, image_shape=(3, SIZE, SIZE))
        assert torch.equal(images, expected)
        assert torch.equal(labels, expected_labels)
    assert {path.suffix for path in packed.iterdir()} == {".npy", ".json"}
    assert not list(packed.glob("*.npy.json"))


def test_it_is_shown_and_drawn(packed, tmp_path):
    done = glowctl(tmp_path, "data", str(packed), "--json")
    check_quiet(done)
    said = json.loads(done.stdout)
    assert said["class_names"] == ["cat", "dog"]
    assert said["left_out"] == 0
    assert said["source"].startswith("folder:")
    assert Image.open(tmp_path / "contact-sheet.png").size[0] >= 640
    assert "fingerprint" in glowctl(tmp_path, "data", f"packed:{packed}").stdout


@pytest.mark.nightly
def test_a_packing_that_was_killed_continues_and_has_the_same_result(photos, packed, tmp_path):
    command = ("pack", f"folder:{photos}", "set", "--image-size", str(SIZE), "--shard-size", "4", "--workers", "1")
    running = Running(tmp_path, *command)
    wait_until(lambda: len(list((tmp_path / "set").glob("*.npy.json"))) >= 3, every=0.01)
    family = running.family()
    running.process.kill()
    running.wait()
    wait_until(lambda: not alive(family), timeout=60)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "set").glob("train-0*.npy")}
    assert not (tmp_path / "set" / "packed.json").exists()
    done = glowctl(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    kept = [
        path.name
        for path in (tmp_path / "set").glob("train-0*.npy")
        if path.stat().st_mtime_ns == before.get(path.name)
    ]
    assert len(kept) >= 2
    for split in ("train", "validation", "test"):
        one, other = (open_dataset(f"packed:{place}", split) for place in (packed, tmp_path / "set"))
        assert torch.equal(one.images(), other.images())
        assert torch.equal(one.labels, other.labels)
    assert not list((tmp_path / "set").glob("*.part"))


def test_training_and_scoring_read_packed_images_from_their_files(packed, tmp_path):
    """The model is the one that the library trains on the same images in memory."""
    dataset = f"packed:{packed}"
    flags = ("--preset", "smoke", "--dataset", dataset, "--epochs", "2", "--batch-size", "32", "--cpus-per-worker", "1")
    mapped = glowctl(tmp_path, "train", *flags, "--run-name", "mapped", "--images-in", "files")
    check_quiet(mapped)
    assert f"read from packed:{packed}" in mapped.stdout
    found = load_file(results(tmp_path, run_id_of(mapped.stdout.splitlines())) / "checkpoint" / "model.safetensors")
    expected = best_weights({"dataset": dataset, "epochs": 2, "batch_size": 32})
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name].numpy(), expected[name]) for name in expected)
    scored = glowctl(tmp_path, "nll", "--model", "mapped", "--split", "train")
    check_quiet(scored)
    assert "(scored by run " in scored.stdout  # found by the fingerprint from packing
