"""The training loop of one worker: its share of the images, its checkpoints, and the messages to the driver.

`train_loop` runs in a worker of Ray Train, `train_share` also in a trial of Tune: a `Session` hides the difference.
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode

from glow.checkpoint import load_checkpoint
from glow.datasets import LazyDataset
from glow.model import Glow
from glow.scoring import score_shard, shards_of
from glow.training import EpochResult, StepResult, Trainer, mean_bits_per_dim
from jobs.display.events import Epoch, Step
from jobs.outputs import is_remote
from jobs.specs.base import every
from jobs.system.machine_metrics import machine_name, sampled
from jobs.system.process_setup import set_up_computing
from jobs.training.data import Splits, is_packed, open_splits
from jobs.training.history import EpochMetrics
from jobs.training.messages import Attempt, FinalScore, Machine, Message, Outbox, SampleGrid, Scores
from jobs.training.progress import Metrics, Outcome, Progress
from jobs.training.samples import draw_samples
from jobs.training.saving import SavingPlan
from jobs.training.worker_settings import WorkerSettings

__all__ = [
    "COUNTED_EPOCH",
    "SCORE",
    "Session",
    "save",
    "train_loop",
    "train_share",
]

SCORE = "validation_bits_per_dim"
"""The metric whose lowest value decides which checkpoint is kept as the best."""

INSIDE_EPOCH = {SCORE: sys.float_info.max}
"""The metrics of a checkpoint within an epoch. Its score is the worst possible, so that it is never the best model.

The value is finite because Ray stores metrics as JSON, which has no infinity.
"""

NO_SCORE = sys.float_info.max / 2
"""The score that stands for a validation score that is not finite: worse than any, better than `INSIDE_EPOCH`."""

COUNTED_EPOCH = "counted_epoch"
"""The metric by which the schedulers of an ablation count epochs.

The last epoch does not report it, so that no scheduler stops a training between its last epoch and its test.
"""


class Session(Protocol):
    """The connection of a worker to the library that started it: Ray Train here, Ray Tune in `jobs.ablation.trial`.

    Attributes:
        rank: the number of this worker, counted from 0.
        local_rank: its number among the workers on this machine.
        workers: number of workers.
        device: the device that it computes on.
    """

    rank: int
    local_rank: int
    workers: int
    device: torch.device

    def restored(self) -> AbstractContextManager[str | Path | None]:
        """Yield the folder of the last checkpoint; None if there is none yet."""

    def report(self, trainer: Trainer, progress: Progress, metrics: Metrics, *, urgent: bool = False) -> None:
        """Save a checkpoint and report its metrics. An `urgent` checkpoint is stored before the method returns.

        The last checkpoint and the one with the lowest validation bits/dim (`SCORE`) are kept. Every rank must call
        this method, and each call waits for those of the other ranks. As soon as the training would continue from the
        checkpoint after any death, the driver receives a `Saved` message, unless the checkpoint is inside an epoch.
        """

    def best(self) -> AbstractContextManager[tuple[str | Path, Metrics]]:
        """Yield the folder and the metrics of the checkpoint with the lowest validation bits/dim so far."""

    def notice(self) -> float | None:
        """Return the time at which a machine of this training will be taken away, in seconds since 1970.

        The result is None if no such event is announced, and 0 if one is announced for an unknown time. Every
        rank must call this method at the same steps.
        """


class TrainSession:
    """The `Session` of a worker of Ray Train.

    Args:
        on_cluster: whether the machine belongs to a cluster, which may take it away.
        output: folder or bucket of the checkpoints. An upload to a bucket runs while the training continues, unless the
            checkpoint is urgent. The training waits for a copy to a folder, which takes less time than a step.
    """

    def __init__(self, on_cluster: bool, output: str) -> None:
        context = ray.train.get_context()
        self._on_cluster = on_cluster
        self._upload = CheckpointUploadMode.ASYNC if is_remote(output) else CheckpointUploadMode.SYNC
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()
        self.local_rank = context.get_local_rank()
        self.device = _device()

    @contextmanager
    def restored(self) -> Iterator[str | None]:
        """Yield the folder of Ray Train's last checkpoint; None if there is none yet."""
        checkpoint = ray.train.get_checkpoint()
        with nullcontext() if checkpoint is None else checkpoint.as_directory() as folder:
            yield folder

    def report(self, trainer: Trainer, progress: Progress, metrics: Metrics, *, urgent: bool = False) -> None:
        """Save a checkpoint in rank 0, and report its metrics to Ray Train in all ranks (see `Session.report`)."""
        upload = CheckpointUploadMode.SYNC if urgent else self._upload
        if self.rank != 0:
            ray.train.report(metrics, checkpoint_upload_mode=upload)
            return
        with ExitStack() as at_end:
            folder = tempfile.mkdtemp()
            at_end.callback(shutil.rmtree, folder, ignore_errors=True)
            save(trainer, progress, folder)
            ray.train.report(
                metrics,
                checkpoint=Checkpoint.from_directory(folder),
                checkpoint_upload_mode=upload,
            )
            if upload is CheckpointUploadMode.ASYNC:
                at_end.pop_all()  # Ray removes the folder after the upload

    @contextmanager
    def best(self) -> Iterator[tuple[str, Metrics]]:
        """Yield the folder and the metrics of Ray Train's checkpoint with the lowest validation bits/dim."""
        best = min(ray.train.get_all_reported_checkpoints(), key=lambda reported: reported.metrics[SCORE])
        with best.checkpoint.as_directory() as folder:
            yield folder, best.metrics

    def notice(self) -> float | None:
        """Return when Ray will take a machine away, as `Session.notice` describes; None outside a cluster."""
        if not self._on_cluster:  # this machine is not taken away
            return None
        told = ray.train.get_preemption_info()
        return None if told is None else (told.deadline_ms or 0) / 1000


