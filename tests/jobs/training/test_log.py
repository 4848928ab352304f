"""Tests of the log of a training, with a record in this process instead of MLflow."""

import math
import shutil
import time
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from glow import Glow, GlowConfig, save_checkpoint
from glow.datasets import LazyDataset
from glow.datasets.corruptions import for_recommendation
from glowctl.display.events import Epoch, Event, Resize, Restart, Started
from glowctl.specs.training import make_train_spec
from glowctl.tracking.record import Record
from glowctl.tracking.runs import find_run, model_id_of, read_table
from glowctl.tracking.scores import tables_by_images
from glowctl.tracking.store import client_of
from glowctl.tracking.uris import TrackingError
from glowctl.training.log import TrainingLog
from glowctl.training.messages import Attempt, Message, Stored
from glowctl.training.prepare import Work
from glowctl.training.progress import EpochFigures, Progress
from glowctl.training.samples import GRID, SampleGrid, draw_samples
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


def attempt(workers: int, epoch: int = 0) -> Attempt:
    return Attempt(workers, epoch, device="CPU", precision="float32", parameters=9)


def tell(log: TrainingLog, *messages: Message) -> None:
    for message in messages:
        log.see(message)
        log.record(message)


def epoch(number: int, validation: float, test: float = math.nan, skipped: int = 0) -> EpochFigures:
    return EpochFigures(number, 10 * number, 2.0, validation, 100.0, 1.0, 0.1, skipped, 3.0, test, 1.8e9 + number)


def test_a_lost_worker_is_a_restart_and_growth_is_not():
    log, record, shown = make_log()
    tell(log, attempt(3), attempt(2, 4), attempt(3, 6), attempt(3, 7))
    assert [type(event) for event in shown] == [Started, Restart, Resize, Restart]
    assert all((event.run, event.run_id) == ("train x", "abc") for event in shown)
    assert log.restarts == 2
    assert record.steps == {
        "restarts": {0: 0, 1: 1, 2: 1, 3: 2},
        "workers": {0: 3, 1: 2, 2: 3, 3: 3},
        "parameters": {0: 9},
    }


def test_an_epoch_is_shown_at_once_and_recorded_when_its_checkpoint_is_stored(tmp_path):
    log, record, shown = make_log()
    figures = {name: value for name, value in vars(epoch(1, 3.0)).items() if name != "time"}
    first = Epoch(**figures, epochs=3, seconds_left=1.0)
    tell(log, attempt(1), first)
    assert shown[1:] == [first]
    assert "validation/bits_per_dim" not in record.steps
    grid = SampleGrid(1, np.zeros((4, 1, 8, 8), np.uint8), 0.5)
    Progress([epoch(1, 3.0), epoch(2, 2.0)], [grid], best_epoch=2).write(tmp_path)
    tell(log, Stored(str(tmp_path)))
    assert record.steps["validation/bits_per_dim"] == {1: 3.0, 2: 2.0}
    assert record.images == {"samples": {1}}


def test_a_checkpoint_that_ray_has_deleted_is_passed_over(tmp_path):
    log, record, _ = make_log()
    Progress([epoch(1, 3.0)], [], best_epoch=1).write(tmp_path)
    (tmp_path / "samples.npz").unlink()
    tell(log, Stored(str(tmp_path)), Stored(str(tmp_path / "none")))
    assert record.steps == {}


@pytest.fixture(scope="module")
def concluded(tmp_path_factory, empty_store):
    """Conclude a training whose driver was not told of any result; return its work, its run and its folder."""
    folder = tmp_path_factory.mktemp("concluded")
    shutil.copy(empty_store, folder / "mlflow.db")
    work = work_in(folder)
    record = Record.start(work.tracking_uri, "glow", "train x", work.tags(), {})
    model = Glow(work.config)
    model.initialize(work.splits["train"].images(0, 64))
    save_checkpoint(model, folder / "results" / "checkpoint")
    progress = Progress([epoch(1, 2.0)], [], best_epoch=1)
    TrainingLog(work, record, print).conclude(progress, folder / "results", 1.0, 1.5)
    return work, find_run(work.tracking_uri, "glow", "train x"), folder


