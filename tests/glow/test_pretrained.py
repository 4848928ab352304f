"""The models that come with the package."""

from pathlib import Path

import pytest

from benchmarks.pretrained import thin
from glow import load_pretrained, pretrained
from glow.errors import CheckpointError
from glow.ood.check import Calibration

NAMES = pretrained.NAMES


def test_there_are_three_and_they_are_small():
    assert NAMES == ("cifar10", "fashion-mnist", "mnist")
    folder = Path(pretrained.__file__).parent
    assert sum(path.stat().st_size for name in NAMES for path in (folder / name).iterdir()) < 8e6


@pytest.mark.parametrize("name", NAMES)
def test_each_samples_and_has_scores_to_judge_by_and_a_card_without_a_path(name):
    folder = pretrained.pretrained_folder(name)
    assert load_pretrained(name).sample(2).shape[0] == 2
    scores = Calibration.load(folder / "scores.safetensors")
    assert scores.held_out["nll"].dtype == "float64"
    assert len(scores.held_out) > 500
    for file in ("README.md", "spec.json"):
        text = (folder / file).read_text()
        assert name in text
        assert not [part for part in ("/tmp", "/home", "/work", "/root") if part in text]
    assert f"pretrained:{name}" in (folder / "README.md").read_text()


def test_a_model_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(CheckpointError, match="choose one of cifar10, fashion-mnist, mnist"):
        load_pretrained("imagenet")


def test_half_of_the_scores_are_kept(tmp_path):
    folder = pretrained.pretrained_folder("mnist")
    before = Calibration.load(folder / "scores.safetensors")
    assert thin(folder / "scores.safetensors", tmp_path / "thin") == {
        "train": (len(before.train) + 1) // 2,
        "held_out": (len(before.held_out) + 1) // 2,
    }
    after = Calibration.load(tmp_path / "thin")
    assert after.held_out["nll"].tolist() == before.held_out["nll"].tolist()[::2]