def _device() -> torch.device:
    """Return the device of this worker: the first of its GPUs, or the CPU."""
    if not ray.get_gpu_ids():
        return torch.device("cpu")
    from ray.train.torch import get_device  # only now, because it takes half a second to import

    return get_device()


def save(trainer: Trainer, progress: Progress, folder: str | Path) -> None:
    """Save a checkpoint: the model, the state of the training, and `progress`.

    Raises:
        CheckpointError, OSError: if it cannot be written.
    """
    trainer.save(folder)
    progress.write(folder)


def restore(trainer: Trainer, folder: str | Path) -> Progress:
    """Restore the model and the state of the training that `save` wrote, and return the progress that it wrote.

    Raises:
        CheckpointError: if the checkpoint is missing or damaged.
    """
    trainer.restore(folder)
    return Progress.read(folder)


def train_loop(config: dict[str, WorkerSettings]) -> Outcome:
    """Run `train_share` in a worker of Ray Train; `config` has the settings under ``settings``."""
    settings = config["settings"]
    return train_share(settings, TrainSession(settings.on_cluster, settings.spec.output))


def train_share(settings: WorkerSettings, session: Session) -> Outcome:
    """Train on this worker's share of the images until the last epoch, then score the test set.

    The training continues from the last checkpoint if there is one. The worker also scores its part of the training and
    validation images (`glow.scoring.SCORED`) and sends the scores to the driver. The first worker on each machine sends
    the load of that machine at intervals.
    """

    def tell(figures: dict[str, float]) -> None:
        settings.outbox.put(Machine(machine_name(), figures))

    with sampled(tell) if session.local_rank == 0 else nullcontext():
        return _train_share(settings, session)


def _train_share(settings: WorkerSettings, session: Session) -> Outcome:
    started = time.monotonic()
    set_up_computing(settings.threads)
    spec = settings.spec
    splits = _splits(settings)
    packed = is_packed(spec.dataset)  # the trainer takes the order of images from a packed data set
    images = {split: each if packed else each.images() for split, each in splits.items()}
    trainer = Trainer(
        Glow(settings.config),
        images["train"],
        splits["train"].labels,
        validation=images["validation"],
        config=spec.fit_config(),
        device=session.device,
    )
    with session.restored() as folder:
        progress = Progress() if folder is None else restore(trainer, folder)
    talker = Talker(settings.outbox, trainer, session)
    talker.attempt(progress)
    plan = SavingPlan(every(spec.checkpoint_every), session.notice, session.device)
    earlier = progress.seconds

    def count_seconds() -> None:
        progress.seconds = earlier + time.monotonic() - started

    def report(metrics: Metrics) -> None:
        count_seconds()
        session.report(trainer, progress, metrics, urgent=plan.urgent)
        plan.saved()

    def save_inside_epoch() -> None:
        if plan.after_step(trainer.step):
            trainer.pool()
            report(INSIDE_EPOCH)

    for result in trainer.epochs(talker.step, save_inside_epoch):
        tested = spec.test_every and result.epoch % spec.test_every == 0
        test = mean_bits_per_dim(trainer.evaluated_model, images["test"]) if tested else math.nan
        progress.history.append(talker.epoch(result, test))
        last = result.epoch == spec.epochs
        if not last and spec.sample_every and result.epoch % spec.sample_every == 0:
            drawn = talker.samples(trainer.evaluated_model, spec.temperature, splits["validation"])
            if drawn is not None:
                progress.add(drawn)
        if plan.after_epoch(result.epoch, last):
            report(_metrics(result, test, last))
    with session.best() as (folder, best):
        model = load_checkpoint(folder, session.device).set_precision(trainer.precision)
    talker.samples(model, spec.temperature, splits["validation"])
    test = mean_bits_per_dim(model, images["test"])
    talker.final_score(test)
    for split, start in shards_of(splits)[session.rank :: session.workers]:
        table = score_shard(model, splits[split], start)
        settings.outbox.put(Scores(split, start, table))
    count_seconds()
    return Outcome(best, test, progress)


