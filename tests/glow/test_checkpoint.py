import json
import subprocess
import sys

import pytest
import torch

from glow import load_checkpoint, save_checkpoint
from glow.checkpoint import CheckpointError, digest_of, load_training_state, save_training_state
from tests.glow.flows import random_images, small_glow
from tests.refusals import refused


def test_a_fresh_process_scores_as_the_one_that_saved(tmp_path):
    """One process for all permutations, since the import of torch takes longest."""
    images, noise = random_images(4), torch.full((4, 1, 8, 8), 0.5)
    torch.save({"images": images, "noise": noise}, tmp_path / "batch.pt")
    expected = {}
    for permutation in ("1x1", "shuffle", "reverse"):
        glow = small_glow(permutation=permutation, num_classes=3)
        glow.initialized.fill_(True)
        save_checkpoint(glow, tmp_path / permutation)
        expected[permutation] = glow.log_prob(images, noise_BCHW=noise).tolist()
    program = """
import json, pathlib, sys, torch
from glow import load_checkpoint
folder = pathlib.Path(sys.argv[1])
batch = torch.load(folder / "batch.pt", weights_only=True)
scores = {}
for permutation in sys.argv[2:]:
    glow = load_checkpoint(folder / permutation)
    assert bool(glow.initialized)
    scores[permutation] = glow.log_prob(batch["images"], noise_BCHW=batch["noise"]).tolist()
print(json.dumps(scores))
"""
    command = [sys.executable, "-c", program, str(tmp_path), *expected]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for permutation, scores in json.loads(done.stdout).items():
        assert scores == pytest.approx(expected.pop(permutation), rel=1e-6)
    assert not expected


def test_no_pickle_is_needed_to_read_a_model(tmp_path):
    save_checkpoint(small_glow(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_missing_checkpoint_is_named(tmp_path):
    with refused("checkpoint-missing", CheckpointError, match=r"config\.json") as missing:
        load_checkpoint(tmp_path)
    assert str(tmp_path) in missing.value.problem
    save_checkpoint(small_glow(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with refused("checkpoint-missing", CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(tmp_path)


def test_truncated_weights_are_named(tmp_path):
    save_checkpoint(small_glow(), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with refused("checkpoint-damaged", CheckpointError) as damaged:
        load_checkpoint(tmp_path)
    assert str(weights) in damaged.value.problem


@pytest.mark.parametrize("text", ["{", '{"depth": 0}', '{"colour": 1}', '{"depth": "many"}', "[1]"])
def test_a_config_that_is_none_is_named(tmp_path, text):
    save_checkpoint(small_glow(), tmp_path)
    (tmp_path / "config.json").write_text(text)
    with refused("checkpoint-damaged", CheckpointError) as damaged:
        load_checkpoint(tmp_path)
    assert str(tmp_path / "config.json") in damaged.value.problem


def test_a_config_of_the_first_version_is_the_model_that_it_was(tmp_path):
    """The keys of that version are written out here, so that a key which is added later must have a fitting default."""
    first = {
        "image_shape": [1, 8, 8],
        "levels": 2,
        "depth": 2,
        "width": 8,
        "permutation": "1x1",
        "coupling": "affine",
        "scale": "sigmoid",
        "num_classes": None,
        "seed": 0,
    }
    glow = small_glow()
    assert (glow.config.bits, glow.config.dequantization, glow.config.input) == (8, "uniform", "linear")
    save_checkpoint(glow, tmp_path)
    assert first.items() <= json.loads((tmp_path / "config.json").read_text()).items()
    (tmp_path / "config.json").write_text(json.dumps(first))
    loaded = load_checkpoint(tmp_path)
    assert loaded.config == glow.config
    images, noise = random_images(4), torch.full((4, 1, 8, 8), 0.5)
    assert torch.equal(loaded.log_prob(images, noise_BCHW=noise), glow.log_prob(images, noise_BCHW=noise))


def test_equal_weights_of_other_bits_are_another_model(tmp_path):
    """Scores are stored under the digest, so it must differ."""
    for bits in (5, 8):
        save_checkpoint(small_glow(bits=bits), tmp_path / str(bits))
    assert load_checkpoint(tmp_path / "5").config.bits == 5
    weights = [(tmp_path / bits / "model.safetensors").read_bytes() for bits in ("5", "8")]
    assert weights[0] == weights[1]
    assert digest_of(tmp_path / "5") != digest_of(tmp_path / "8")


def test_weights_of_another_model_are_refused(tmp_path):
    save_checkpoint(small_glow(depth=2), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"width": 16}))
    with refused("checkpoint-of-another-model", CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(tmp_path)


def test_a_damaged_training_state_is_named(tmp_path):
    with refused("training-state-missing", CheckpointError, match=r"training_state\.pt"):
        load_training_state(tmp_path)
    save_training_state({"epoch": 3, "tensor": torch.ones(1000)}, tmp_path)
    assert load_training_state(tmp_path)["epoch"] == 3
    state = tmp_path / "training_state.pt"
    state.write_bytes(state.read_bytes()[:500])
    with refused("checkpoint-damaged", CheckpointError, match=r"training_state\.pt"):
        load_training_state(tmp_path)


def test_a_checkpoint_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with refused("checkpoint-unwritable", CheckpointError) as unwritable:
        save_checkpoint(small_glow(), tmp_path / "file")
    assert str(tmp_path / "file") in unwritable.value.problem
