"""The training loop of one worker: its share of the images, its checkpoints, and the messages to the driver.

`train_loop` runs in a worker of Ray Train, `train_share` also in a trial of Tune: a `Session` hides the difference.
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode

from glow.checkpoint import load_checkpoint, save_checkpoint
from glow.config import GlowConfig
from glow.datasets import LazyDataset
from glow.datasets.corruptions import CORRUPTED, for_recommendation
from glow.distributed import all_reduce_sum
from glow.model import Glow
from glow.scoring import score_shard, shards_of
from glow.training.trainer import StepResult, Trainer, mean_bits_per_dim
from glowctl.display.events import Epoch, Step
from glowctl.outputs import is_remote
from glowctl.specs.base import every
from glowctl.specs.training import TrainSpec
from glowctl.system.machine_metrics import machine_facts, machine_name, sampled
from glowctl.system.process_setup import set_up_computing
from glowctl.training.data import Splits, is_packed, open_splits
from glowctl.training.messages import Attempt, Hardware, Machine, Message, Outbox, Scores, Tested, WorkerSettings
from glowctl.training.progress import BEST, EpochFigures, Progress
from glowctl.training.samples import draw_samples
from glowctl.training.saving import SavingPlan
from glowctl.training.worker_log import logging_to

Metrics = dict[str, float]
"""The metrics that are reported with a checkpoint: the fields of `EpochFigures` and some more."""

SCORE = "validation_bits_per_dim"
"""The metric by which searches and schedulers of an ablation compare trials."""

INSIDE_EPOCH: Metrics = {SCORE: sys.float_info.max}
"""The metrics of a checkpoint within an epoch. Its score is the worst possible.

The value is finite because Ray stores metrics as JSON, which has no infinity.
"""

NO_SCORE = sys.float_info.max / 2
"""The score that stands for a validation score that is not finite: worse than any, better than `INSIDE_EPOCH`."""

COUNTED_EPOCH = "counted_epoch"
"""The metric by which the schedulers of an ablation count epochs.

The last epoch does not report it, so that no scheduler stops a training between its last epoch and its test.
"""


class Session(Protocol):
    """The connection of a worker to the library that started it: Ray Train here, Ray Tune in `glowctl.ablation.trial`.

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

    def start(self) -> Checkpoint | None:
        """Return the checkpoint from which this attempt continues; None at the start of a training."""

    def last(self) -> Checkpoint | None:
        """Return the last checkpoint that is stored."""

    def report(self, metrics: Metrics, folder: str | None, *, urgent: bool = False) -> None:
        """Store a checkpoint and report its metrics. An `urgent` checkpoint is stored before the method returns.

        Every rank must call this method, and each call waits for those of the other ranks. As soon as the training
        would continue from the checkpoint after any death, the driver receives a `Stored` message, unless the
        checkpoint is inside an epoch.

        Args:
            metrics: the metrics.
            folder: the files of the checkpoint, which this method moves or deletes; None in other ranks than 0.
            urgent: whether a machine will be taken away.
        """

    def notice(self) -> float | None:
        """Return the time at which a machine of this training will be taken away, in seconds since 1970.

        The result is None if no such event is announced, and 0 if one is announced for an unknown time. Every
        rank must call this method at the same steps.
        """


class TrainSession:
    """The `Session` of a worker of Ray Train.

    Args:
        settings: the settings of this worker. An upload to a bucket runs while the training continues, unless the
            checkpoint is urgent. The training waits for a copy to a folder, which takes less time than a step.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        context = ray.train.get_context()
        self._settings = settings
        remote = is_remote(settings.spec.output)
        self._upload = CheckpointUploadMode.ASYNC if remote else CheckpointUploadMode.SYNC
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()
        self.local_rank = context.get_local_rank()
        self.device = _device()

    def start(self) -> Checkpoint | None:
        """Return Ray Train's last checkpoint or, in the first attempt, the one that the driver has found."""
        return ray.train.get_checkpoint() or self._settings.start

    def last(self) -> Checkpoint | None:
        """Return the last checkpoint that Ray Train has stored, after those that are being stored."""
        stored = ray.train.get_all_reported_checkpoints()
        return stored[-1].checkpoint if stored else self.start()

    def report(self, metrics: Metrics, folder: str | None, *, urgent: bool = False) -> None:
        """Report a checkpoint to Ray Train (see `Session.report`)."""
        upload = CheckpointUploadMode.SYNC if urgent else self._upload
        checkpoint = None if folder is None else Checkpoint.from_directory(folder)
        try:
            ray.train.report(metrics, checkpoint=checkpoint, checkpoint_upload_mode=upload)
        finally:
            if folder is not None and upload is CheckpointUploadMode.SYNC:  # else Ray removes it after the upload
                shutil.rmtree(folder, ignore_errors=True)

    def notice(self) -> float | None:
        """Return when Ray will take a machine away, as `Session.notice` describes; None outside a cluster."""
        if not self._settings.on_cluster:  # this machine is not taken away
            return None
        told = ray.train.get_preemption_info()
        return None if told is None else (told.deadline_ms or 0) / 1000