def _splits(settings: WorkerSettings) -> Splits:
    """Return the images from Ray's object store; open their files if the driver has not put them there."""
    if not settings.data:
        return open_splits(settings.spec, settings.config.image_shape)
    data = ray.get(settings.data[0])
    # Copied into tensors, because Ray's arrays are read-only.
    return {
        split: LazyDataset.held(torch.tensor(images), torch.tensor(labels)) for split, (images, labels) in data.items()
    }


def _metrics(result: EpochResult, test_bits_per_dim: float, last: bool) -> Metrics:
    """Return the metrics of an epoch; a validation score that is not finite becomes `NO_SCORE`."""
    score = result.validation_bits_per_dim
    worst = {SCORE: score if math.isfinite(score) else NO_SCORE}
    counted = {} if last else {COUNTED_EPOCH: result.epoch}
    return result.to_dict() | worst | counted | {"test_bits_per_dim_by_epoch": test_bits_per_dim}


class Talker:
    """Sends rank 0's messages to the driver; the other ranks send none."""

    def __init__(self, outbox: Outbox, trainer: Trainer, session: Session) -> None:
        self._outbox = outbox if session.rank == 0 else None
        self._workers = session.workers
        self._trainer = trainer
        self._first_epoch = trainer.epoch
        self._started = time.monotonic()
        self._validation = math.nan

    def _put(self, message: Message) -> None:
        if self._outbox is not None:
            self._outbox.put(message)

    def _seconds_left(self, epochs_done: float) -> float:
        """Estimate the seconds to the end from the pace of this attempt; NaN at its start."""
        done = epochs_done - self._first_epoch
        left = self._trainer.config.epochs - epochs_done
        return (time.monotonic() - self._started) / done * left if done > 0 else math.nan

    def attempt(self, progress: Progress) -> None:
        """Send an `Attempt` and the samples of the checkpoint.

        The `Attempt` has the epochs of the checkpoint. MLflow may lack the newest epochs and samples.
        """
        self._put(
            Attempt(
                workers=self._workers,
                epoch=self._trainer.epoch,
                history=tuple(progress.history),
                device=_device_name(self._trainer.device),
                precision=self._trainer.precision,
                parameters=sum(parameter.numel() for parameter in self._trainer.model.parameters()),
                step=self._trainer.step_of_epoch,
            )
        )
        for grid in progress.grids:
            self._put(grid)

    def step(self, result: StepResult) -> None:
        """Send the progress within the epoch, with the latest validation score."""
        self._put(
            Step(
                **vars(result),
                validation_bits_per_dim=self._validation,
                epochs=self._trainer.config.epochs,
                seconds_left=self._seconds_left(result.epoch - 1 + result.step / result.steps),
            )
        )

    def epoch(self, result: EpochResult, test_bits_per_dim: float) -> EpochMetrics:
        """Send an epoch to be shown, and send and return its metrics, which are recorded.

        Args:
            result: the epoch.
            test_bits_per_dim: the test set's bits/dim; NaN if the test set was not scored.
        """
        self._validation = result.validation_bits_per_dim
        shown = Epoch(
            **vars(result),
            test_bits_per_dim_by_epoch=test_bits_per_dim,
            epochs=self._trainer.config.epochs,
            seconds_left=self._seconds_left(result.epoch),
        )
        metrics = EpochMetrics.of({**vars(shown), "time": time.time()})
        self._put(shown)
        self._put(metrics)
        return metrics

    def samples(self, model: Glow, temperature: float, images: LazyDataset) -> SampleGrid | None:
        """Draw samples, send them to the driver and return them; in other ranks than 0, return None.

        The samples come with the error of the model's inverse, which is measured on the real `images`.
        """
        if self._outbox is None:
            return None
        drawn = draw_samples(model, self._trainer.epoch, temperature, images)
        self._put(drawn)
        return drawn

    def final_score(self, test_bits_per_dim: float) -> None:
        """Send the test set's bits/dim under the best model."""
        self._put(FinalScore(test_bits_per_dim))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
