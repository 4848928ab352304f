"""Which errors end a trial of an ablation for good, and which leave it to be resumed. No Ray: Tune is a stand-in."""

import errno
import pickle
import shutil
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from ray.train import Checkpoint, ControllerError
from safetensors import SafetensorError

from glow import Glow, GlowConfig, save_checkpoint
from glow.checkpoint import CheckpointError, digest_of
from glow.training.trainer import TrainingDiverged
from glowctl.ablation import trial
from glowctl.ablation.log import Failed, OfTrial, TrialOutbox
from glowctl.ablation.trial import Shared, TuneSession, trial_loop
from glowctl.ray_runtime.resources import Resources
from glowctl.specs.ablation import make_ablate_spec
from glowctl.specs.training import make_train_spec
from glowctl.training.messages import Outbox, Stored, Tested, WorkerSettings
from glowctl.training.progress import Progress
from glowctl.training.worker import train_share

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

    def training(_):
        save_checkpoint(Glow(GlowConfig(image_shape=(1, 4, 4), levels=1, depth=1, width=4)), tmp_path)

    monkeypatch.setattr("glow.checkpoint.save_file", raises)
    with pytest.raises((CheckpointError, ControllerError)):
        run_trial(workers, training)


@pytest.fixture
def train_here(monkeypatch, tmp_path):
    """A function that trains in this process as a trial does, from a checkpoint or the start.

    It returns what the driver was told, and what Tune got: metrics, and the folders of checkpoints, which it kept.
    """
    spec = make_train_spec("smoke", {"per_class": 10, "depth": 1, "width": 4, "epochs": 3, "sample_every": 0})

    def train(start: Checkpoint | None = None):
        told: list[Any] = []
        kept: list[Checkpoint] = []

        def report(metrics, checkpoint=None):
            told.append(metrics)
            if checkpoint is not None:
                folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
                shutil.copytree(checkpoint.path, folder)
                kept.append(Checkpoint(str(folder)))

        monkeypatch.setattr(trial.ray, "get_gpu_ids", list)
        monkeypatch.setattr(trial.tune, "report", report)
        monkeypatch.setattr(trial.tune, "get_checkpoint", lambda: kept[-1] if kept else None)
        outbox = cast(Outbox, SimpleNamespace(put=told.append))
        config = spec.glow_config((1, 8, 8), 0)
        settings = WorkerSettings(spec, config, [], outbox, torch.get_num_threads(), start=start, trial="x")
        return train_share(settings, TuneSession(settings)), told, kept

    return train


def test_the_driver_is_told_of_a_checkpoint_when_tune_has_taken_it(train_here):
    _, told, kept = train_here()
    order = [message for message in told if isinstance(message, (dict, Stored))]
    assert [message.get("epoch") for message in order if isinstance(message, dict)] == [1, 2, 3]
    assert order[1::2] == [Stored(checkpoint.path) for checkpoint in kept]


def test_a_trial_that_continues_from_any_checkpoint_ends_as_if_it_had_not_been_interrupted(train_here):
    whole, _, kept = train_here()
    (best,) = {digest_of(Path(kept[-1].path, "best"))}
    for number, checkpoint in enumerate(kept, start=1):
        earlier = Progress.read(checkpoint.path)
        assert (earlier.trial, earlier.steps // len(earlier.epochs)) == ("x", earlier.steps // number)
        outcome, told, later = train_here(checkpoint)
        assert (outcome.test_bits_per_dim, outcome.validation_bits_per_dim) == (
            whole.test_bits_per_dim,
            whole.validation_bits_per_dim,
        )
        assert len(later) == 3 - number
        assert digest_of(Path((later or [checkpoint])[-1].path, "best")) == best
        assert outcome.seconds > earlier.seconds > 0
        (tested,) = (message for message in told if isinstance(message, Tested))
        assert tested.test_bits_per_dim == whole.test_bits_per_dim


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("error", FINAL, ids=lambda error: type(error).__name__)
def test_an_error_that_would_occur_again_ends_the_trial(run_trial, workers, error):
    def training(_: TuneSession | None) -> None:
        raise error

    told, reports = run_trial(workers, training)
    assert told == [Failed(str(error))]
    assert [report["failed"] for report in reports] == [str(error)]
