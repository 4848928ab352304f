"""The progress that a checkpoint has, how the newest whole checkpoint of a run is found, and its way to MLflow."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from glow.checkpoint import CheckpointError
from glowctl.errors import JobError
from glowctl.training.progress import (
    KEPT_GRIDS,
    Progress,
    next_name,
    record_progress,
    remove_old_checkpoints,
    whole_checkpoints,
)
from glowctl.training.samples import GRID, SampleGrid
from tests.jobs.training.test_log import MemoryRecord, epoch


def grid_of(number: int, shape=(4, 1, 8, 8)) -> SampleGrid:
    return SampleGrid(number, np.full(shape, number, np.uint8), 0.5, number)


def progress_of(*validation: float, trial: str = "", best: int = 1) -> Progress:
    epochs = [epoch(number, value) for number, value in enumerate(validation, start=1)]
    return Progress(epochs, [grid_of(len(epochs))], 9.0, 10 * len(epochs), 1, 9, best, trial)


def write(folder: Path, progress: Progress) -> Path:
    """Write a checkpoint with weights, which are a text here."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(f"weights of {progress.steps} steps")
    progress.write(folder)
    return folder


def test_a_progress_comes_back(tmp_path):
    written = Progress([epoch(1, 3.0, 2.5), epoch(2, 2.0, 2.0)], [grid_of(1)], 7.5, 20, 2, 9, 2, "1x1 s0")
    write(tmp_path / "checkpoint_1", written)
    found = Progress.read(tmp_path / "checkpoint_1")
    assert found.epochs == written.epochs
    assert (found.grids[0].images == 1).all()
    assert vars(found) | {"grids": 0} == vars(written) | {"grids": 0}
    assert found.best.epoch == 2


@pytest.mark.parametrize(("file", "content"), [("progress.json", "[{"), ("progress.json", "3"), ("samples.npz", "x")])
def test_a_damaged_progress_is_said(tmp_path, file, content):
    folder = write(tmp_path / "checkpoint_1", progress_of(3.0))
    (folder / file).write_text(content)
    with pytest.raises(CheckpointError, match=file) as caught:
        Progress.read(folder)
    assert caught.value.code == "checkpoint-damaged"


def test_the_best_epoch_has_the_lowest_finite_score_and_a_tie_changes_nothing():
    progress, best = Progress(), []
    for number, score in enumerate((math.nan, 3.0, math.inf, 3.0, 2.0), start=1):
        progress.epochs.append(epoch(number, score))
        progress.improves()
        best.append(progress.best_epoch)
    assert best == [1, 2, 2, 2, 5]


@pytest.mark.parametrize(("room", "kept"), [(0, KEPT_GRIDS), (5.5, 5), (20, 9)])
def test_the_newest_samples_are_as_many_as_there_is_room_for(tmp_path, monkeypatch, room, kept):
    monkeypatch.setattr("glowctl.training.progress.GRIDS_BYTES", int(room * grid_of(1).images.nbytes))
    progress = Progress()
    for number in range(1, 10):
        progress.add(grid_of(number))
    progress.write(tmp_path)
    assert [grid.epoch for grid in Progress.read(tmp_path).grids] == list(range(10 - kept, 10))


def test_what_mlflow_lacks_is_added_once_also_the_samples_of_a_long_time_without_a_store():
    record, progress = MemoryRecord(), progress_of(3.0, 2.0)
    progress.grids = []
    for number in range(1, 41):
        progress.add(grid_of(number, (GRID, 1, 32, 32)))
    record.metrics({"validation/bits_per_dim": 3.5}, 1)  # it stays
    for _ in range(2):
        record_progress(record, progress, set())  # type: ignore[arg-type]
    assert record.steps["validation/bits_per_dim"] == {1: 3.5, 2: 2.0}
    assert "test/bits_per_dim_by_epoch" not in record.steps  # it was not measured
    assert record.images == {"samples": set(range(1, 41))}
    assert record.steps["non_finite_samples"] == {number: number for number in range(1, 41)}
    assert record.steps["parameters"] == {0: 9}


@pytest.fixture(params=["folder", "bucket"])
def run_folder(request, tmp_path):
    """Make the folder of a run, and return its place and a function that lists its checkpoints."""
    local = tmp_path / "run"
    for name, progress in {
        "attempt-1/checkpoint_2026-01-01.5": progress_of(3.0, 2.0),
        "attempt-2/checkpoint_2026-01-01.1": progress_of(3.0, 2.0, 1.0),
        "attempt-3/checkpoint_2026-01-01.9": progress_of(3.0, 2.0, 1.0, 0.5),
        "tune-1/a1/checkpoint_000003": progress_of(3.0, trial="a"),
        "tune-2/b2/checkpoint_000001": progress_of(4.0, 3.0, trial="a"),
    }.items():
        write(local / name, progress)
    (local / "attempt-3/checkpoint_2026-01-01.9/model.safetensors").write_text("cut")
    (local / "attempt-1/checkpoint_manager_snapshot.json").write_text("")
    (local / "results/checkpoint").mkdir(parents=True)
    (local / "results/checkpoint/model.safetensors").write_text("the best")
    if request.param == "folder":
        return str(local), lambda: {path.relative_to(local).as_posix() for path in local.rglob("checkpoint_*/")}
    bucket = request.getfixturevalue("bucket")
    for file in local.rglob("*"):
        if file.is_file():
            bucket.put(f"runs/run/{file.relative_to(local)}", file.read_bytes())

    def checkpoints() -> set[str]:
        keys = [key.removeprefix("runs/run/") for key in bucket.keys()]  # noqa: SIM118 - it is no dict
        return {key.rpartition("/")[0] for key in keys if "/checkpoint_" in key and "snapshot" not in key}

    return bucket.uri("runs/run"), checkpoints


def test_the_newest_whole_checkpoint_of_each_training_is_found_and_the_others_are_removed(run_folder):
    place, checkpoints = run_folder
    found = whole_checkpoints(place)
    assert {label: stood.steps for label, stood in found.items()} == {"": 30, "a": 20}
    assert [each.validation_bits_per_dim for each in found["a"].progress().epochs] == [4.0, 3.0]
    assert len(checkpoints()) == 5
    assert remove_old_checkpoints(place).keys() == found.keys()
    assert checkpoints() == {"attempt-2/checkpoint_2026-01-01.1", "tune-2/b2/checkpoint_000001"}
    assert next_name(place, "attempt") == "attempt-4"


def test_a_folder_that_is_not_there_has_no_checkpoints_and_one_that_cannot_be_read_is_named(tmp_path):
    assert whole_checkpoints(str(tmp_path / "none")) == remove_old_checkpoints(str(tmp_path / "none")) == {}
    assert next_name(str(tmp_path / "none"), "attempt") == "attempt-1"
    with pytest.raises(JobError, match="nope://bucket/run") as error:
        whole_checkpoints("nope://bucket/run")
    assert error.value.code == "output-not-readable"


@pytest.mark.parametrize("damage", ["no facts", "half of the facts", "no weights", "no sizes"])
def test_a_checkpoint_that_a_kill_has_left_is_not_whole(tmp_path, damage):
    folder = write(tmp_path / "run/attempt-1/checkpoint_1", progress_of(3.0))
    facts = folder / "progress.json"
    content = facts.read_text()
    if damage == "no weights":
        (folder / "model.safetensors").unlink()
    elif damage == "no facts":
        facts.unlink()
    else:
        facts.write_text(content[: len(content) // 2] if damage == "half of the facts" else json.dumps({"steps": 3}))
    assert whole_checkpoints(str(tmp_path / "run")) == {}
