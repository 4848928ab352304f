"""Checkpoints of trials that a kill left incomplete are restored from complete ones. No Ray."""

import json
import shutil
from pathlib import Path

import pytest
from ray.tune import Checkpoint

from jobs.ablation.trial_checkpoint import TrialFacts, last_whole, put_back, read_facts, write_facts


def checkpoint(trial: Path, number: int) -> Path:
    """Write a checkpoint as a trial reports it; its files contain its number."""
    folder = trial / f"checkpoint_{number:06}"
    for name in ("weights", "best/weights"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{number} of {name}")
    write_facts(folder, TrialFacts(f"trial of {trial.name}", last={"epoch": number}, best={"epoch": 1}))
    return folder


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_facts_can_be_read_back(tmp_path):
    facts = read_facts(checkpoint(tmp_path / "trial", 3))
    assert facts == TrialFacts("trial of trial", last={"epoch": 3}, best={"epoch": 1})


def test_a_checkpoint_of_an_older_glowctl_has_no_label(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"last": {"epoch": 3}, "best": {"epoch": 1}}))
    assert read_facts(tmp_path) == TrialFacts("", last={"epoch": 3}, best={"epoch": 1})


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def half_gone(folder: Path) -> None:
    (folder / "best/weights").unlink()


def cut_short(folder: Path) -> None:
    (folder / "weights").write_text("of")


def without_facts(folder: Path) -> None:
    (folder / "metrics.json").unlink()


def facts_cut_short(folder: Path) -> None:
    (folder / "metrics.json").write_text((folder / "metrics.json").read_text()[:-3])


DAMAGE = [gone, half_gone, cut_short, without_facts, facts_cut_short]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_restored_from_the_next_complete_one(tmp_path, damage):
    lost = checkpoint(tmp_path, 9)
    damage(lost)
    checkpoint(tmp_path, 8)
    half_gone(checkpoint(tmp_path, 10))
    following = checkpoint(tmp_path, 11)
    checkpoint(tmp_path, 12)
    put_back(Checkpoint(str(lost)))
    assert content(lost) == content(following)


def test_a_complete_checkpoint_is_left_alone(tmp_path):
    known = checkpoint(tmp_path, 3)
    before = content(known)
    checkpoint(tmp_path, 4)
    put_back(Checkpoint(str(known)))
    assert content(known) == before


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_left_alone_if_no_later_one_is_complete(tmp_path, damage):
    lost = checkpoint(tmp_path / "trial", 3)
    damage(lost)
    before = content(lost) if lost.exists() else None
    cut_short(checkpoint(tmp_path / "trial", 4))
    put_back(Checkpoint(str(lost)))
    assert (content(lost) if lost.exists() else None) == before


def test_a_trial_without_a_folder_is_no_error(tmp_path):
    put_back(Checkpoint(str(tmp_path / "trial" / "checkpoint_000003")))
    assert list(tmp_path.iterdir()) == []


def test_the_last_complete_checkpoint_of_each_trial_is_found(tmp_path):
    for trial, numbers in {"a": (3, 10), "b": (9,), "c": (1, 2)}.items():
        for number in numbers:
            last = checkpoint(tmp_path / trial, number)
        if trial == "c":
            cut_short(last)
    found = {trial: Path(checkpoint.path).name for trial, checkpoint in last_whole(tmp_path).items()}
    assert found == {
        "trial of a": "checkpoint_000010",
        "trial of b": "checkpoint_000009",
        "trial of c": "checkpoint_000001",
    }
