"""Tests of the log of a training, with a record in this process instead of MLflow."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pytest
import torch

from glow import Glow, GlowConfig, save_checkpoint
from glow.checkpoint import CheckpointError
from glow.datasets import LazyDataset
from jobs.display.events import Epoch, Event, Resize, Restart, Started
from jobs.errors import JobError
from jobs.specs.training import make_train_spec
from jobs.tracking import Record, TrackingError, find_run
from jobs.training.history import EpochMetrics, read_history, write_history
from jobs.training.log import TrainingLog
from jobs.training.messages import Attempt, FinalScore, Message, SampleGrid, Saved
from jobs.training.prepare import Work
from jobs.training.progress import KEPT_GRIDS, Progress
from jobs.training.repair import kept_by_checkpoints
from jobs.training.samples import GRID, draw_samples
from tests.jobs.trained import work_in


class MemoryRecord:
    run_id, name = "abc", "train x"

    def __init__(self) -> None:
        self.steps: dict[str, dict[int, float]] = {}
        self.images: dict[str, set[int]] = {}

    def image(self, image: np.ndarray, key: str, step: int) -> None:
        self.images.setdefault(key, set()).add(step)

    def impatient(self) -> "MemoryRecord":
        return self

    def metrics(self, values: dict, step: int = 0, at: float = math.nan) -> None:
        """Steps that exist are not overwritten, as in MLflow."""
        for name, value in values.items():
            self.steps.setdefault(name, {}).setdefault(step, value)

    def metric_steps(self, name: str) -> dict[int, float]:
        return self.steps.get(name, {})


def make_log(image_shape=(1, 32, 32), original_shape=(1, 28, 28), began=None):
    spec = make_train_spec("laptop", {})
    image = LazyDataset.held(torch.zeros(1, *image_shape, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    splits = dict.fromkeys(("train", "validation", "test"), image)
    config = GlowConfig(image_shape=image_shape, depth=1, width=4)
    work = Work(spec, spec, "sqlite:////x.db", config, original_shape, splits)
    record = MemoryRecord()
    shown: list[Event] = []
    return TrainingLog(work, cast(Record, record), shown.append, began, named=True), record, shown


def attempt(workers: int, epoch: int = 0, history: Sequence[Epoch] = ()) -> Attempt:
    return Attempt(workers, epoch, [metrics(of) for of in history], device="CPU", precision="float32", parameters=9)


def metrics(of: Epoch) -> EpochMetrics:
    return EpochMetrics.of(vars(of))


def tell(log: TrainingLog, *messages: Message) -> None:
    for message in messages:
        log.see(message)
        log.record(message)


def epoch(number: int, validation: float, test: float = math.nan) -> Epoch:
    return Epoch(
        epoch=number,
        step=10,
        train_bits_per_dim=2.0,
        validation_bits_per_dim=validation,
        images_per_second=100.0,
        gradient_norm=1.0,
        learning_rate=0.1,
        skipped_steps=0,
        seconds=3.0,
        test_bits_per_dim_by_epoch=test,
        epochs=3,
        seconds_left=1.0,
    )


def test_a_lost_worker_is_a_restart_and_growth_is_not():
    log, record, shown = make_log()
    for event in (attempt(3), attempt(2, 4), attempt(3, 6), attempt(3, 7)):
        log.see(event)
        log.record(event)
    assert [type(event) for event in shown] == [Started, Restart, Resize, Restart]
    assert all((event.run, event.run_id) == ("train x", "abc") for event in shown)
    assert log.restarts == 2
    assert record.steps == {
        "restarts": {0: 0, 1: 1, 2: 1, 3: 2},
        "workers": {0: 3, 1: 2, 2: 3, 3: 3},
        "parameters": {0: 9},
    }


def test_epochs_that_the_driver_did_not_live_to_record_are_recorded_by_the_next_attempt():
    log, record, _ = make_log()
    first, *lost = (epoch(1, 3.0), epoch(2, 2.0), epoch(3, 1.0))
    tell(log, metrics(first), Saved(1), attempt(1, 1, [first]), attempt(1, 3, [first, *lost]))
    assert record.steps["validation/bits_per_dim"] == {1: 3.0, 2: 2.0, 3: 1.0}


def test_what_nobody_was_told_is_completed_at_the_end():
    """The driver was killed, and the training ended before it was resumed."""
    log, record, _ = make_log()
    first, lost = epoch(1, 3.0), epoch(2, 2.0)
    tell(log, metrics(first), Saved(1))
    progress = Progress([metrics(first), metrics(lost)], [replace(grid_of(2), non_finite=3)])
    log.complete(progress, workers=2)
    assert record.steps["validation/bits_per_dim"] == {1: 3.0, 2: 2.0}
    assert (record.steps["inverse_error"], record.images["samples"]) == ({2: 0.5}, {2})
    assert record.steps["non_finite_samples"] == {2: 3}
    assert (record.steps["workers"], record.steps["restarts"]) == ({0: 2}, {0: 0})
    assert record.steps["parameters"][0] > 0
    before = json.dumps(record.steps)
    log.complete(progress, workers=2)
    assert json.dumps(record.steps) == before


def test_samples_that_nobody_was_told_of_are_drawn_at_the_end(tmp_path, empty_store):
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    work = work_in(tmp_path)
    record = Record.start(work.tracking_uri, "glow", "train x", work.tags(), {})
    log = TrainingLog(work, record, print)
    log.see(FinalScore(1.5))
    model = Glow(work.config)
    model.initialize(work.splits["train"].images(0, 64))
    save_checkpoint(model, tmp_path / "results" / "checkpoint")
    only = metrics(epoch(1, 2.0))
    log.conclude(only, only, tmp_path / "results", 1.0)
    run = find_run(work.tracking_uri, "glow", "train x")
    assert run.data.metrics["inverse_error"] < 0.01
    assert (tmp_path / "results" / "samples.png").is_file()


def test_how_long_the_start_took_is_said_once_and_recorded():
    log, record, shown = make_log(began=time.time() - 5)
    for event in (attempt(1), attempt(1, 2)):
        log.see(event)
        log.record(event)
    assert 5 <= shown[0].startup_seconds < 60
    assert shown[1].startup_seconds is None
    assert record.steps["startup_seconds"] == {0: shown[0].startup_seconds}


def test_the_result_is_the_best_checkpoints_also_where_its_epoch_was_never_recorded():
    log, _, _ = make_log()
    log.see(metrics(epoch(1, 3.0)))
    log.see(FinalScore(1.5))
    best, last = metrics(epoch(2, 2.0)), replace(metrics(epoch(3, 2.5)), skipped_steps=4)
    result = log.result(best, last, Path("/results"), 60.0, "models:/glow-mnist/1")
    assert (result.best_epoch, result.validation_bits_per_dim, result.skipped_steps) == (2, 2.0, 4)
    assert result.sample_grid == "/results/samples.png"


@pytest.mark.parametrize(
    ("image_shape", "original_shape", "factor"),
    [((1, 32, 32), (1, 28, 28), 1024 / 784), ((1, 32, 32), (1, 32, 32), 1.0), ((1, 16, 16), (1, 28, 28), 1.0)],
)
def test_bits_per_original_pixel(image_shape, original_shape, factor):
    log, _, _ = make_log(image_shape, original_shape)
    log.see(FinalScore(1.5))
    result = log.result(metrics(epoch(1, 2.0)), metrics(epoch(1, 2.0)), Path("/results"), 0.0, "models:/glow-mnist/1")
    assert result.test_bits_per_dim_original == pytest.approx(1.5 * factor)
    assert math.isfinite(result.images_per_second)


def test_what_was_not_measured_is_not_recorded():
    log, record, _ = make_log()
    for number, tested in ((1, math.nan), (2, 1.75)):
        tell(log, metrics(epoch(number, 2.0, tested)), Saved(number))
    assert record.steps["test/bits_per_dim_by_epoch"] == {2: 1.75}


def test_an_attempt_that_the_store_did_not_take_is_recorded_whole_when_it_is_tried_again(monkeypatch):
    log, record, _ = make_log()
    told = attempt(1, 2, [epoch(1, 3.0), epoch(2, 2.0)])
    log.see(told)

    def away(values: dict, step: int = 0, at: float = math.nan) -> None:
        raise TrackingError("away")

    with monkeypatch.context() as patch:
        patch.setattr(record, "metrics", away)
        with pytest.raises(TrackingError):
            log.record(told)
    log.record(told)
    assert record.steps["workers"] == {0: 1}
    assert record.steps["validation/bits_per_dim"] == {1: 3.0, 2: 2.0}


def test_an_attempt_that_never_reached_the_record_does_not_stand_for_the_next():
    """Ray lost the queue with messages that were not recorded yet."""
    log, record, _ = make_log()
    lost, following = attempt(1, 2), attempt(1, 4)
    log.see(lost)
    log.see(following)
    log.record(following)
    assert record.steps == {"restarts": {0: 1}, "workers": {0: 1}, "parameters": {0: 9}}


def test_epochs_that_are_trained_again_count_as_they_came_out_the_second_time(tmp_path):
    log, record, _ = make_log()
    kept, lost, again = epoch(1, 3.0), epoch(2, 2.0), epoch(2, 2.5)
    tell(log, attempt(1), metrics(kept), Saved(1), metrics(lost), grid_of(2))
    tell(log, attempt(1, 1, [kept]), metrics(again), replace(grid_of(2), inverse_error=0.25), Saved(2), FinalScore(1.5))
    assert record.steps["validation/bits_per_dim"] == {1: 3.0, 2: 2.5}
    assert record.steps["inverse_error"] == {2: 0.25}
    result = log.result(metrics(epoch(2, 2.5)), metrics(epoch(2, 2.5)), tmp_path, 0.0, "models:/glow-mnist/1")
    log._write_files(result, tmp_path)
    assert pd.read_csv(tmp_path / "history.csv")["validation_bits_per_dim"].tolist() == [3.0, 2.5]


def test_an_epoch_is_shown_at_once_and_recorded_when_a_checkpoint_has_it():
    log, record, shown = make_log()
    first, second = epoch(1, 3.0), epoch(2, 2.0)
    tell(log, attempt(1), first, metrics(first), grid_of(1), second, metrics(second))
    assert shown[1:] == [first, second]
    assert "validation/bits_per_dim" not in record.steps
    assert record.images == {}
    tell(log, Saved(2), grid_of(2))
    assert record.steps["validation/bits_per_dim"] == {1: 3.0, 2: 2.0}
    assert record.images == {"samples": {1, 2}}


def test_epochs_of_a_checkpoint_whose_notice_was_lost_are_recorded_by_the_next_attempt():
    """The controller died after it had stored the checkpoint, and before it sent the notice."""
    log, record, _ = make_log()
    first, second = epoch(1, 3.0), epoch(2, 2.0)
    tell(log, attempt(1), metrics(first), grid_of(1), metrics(second), attempt(1, 1, [first]))
    assert (record.steps["validation/bits_per_dim"], record.images) == ({1: 3.0}, {"samples": {1}})
    assert not log._unsaved


@pytest.mark.parametrize("message", [Saved(2), metrics(epoch(2, 2.0)), attempt(1, 2, [epoch(1, 3.0), epoch(2, 2.0)])])
def test_epochs_that_the_store_did_not_take_are_recorded_when_they_are_tried_again(monkeypatch, message):
    log, record, _ = make_log()
    log._saved_epoch = 2 if isinstance(message, EpochMetrics) else 0
    log.see(message)
    for number, bits in ((1, 3.0), (2, 2.0)):
        log._unsaved[EpochMetrics, number] = metrics(epoch(number, bits))
    taken = 1

    def away(values: dict, step: int = 0, at: float = math.nan) -> None:
        nonlocal taken
        if not taken:
            raise TrackingError("away")
        taken -= 1
        MemoryRecord.metrics(record, values, step, at)

    with monkeypatch.context() as patch:
        patch.setattr(record, "metrics", away)
        with pytest.raises(TrackingError):
            log.record(message)
    log.record(message)
    assert record.steps["validation/bits_per_dim"] == {1: 3.0, 2: 2.0}


def grid_of(epoch):
    return SampleGrid(epoch, np.full((4, 1, 8, 8), epoch, np.uint8), 0.5)


@pytest.mark.parametrize(("room", "kept"), [(0, KEPT_GRIDS), (5.5, 5), (20, 9)])
def test_the_newest_samples_come_back_and_are_as_many_as_there_is_room_for(tmp_path, monkeypatch, room, kept):
    """The last epochs are added by a training that goes on from a checkpoint."""
    monkeypatch.setattr("jobs.training.progress.GRIDS_BYTES", int(room * grid_of(1).images.nbytes))
    progress = Progress()
    for number in range(1, 10):
        progress.add(grid_of(number))
        progress.write(tmp_path)
        progress = Progress.read(tmp_path)
    assert [grid.epoch for grid in progress.grids] == list(range(10 - kept, 10))
    assert all((grid.images == grid.epoch).all() and grid.inverse_error == 0.5 for grid in progress.grids)


def test_all_samples_of_a_long_time_without_a_store_are_recorded_after_a_kill(tmp_path):
    """A checkpoint holds the samples of 40 epochs at 32x32, and the driver that was killed recorded none of them."""
    progress = Progress()
    for number in range(1, 41):
        progress.add(SampleGrid(number, np.zeros((GRID, 1, 32, 32), np.uint8), 0.5))
    progress.write(tmp_path)
    log, record, _ = make_log()
    tell(log, attempt(1, 40), *Progress.read(tmp_path).grids)
    assert record.images == {"samples": set(range(1, 41))}


def test_samples_that_are_not_finite_are_counted_and_the_count_comes_back(tmp_path):
    work = work_in(tmp_path)
    model = Glow(work.config)
    held_out = work.splits["validation"]
    sound = draw_samples(model, 1, 0.7, held_out)
    with torch.no_grad():
        model.top.log_sd[0] = 100.0  # its standard deviation is infinite in float32
    spoilt = draw_samples(model, 2, 0.7, held_out)
    assert (sound.non_finite, spoilt.non_finite) == (0, GRID)
    Progress([], [sound, spoilt, replace(spoilt, non_finite=None)]).write(tmp_path)
    assert [grid.non_finite for grid in Progress.read(tmp_path).grids] == [0, GRID, None]


def test_samples_of_an_older_checkpoint_are_not_counted(tmp_path):
    of_one = {"epochs": np.array([1]), "images": grid_of(1).images[None], "inverse_errors": np.array([0.5])}
    np.savez(tmp_path / "samples.npz", **of_one)
    (grid,) = Progress.read(tmp_path).grids
    assert (grid.epoch, grid.inverse_error, grid.non_finite) == (1, 0.5, None)


def test_an_older_checkpoint_has_no_samples_and_damaged_ones_are_refused(tmp_path):
    assert Progress.read(tmp_path) == Progress()
    for file in ("samples.npz", "seconds.json"):
        (tmp_path / file).write_bytes(b"half of an archive")
        with pytest.raises(CheckpointError, match=file) as caught:
            Progress.read(tmp_path)
        assert caught.value.code == "checkpoint-damaged"
        (tmp_path / file).unlink()


def test_a_history_comes_back(tmp_path):
    history = [
        replace(metrics(epoch(number, 3.0, 2.0)), skipped_steps=1, time=1.8e9 + number) for number in (1, 2)
    ]  # NaN stands for an unknown figure and is not equal to itself
    write_history(history, tmp_path)
    assert read_history(tmp_path) == history


def test_the_history_of_an_older_glowctl_can_be_read(tmp_path):
    assert read_history(tmp_path) == []
    old = {"epoch": 1, "step": 10, "train_bits_per_dim": 3.0, "validation_bits_per_dim": 2.0, "seconds": 4.0}
    (tmp_path / "history.json").write_text(json.dumps([old]))
    [found] = read_history(tmp_path)
    assert (found.epoch, found.train_bits_per_dim, found.validation_bits_per_dim) == (1, 3.0, 2.0)
    assert math.isnan(found.learning_rate)


@pytest.mark.parametrize("content", ["[{", '[{"step": 3}]', "3"])
def test_a_damaged_history_is_said(tmp_path, content):
    (tmp_path / "history.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"history\.json") as error:
        read_history(tmp_path)
    assert error.value.code == "checkpoint-damaged"


def test_the_longest_history_and_all_samples_of_a_trainings_checkpoints_are_taken(tmp_path):
    for number, epochs in ((1, [epoch(1, 3.0)]), (2, [epoch(1, 3.0), epoch(2, 2.0)]), (3, [])):
        folder = tmp_path / "run" / f"checkpoint_{number}"
        folder.mkdir(parents=True)
        Progress([metrics(of) for of in epochs], [grid_of(number)]).write(folder)
    for file in ("history.json", "samples.npz"):
        (tmp_path / "run" / "checkpoint_3" / file).write_text("[{")  # as a kill leaves it
    kept = kept_by_checkpoints(str(tmp_path / "run"), str(tmp_path / "other"))
    assert [known.epoch for known in kept.progress.history] == [1, 2]
    assert [grid.epoch for grid in kept.progress.grids] == [1, 2]
    assert {Path(file).name for file in kept.damaged} == {"history.json", "samples.npz"}
    assert all("checkpoint_3" in file for file in kept.damaged)
    assert kept_by_checkpoints(str(tmp_path / "other")).is_empty


def test_histories_are_read_from_a_bucket_too(bucket, tmp_path):
    for number in (1, 2):
        write_history([metrics(epoch(each, 3.0)) for each in range(1, number + 1)], tmp_path)
        bucket.put(f"runs/run/checkpoint_{number}/history.json", (tmp_path / "history.json").read_bytes())
    bucket.put("runs/run/results/history.json", b"[]")
    kept = kept_by_checkpoints(bucket.uri("runs/run"))
    assert [known.epoch for known in kept.progress.history] == [1, 2]
    assert kept_by_checkpoints(bucket.uri("runs/other")).is_empty
    with pytest.raises(JobError) as error:
        kept_by_checkpoints("nope://bucket/runs/run")
    assert error.value.code == "output-not-readable"