def _device() -> torch.device:
    """Return the device of this worker: the first of its GPUs, or the CPU."""
    if not ray.get_gpu_ids():
        return torch.device("cpu")
    from ray.train.torch import get_device  # only now, because it takes half a second to import

    return get_device()


class Keeper:
    """A context manager that saves and restores checkpoints, each with the best model so far.

    Inside its block, rank 0 has the best model in a temporary folder.

    Args:
        trainer: the training.
        session: stores the checkpoints.
        trial: the label of the trial, in an ablation; else empty.

    Attributes:
        progress: the progress of the training.
    """

    def __init__(self, trainer: Trainer, session: Session, trial: str) -> None:
        self._trainer, self._session = trainer, session
        self.progress = Progress(trial=trial)

    def __enter__(self) -> Keeper:
        self._scratch = tempfile.TemporaryDirectory()
        self._best = Path(self._scratch.name, BEST)
        start = self._session.start()
        if start is not None:
            with start.as_directory() as folder:
                self._trainer.restore(folder)
                self.progress = Progress.read(folder)
                if self.progress.best_epoch:
                    shutil.copytree(Path(folder, BEST), self._best)
        self.progress.workers = self._session.workers
        self.progress.parameters = sum(parameter.numel() for parameter in self._trainer.model.parameters())
        return self

    def __exit__(self, *exception: object) -> None:
        self._scratch.cleanup()

    def save(self, metrics: Metrics, *, after_epoch: bool, urgent: bool) -> None:
        """Store a checkpoint in rank 0, and report its metrics in all ranks.

        Args:
            metrics: the metrics.
            after_epoch: whether the checkpoint is saved after an epoch, not inside one. The model of the last epoch
                then becomes the best one if it is better.
            urgent: whether a machine will be taken away (see `Session.report`).

        Raises:
            CheckpointError, OSError: if it cannot be written.
        """
        if self._session.rank != 0:
            self._session.report(metrics, None, urgent=urgent)
            return
        self.progress.steps = self._trainer.step
        with ExitStack() as if_it_fails:
            if after_epoch and self.progress.improves():
                save_checkpoint(self._trainer.evaluated_model, self._best)
            folder = tempfile.mkdtemp()
            if_it_fails.callback(shutil.rmtree, folder, ignore_errors=True)
            self._trainer.save(folder)
            if self.progress.best_epoch:
                shutil.copytree(self._best, Path(folder, BEST))
            self.progress.write(folder)
            if_it_fails.pop_all()
        self._session.report(metrics, folder, urgent=urgent)

    def best_model(self) -> Glow:
        """Return the best model by validation, from the last checkpoint."""
        last = self._session.last()
        assert last is not None  # a checkpoint is saved after the last epoch
        with last.as_directory() as folder:
            model = load_checkpoint(Path(folder, BEST), self._session.device)
        return model.set_precision(self._trainer.precision)


def train_loop(config: dict[str, WorkerSettings]) -> Outcome:
    """Run `train_share` in a worker of Ray Train; `config` has the settings under ``settings``."""
    settings = config["settings"]
    return train_share(settings, TrainSession(settings))


@dataclass(frozen=True)
class Outcome:
    """The result of a training.

    Attributes:
        validation_bits_per_dim: the lowest validation score, which is that of the best model.
        test_bits_per_dim: the test set's bits/dim under that model.
        seconds: how long the workers have trained and scored, over all attempts.
    """

    validation_bits_per_dim: float
    test_bits_per_dim: float
    seconds: float

    def metrics(self) -> Metrics:
        """Return what a trial reports to Tune at its end."""
        return {
            SCORE: self.validation_bits_per_dim,
            "test_bits_per_dim": self.test_bits_per_dim,
            "seconds": self.seconds,
        }


def train_share(settings: WorkerSettings, session: Session) -> Outcome:
    """Train on this worker's share of the images until the last epoch, then score the best model.

    The training continues from the last checkpoint if there is one. The worker also scores its part of all images, and
    of the corrupted ones by which a detector is recommended, and sends the scores, its warnings and errors to the
    driver. The first worker on each machine sends what the machine is made of and, at intervals, its load.
    """

    def tell(figures: dict[str, float]) -> None:
        settings.outbox.put(Machine(machine_name(), figures))

    worker = f"[{settings.trial}] worker {session.rank}" if settings.trial else f"worker {session.rank}"
    with logging_to(settings.outbox, worker), sampled(tell) if session.local_rank == 0 else nullcontext():
        if session.local_rank == 0:
            settings.outbox.put(Hardware(machine_name(), machine_facts()))
        return _train_share(settings, session)


