"""`glowctl repair` on trainings whose record in MLflow lacks what checkpoints contain. No Ray: files are written."""

import shutil

import numpy as np
import pytest

from glow import Glow, save_checkpoint
from jobs.ablation.repair import repair
from jobs.display.displays import PlainLines
from jobs.display.events import Event
from jobs.errors import JobError
from jobs.tracking import Record, find_run
from jobs.training.history import EpochMetrics
from jobs.training.messages import SampleGrid
from jobs.training.prepare import number_of_parameters
from jobs.training.progress import Progress
from tests.jobs.trained import work_in


def progress_of(*epochs: int) -> Progress:
    """The progress after these epochs, with the samples of the last one."""
    images = np.full((4, 1, 8, 8), epochs[-1], np.uint8)
    history = [EpochMetrics(epoch, 3.0, 2.0 - epoch / 10, time=1.8e9 + epoch) for epoch in epochs]
    return Progress(history, [SampleGrid(epochs[-1], images, 0.5)])


@pytest.fixture
def stopped(tmp_path, uri):
    """A training that was killed: MLflow has its first epoch, and two checkpoints in its folder have more."""
    work = work_in(tmp_path, workers="2")
    record = Record.start(uri, "glow", "train x", work.tags(), {})
    record.metrics({"validation/bits_per_dim": 1.9}, 1)
    for number, epochs in ((1, (1, 2)), (2, (1, 2, 3))):
        folder = save_checkpoint(Glow(work.config), tmp_path / record.run_id / f"checkpoint_{number}")
        progress_of(*epochs).write(folder)
    record.finish("FAILED")
    return work, record


def repaired(work, run_id, **changes):
    events: list[Event] = []
    repair(run_id, {"tracking_uri": work.tracking_uri, **changes}, events.append)
    return events[-1], PlainLines().text(events[-1])


def test_all_that_a_resume_adds_is_added_once(stopped):
    work, record = stopped
    event, text = repaired(work, record.run_id)
    assert event.added == {"train x": [2, 3]}
    assert event.samples == {"train x": [2, 3]}
    assert event.figures == {"train x": ["parameters", "workers"]}
    assert "epochs 2 to 3" in text
    run = find_run(work.tracking_uri, "glow", record.run_id)
    assert record.metric_steps("validation/bits_per_dim") == {1: 1.9, 2: 1.8, 3: 1.7}
    assert (record.metric_steps("inverse_error"), record.image_steps("samples")) == ({2: 0.5, 3: 0.5}, {2, 3})
    assert run.data.metrics["parameters"] == number_of_parameters(work.config)
    assert run.data.metrics["workers"] == 2
    assert run.info.status == "FAILED"
    again, text = repaired(work, record.run_id)
    assert not again.is_change
    (left,) = again.left
    assert f"glowctl train --resume {record.run_id}" in left
    assert left in text


def test_damaged_checkpoints_and_what_they_cost_are_named(stopped, tmp_path):
    work, record = stopped
    damaged = [tmp_path / record.run_id / "checkpoint_2" / name for name in ("history.json", "samples.npz")]
    for file in damaged:
        file.write_bytes(b"[{")
    record.metrics({"validation/bits_per_dim": 1.6}, 4)
    event, text = repaired(work, record.run_id)
    assert (event.added, event.samples) == ({"train x": [2]}, {"train x": [2]})
    for file in damaged:
        assert any(str(file) in sentence for sentence in event.left)
    assert any("epoch 3" in sentence for sentence in event.left)
    assert all(sentence in text for sentence in event.left)


def test_a_number_of_workers_that_changed_is_not_guessed(tmp_path, uri):
    work = work_in(tmp_path, workers="1:2")
    record = Record.start(uri, "glow", "train x", work.tags(), {})
    record.finish("FAILED")
    progress_of(1).write(save_checkpoint(Glow(work.config), tmp_path / record.run_id / "checkpoint_1"))
    event, _ = repaired(work, record.run_id)
    assert event.figures == {"train x": ["parameters"]}
    assert any("number of workers" in sentence for sentence in event.left)


def test_a_training_whose_folder_was_moved_is_found_with_output(stopped, tmp_path):
    work, record = stopped
    shutil.move(tmp_path / record.run_id, tmp_path / "elsewhere" / record.run_id)
    with pytest.raises(JobError, match=rf"{record.run_id}.*--output") as gone:
        repaired(work, record.run_id)
    assert gone.value.code == "checkpoint-missing"
    event, _ = repaired(work, record.run_id, output=str(tmp_path / "elsewhere"))
    assert event.added == {"train x": [2, 3]}
