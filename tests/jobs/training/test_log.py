"""What rank 0's events add up to, with a record of this process in place of MLflow's."""

import math
import time
from pathlib import Path

import numpy as np
import pytest

from glow import GlowConfig
from jobs.specs.presets import make_train_spec
from jobs.training.log import TrainingLog
from jobs.training.prepare import Work

CPU = {"device": "CPU", "precision": "float32", "parameters": 9}

EPOCH = {
    "event": "epoch",
    "epochs": 3,
    "step": 10,
    "train_bits_per_dim": 2.0,
    "images_per_second": 100.0,
    "gradient_norm": 1.0,
    "learning_rate": 0.1,
    "skipped_steps": 0,
    "seconds_left": 1.0,
    "test_bits_per_dim_by_epoch": math.nan,
}


class MemoryRecord:
    run_id, name = "abc", "train x"

    def __init__(self) -> None:
        self.written: list[tuple[dict, int]] = []

    def impatient(self) -> "MemoryRecord":
        return self

    def metrics(self, values: dict, step: int) -> None:
        self.written.append((dict(values), step))


def make_log(image_shape=(1, 32, 32), original_shape=(1, 28, 28), began=None):
    spec = make_train_spec("laptop", {})
    images = {split: np.zeros((1, *image_shape), np.uint8) for split in ("train", "validation", "test")}
    config = GlowConfig(image_shape=image_shape, depth=1, width=4)
    work = Work(
        spec, spec, "sqlite:////x.db", config, original_shape, images, dict.fromkeys(images, np.zeros(1, np.int64))
    )
    record, shown = MemoryRecord(), []
    return TrainingLog(work, record, shown.append, {"run": "name", "run_id": "id"}, began), record, shown


def attempt(workers: int, epoch: int = 0, history: tuple = ()) -> dict:
    return {
        "event": "attempt",
        "workers": workers,
        "epoch": epoch,
        "history": list(history),
        "device": "CPU",
        "precision": "float32",
        "parameters": 9,
    }


def epoch(number: int, validation: float) -> dict:
    return EPOCH | {"epoch": number, "validation_bits_per_dim": validation}


def test_a_lost_worker_is_a_restart_and_growth_is_not():
    log, record, shown = make_log()
    for event in (attempt(3), attempt(2, 4), attempt(3, 6), attempt(3, 7)):
        log.see(event)
        log.record(event)
    assert [event["event"] for event in shown] == ["started", "restart", "resize", "restart"]
    assert log.restarts == 2
    assert record.written == [
        ({"restarts": 0, "workers": 3, "parameters": 9}, 0),
        ({"restarts": 1, "workers": 2, "parameters": 9}, 4),
        ({"restarts": 1, "workers": 3, "parameters": 9}, 6),
        ({"restarts": 2, "workers": 3, "parameters": 9}, 7),
    ]


def test_epochs_that_the_driver_did_not_live_to_record_are_recorded_by_the_next_attempt():
    log, record, shown = make_log()
    first, *lost = (epoch(1, 3.0), epoch(2, 2.0), epoch(3, 1.0))
    for event in (first, attempt(1, 1, [first]), attempt(1, 3, [first, *lost])):
        log.see(event)
        log.record(event)
    written = [(values["validation/bits_per_dim"], step) for values, step in record.written if len(values) > 3]
    assert written == [(3.0, 1), (2.0, 2), (1.0, 3)]
    assert all("missed" not in event and "history" not in event for event in shown)


def test_how_long_the_start_took_is_said_once_and_recorded():
    log, record, shown = make_log(began=time.time() - 5)
    for event in (attempt(1), attempt(1, 2)):
        log.see(event)
        log.record(event)
    assert 5 <= shown[0]["startup_seconds"] < 60
    assert "startup_seconds" not in shown[1]
    assert [written.get("startup_seconds") for written, _ in record.written] == [shown[0]["startup_seconds"], None]


def test_the_result_is_the_best_checkpoints_also_where_its_epoch_was_never_recorded():
    log, _, _ = make_log()
    log.see(epoch(1, 3.0))
    log.see({"event": "test", "bits_per_dim": 1.5})
    best, last = epoch(2, 2.0), epoch(3, 2.5) | {"skipped_steps": 4}
    result = log.result(best, last, Path("/results"), 60.0, "models:/glow-mnist/1")
    assert (result.best_epoch, result.validation_bits_per_dim, result.skipped_steps) == (2, 2.0, 4)
    assert result.sample_grid == "/results/samples.png"


@pytest.mark.parametrize(
    ("image_shape", "original_shape", "factor"),
    [((1, 32, 32), (1, 28, 28), 1024 / 784), ((1, 32, 32), (1, 32, 32), 1.0), ((1, 16, 16), (1, 28, 28), 1.0)],
)
def test_bits_per_original_pixel(image_shape, original_shape, factor):
    log, _, _ = make_log(image_shape, original_shape)
    log.see({"event": "test", "bits_per_dim": 1.5})
    result = log.result(epoch(1, 2.0), epoch(1, 2.0), Path("/results"), 0.0, "models:/glow-mnist/1")
    assert result.test_bits_per_dim_original == pytest.approx(1.5 * factor)
    assert math.isfinite(result.images_per_second)


def test_what_was_not_measured_is_not_recorded():
    log, record, _ = make_log()
    for number, tested in ((1, math.nan), (2, 1.75)):
        event = epoch(number, 2.0) | {"test_bits_per_dim_by_epoch": tested}
        log.see(event)
        log.record(event)
    assert [written.get("test/bits_per_dim_by_epoch") for written, _ in record.written] == [None, 1.75]