def _train_share(settings: WorkerSettings, session: Session) -> Outcome:
    started = time.monotonic()
    set_up_computing(settings.threads)
    spec = settings.spec
    splits = splits_of(settings.data, spec, settings.config)
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
    with Keeper(trainer, session, settings.trial) as keeper:
        progress, earlier = keeper.progress, keeper.progress.seconds
        talker = Talker(settings.outbox, trainer, session)
        talker.attempt(progress)
        plan = SavingPlan(every(spec.checkpoint_every), session.notice, session.device)

        def seconds_so_far() -> float:
            return earlier + time.monotonic() - started

        def save(metrics: Metrics, after_epoch: bool) -> None:
            progress.seconds = seconds_so_far()
            keeper.save(metrics, after_epoch=after_epoch, urgent=plan.urgent)
            plan.saved()

        def save_inside_epoch() -> None:
            if plan.after_step(trainer.step):
                trainer.pool()
                save(INSIDE_EPOCH, after_epoch=False)

        for result in trainer.epochs(talker.step, save_inside_epoch):
            tested = spec.test_every and result.epoch % spec.test_every == 0
            test = mean_bits_per_dim(trainer.evaluated_model, images["test"]) if tested else math.nan
            progress.epochs.append(EpochFigures(**vars(result), test_bits_per_dim_by_epoch=test, time=time.time()))
            talker.epoch(progress.epochs[-1])
            last = result.epoch == spec.epochs
            sampled_now = spec.sample_every and result.epoch % spec.sample_every == 0
            if session.rank == 0 and sampled_now and not last:
                temperature, held_out = spec.temperature, splits["validation"]
                progress.add(draw_samples(trainer.evaluated_model, result.epoch, temperature, held_out))
            if plan.after_epoch(result.epoch, last):
                save(_metrics(progress.epochs[-1], last), after_epoch=True)
        model = keeper.best_model()
    samples = draw_samples(model, trainer.epoch, spec.temperature, splits["validation"]) if session.rank == 0 else None
    total = torch.zeros((), dtype=torch.float64, device=session.device)
    scored = {**splits, CORRUPTED: for_recommendation(splits["validation"])}
    for split, start in shards_of(scored)[session.rank :: session.workers]:
        table = score_shard(model, scored[split], start)
        settings.outbox.put(Scores(split, start, table))
        if split == "test":
            total += table["bits_per_dim"].to_numpy().sum()  # pandas would leave out NaN
    test = all_reduce_sum(total).item() / len(splits["test"])
    if samples is not None:
        settings.outbox.put(Tested(test, samples))
    best = progress.best.validation_bits_per_dim if session.rank == 0 else math.nan
    return Outcome(best, test, seconds_so_far())


def splits_of(data: list[ray.ObjectRef], spec: TrainSpec, config: GlowConfig) -> Splits:
    """Return the images from Ray's object store; open their files if the driver has not put them there.

    Args:
        data: the result of `glowctl.training.ray_trainer.put_data`.
        spec: the settings of the training.
        config: the configuration of the model.
    """
    if not data:
        return open_splits(spec, config.image_shape)
    arrays = ray.get(data[0])
    # Copied into tensors, because Ray's arrays are read-only.
    return {
        split: LazyDataset.held(torch.tensor(images), torch.tensor(labels))
        for split, (images, labels) in arrays.items()
    }


def _metrics(epoch: EpochFigures, last: bool) -> Metrics:
    """Return the metrics of an epoch; a validation score that is not finite becomes `NO_SCORE`."""
    score = epoch.validation_bits_per_dim
    worst = {SCORE: score if math.isfinite(score) else NO_SCORE}
    counted = {} if last else {COUNTED_EPOCH: epoch.epoch}
    return asdict(epoch) | worst | counted


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
        """Send an `Attempt`."""
        self._put(
            Attempt(
                workers=self._workers,
                epoch=self._trainer.epoch,
                device=_device_name(self._trainer.device),
                precision=self._trainer.precision,
                parameters=progress.parameters,
                step=self._trainer.step_of_epoch,
            )
        )

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

    def epoch(self, figures: EpochFigures) -> None:
        """Send an epoch to be shown."""
        self._validation = figures.validation_bits_per_dim
        shown = {name: value for name, value in vars(figures).items() if name != "time"}
        left = self._seconds_left(figures.epoch)
        self._put(Epoch(**shown, epochs=self._trainer.config.epochs, seconds_left=left))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