def test_samples_of_the_best_model_are_drawn_if_the_driver_was_not_told_of_them(concluded):
    _, run, folder = concluded
    assert run.data.metrics["inverse_error"] < 0.01
    assert run.data.metrics["test/bits_per_dim"] == 1.5
    assert (folder / "results" / "samples.png").is_file()


def test_the_results_are_metrics_of_the_model_with_the_images_that_they_were_measured_on(concluded):
    work, run, _ = concluded
    model_id = model_id_of(work.tracking_uri, run)
    assert model_id is not None
    metrics = client_of(work.tracking_uri).get_logged_model(model_id).metrics or []
    measured_on = {metric.key: (metric.dataset_name, metric.dataset_digest) for metric in metrics}
    for name, split in (("test/bits_per_dim", "test"), ("validation/best_bits_per_dim", "validation")):
        assert measured_on[name] == (f"digits {split}", work.digests()[f"digits {split}"])
    assert measured_on["seconds"] == (None, None)


def test_every_split_and_the_corrupted_images_are_scored_if_the_driver_was_not_told_of_its_scores(concluded):
    work, run, _ = concluded
    tables = [read_table(work.tracking_uri, *place) for place in tables_by_images(work.tracking_uri, run).values()]
    scored = [*work.splits.values(), for_recommendation(work.splits["validation"])]
    assert sorted(len(table) for table in tables if table is not None) == sorted(map(len, scored))


def test_how_long_the_start_took_is_said_once_and_recorded():
    log, record, shown = make_log(began=time.time() - 5)
    tell(log, attempt(1), attempt(1, 2))
    assert 5 <= shown[0].startup_seconds < 60
    assert shown[1].startup_seconds is None
    assert record.steps["startup_seconds"] == {0: shown[0].startup_seconds}


@pytest.mark.parametrize(
    ("image_shape", "original_shape", "factor"),
    [((1, 32, 32), (1, 28, 28), 1024 / 784), ((1, 32, 32), (1, 32, 32), 1.0), ((1, 16, 16), (1, 28, 28), 1.0)],
)
def test_the_result_is_that_of_the_best_epoch_also_in_bits_per_original_pixel(image_shape, original_shape, factor):
    log, _, _ = make_log(image_shape, original_shape)
    progress = Progress([epoch(1, 3.0), epoch(2, 2.0), epoch(3, 2.5, skipped=4)], [], best_epoch=2)
    result = log.result(progress, Path("/results"), 60.0, 1.5, "models:/glow-mnist/1")
    assert (result.best_epoch, result.validation_bits_per_dim, result.skipped_steps) == (2, 2.0, 4)
    assert result.sample_grid == "/results/samples.png"
    assert result.test_bits_per_dim_original == pytest.approx(1.5 * factor)
    assert math.isfinite(result.images_per_second)


def test_an_attempt_that_the_store_did_not_take_is_recorded_whole_when_it_is_tried_again(monkeypatch):
    log, record, _ = make_log()
    told = attempt(1, 2)
    log.see(told)

    def away(values: dict, step: int = 0, at: float = math.nan) -> None:
        raise TrackingError("away")

    with monkeypatch.context() as patch:
        patch.setattr(record, "metrics", away)
        with pytest.raises(TrackingError):
            log.record(told)
    log.record(told)
    assert record.steps["workers"] == {0: 1}


def test_an_attempt_that_never_reached_the_record_does_not_stand_for_the_next():
    """Ray lost the queue with messages that were not recorded yet."""
    log, record, _ = make_log()
    lost, following = attempt(1, 2), attempt(1, 4)
    log.see(lost)
    log.see(following)
    log.record(following)
    assert record.steps == {"restarts": {0: 1}, "workers": {0: 1}, "parameters": {0: 9}}


def test_samples_that_are_not_finite_are_counted(tmp_path):
    work = work_in(tmp_path)
    model = Glow(work.config)
    held_out = work.splits["validation"]
    sound = draw_samples(model, 1, 0.7, held_out)
    with torch.no_grad():
        model.top.log_sd[0] = 100.0  # its standard deviation is infinite in float32
    assert (sound.non_finite, draw_samples(model, 2, 0.7, held_out).non_finite) == (0, GRID)
