"""Which errors end a trial of an ablation for good, and which leave it to be resumed. No Ray: Tune is a stand-in."""

import errno
import pickle
import shutil
from queue import Queue
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from ray.train import ControllerError
from ray.tune import Checkpoint
from safetensors import SafetensorError

from glow import Glow, GlowConfig
from glow.checkpoint import CheckpointError
from glow.training import TrainingDiverged
from jobs.ablation import trial
from jobs.ablation.messages import Failed, OfTrial, TrialOutbox
from jobs.ablation.trial import Shared, TuneSession, trial_loop
from jobs.ray_runtime.resources import Resources
from jobs.specs.ablation import make_ablate_spec
from jobs.specs.training import make_train_spec
from jobs.training.messages import Outbox, Saved
from jobs.training.progress import Progress
from jobs.training.worker import INSIDE_EPOCH
from jobs.training.worker_settings import WorkerSettings

SPEC = make_ablate_spec("smoke", {"seeds": 1})

FULL = (
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.EROFS, "Read-only file system"),
    OSError(errno.EIO, "Input/output error"),
    SafetensorError("I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),  # torch's, of a full disk
)
"""What the writers of a checkpoint raise if the disk does not take it."""

FINAL = (
    TrainingDiverged("training diverged"),
    CheckpointError("model.safetensors is damaged", code="checkpoint-damaged"),
    ValueError("the width is 0"),
)
"""What a trial would raise again."""


@pytest.fixture
def run_trial(monkeypatch):
    """A function that runs a trial of one worker or several, whose training does what it is given.

    It returns the messages to the driver, and what Tune got.
    """

    def run(workers, training):
        queue: Queue[OfTrial] = Queue()
        reports: list[dict[str, Any]] = []
        monkeypatch.setattr(trial, "_settings", lambda *_: SimpleNamespace(outbox=TrialOutbox(queue, "x")))
        monkeypatch.setattr(trial.ray, "get_gpu_ids", list)
        monkeypatch.setattr(trial.tune, "get_checkpoint", lambda: None)
        monkeypatch.setattr(trial.tune, "report", lambda metrics, **_: reports.append(metrics))
        monkeypatch.setattr(trial, "train_share", lambda settings, session: training(session))

        def with_workers(*_):
            try:
                training(None)
            except Exception as error:
                # It is pickled on its way from the controller.
                raise ControllerError(pickle.loads(pickle.dumps(error))) from None

        monkeypatch.setattr(trial, "_train_with_workers", with_workers)
        settings = cast(WorkerSettings, None)  # `_settings`, which reads them, is replaced above
        shared = Shared(SPEC, settings, queue, Resources((workers, workers), 0, 1), "storage")
        trial_loop({"values": SPEC.trials()[0]}, shared)
        return [told.message for told in queue.queue], reports

    return run


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("error", FULL, ids=lambda error: str(error)[:30])
def test_a_disk_that_takes_no_checkpoint_leaves_the_trial_to_be_resumed(
    monkeypatch, tmp_path, run_trial, workers, error
):
    def raises(*_):
        raise error

    def training(session):
        model = Glow(GlowConfig(image_shape=(1, 4, 4), levels=1, depth=1, width=4))
        trainer = SimpleNamespace(evaluated_model=model)
        if session is None:
            trial.save_checkpoint(model, tmp_path)
        else:
            session.report(trainer, None, {trial.SCORE: 1.0})

    monkeypatch.setattr("glow.checkpoint.save_file", raises)
    with pytest.raises((CheckpointError, ControllerError)):
        run_trial(workers, training)


def test_the_driver_is_told_of_a_checkpoint_when_tune_has_taken_it(monkeypatch, run_trial):
    def training(session):
        monkeypatch.setattr(trial, "save", lambda *_: None)
        monkeypatch.setattr(trial, "save_checkpoint", lambda model, folder: folder.mkdir(exist_ok=True))
        monkeypatch.setattr(trial.tune, "report", lambda metrics, **_: session._outbox.put(metrics))
        trainer = SimpleNamespace(evaluated_model=None)
        for metrics in ({"epoch": 1, trial.SCORE: 2.0}, INSIDE_EPOCH, {"epoch": 2, trial.SCORE: 3.0}):
            session.report(trainer, None, metrics)
        return SimpleNamespace(metrics=dict)

    told, _ = run_trial(1, training)
    assert [message for message in told if isinstance(message, Saved)] == [Saved(1), Saved(2)]
    assert [message.get("epoch") for message in told if isinstance(message, dict)] == [1, None, 2, 2]
    assert told.index(Saved(2)) == 4


def test_a_trial_that_continues_adds_its_seconds_to_those_of_the_checkpoint(monkeypatch, tmp_path):
    def report(metrics, checkpoint=None):
        if checkpoint is not None:
            shutil.copytree(checkpoint.path, tmp_path / f"epoch-{metrics['epoch']}", dirs_exist_ok=True)

    monkeypatch.setattr(trial.ray, "get_gpu_ids", list)
    monkeypatch.setattr(trial.tune, "report", report)
    spec = make_train_spec("smoke", {"per_class": 10, "depth": 1, "width": 4})
    outbox = cast(Outbox, SimpleNamespace(put=lambda message: None))
    settings = WorkerSettings(spec, spec.glow_config((1, 8, 8), 0), [], outbox, torch.get_num_threads())
    trial._train_here(settings, "x", None)
    first, second = (Progress.read(tmp_path / f"epoch-{epoch}").seconds for epoch in (1, 2))
    assert 0 < first < second
    (tmp_path / "epoch-1/seconds.json").write_text("1e6")
    trial._train_here(settings, "x", Checkpoint(str(tmp_path / "epoch-1")))
    assert Progress.read(tmp_path / "epoch-2").seconds > 1e6


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("error", FINAL, ids=lambda error: type(error).__name__)
def test_an_error_that_would_occur_again_ends_the_trial(run_trial, workers, error):
    def training(_: TuneSession | None) -> None:
        raise error

    told, reports = run_trial(workers, training)
    assert told == [Failed(str(error))]
    assert [report["failed"] for report in reports] == [str(error)]
