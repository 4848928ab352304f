"""What runs in each worker of a training: one process's share, its checkpoints, and rank 0's events."""

from __future__ import annotations

import errno
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, UserCallback

from glow.checkpoint import CheckpointError, load_checkpoint
from glow.config import GlowConfig
from glow.datasets import LazyDataset
from glow.model import Glow
from glow.scoring import score_shard, shards_of
from glow.training import EpochResult, StepResult, Trainer, TrainingDiverged, mean_bits_per_dim
from jobs.display.events import Epoch, Step
from jobs.specs.every import every
from jobs.specs.training import TrainSpec
from jobs.system.machine_metrics import machine_name, sampled
from jobs.system.process_setup import set_up_process
from jobs.training.data import Splits, is_packed, open_splits
from jobs.training.history import EpochMetrics, read_history, write_history
from jobs.training.messages import Attempt, FinalScore, Machine, Message, Outbox, Scores
from jobs.training.samples import draw_samples
from jobs.training.saving import SavingPlan

__all__ = [
    "COUNTED_EPOCH",
    "SCORE",
    "Metrics",
    "NoRetry",
    "Outcome",
    "Session",
    "WorkerSettings",
    "save",
    "train_loop",
    "train_share",
]

SCORE = "validation_bits_per_dim"
"""The metric by which the best checkpoint is kept."""

INSIDE_EPOCH = {SCORE: sys.float_info.max}
"""What is reported of a checkpoint inside an epoch, which is kept until the next: no model to choose. Ray keeps metrics
as JSON, which has no infinity."""

NO_SCORE = sys.float_info.max / 2
"""The score of a model whose validation images have no finite one: the worst at the end of an epoch."""

COUNTED_EPOCH = "counted_epoch"
"""The metric that the schedulers of an ablation count in. The last epoch does not report it, so that a training that
has come to its end is never stopped before its test."""

Metrics = dict[str, float]
"""What is reported with a checkpoint: the fields of `glow.training.EpochResult` and some more."""


@dataclass(frozen=True)
class WorkerSettings:
    """What every worker of a training is told. `spec` has no tracking URI, which may hold a password; `data` is of
    `jobs.training.ray_trainer.put_data`, empty if each worker maps the images itself; `threads` are torch's."""

    spec: TrainSpec
    config: GlowConfig
    data: list[ray.ObjectRef]
    outbox: Outbox
    threads: int
    on_cluster: bool = False
    """Whether machines may be taken away, of which Ray then tells."""


@dataclass(frozen=True)
class Outcome:
    """What a training came to: the metrics of the best checkpoint by validation, the test set's bits/dim under that
    model, and all epochs."""

    best: Metrics
    test_bits_per_dim: float
    history: Sequence[EpochMetrics]

    def metrics(self) -> dict[str, Any]:
        """What Tune is told of a trial's end."""
        return {"best": self.best, "test_bits_per_dim": self.test_bits_per_dim}


class NoRetry(UserCallback):
    """Ends a training at once for an error that a restart would only meet again. Runs in Ray's controller."""

    @staticmethod
    def is_final(error: Exception) -> bool:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        return full or isinstance(error, (TrainingDiverged, CheckpointError, ValueError))

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if self.is_final(error):
                raise error


class Session(Protocol):
    """How a process that trains stands with the library of Ray that started it: Train here, Tune in
    `jobs.ablation.trial`."""

    rank: int
    local_rank: int  # among those on this machine
    workers: int
    device: torch.device

    def restored(self) -> AbstractContextManager[str | Path | None]:
        """The folder of the last checkpoint, None at the very start."""

    def report(self, trainer: Trainer, history: Sequence[EpochMetrics], metrics: Metrics) -> None:
        """A checkpoint with its metrics, of which the one with the lowest `SCORE` is kept beside the last. Every rank
        must call this; it waits for all."""

    def best(self) -> AbstractContextManager[tuple[str | Path, Metrics]]:
        """The folder of the best checkpoint so far, and its metrics."""

    def notice(self) -> float | None:
        """When a machine of this training will be taken, if that is known; None if none will. Every rank must call it
        at the same steps."""


class TrainSession:
    """A worker of Ray Train."""

    def __init__(self, on_cluster: bool) -> None:
        context = ray.train.get_context()
        self._on_cluster = on_cluster
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()
        self.local_rank = context.get_local_rank()
        self.device = ray.train.torch.get_device()

    @contextmanager
    def restored(self) -> Iterator[str | None]:
        checkpoint = ray.train.get_checkpoint()
        with nullcontext() if checkpoint is None else checkpoint.as_directory() as folder:
            yield folder

    def report(self, trainer: Trainer, history: Sequence[EpochMetrics], metrics: Metrics) -> None:
        if self.rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            save(trainer, history, folder)
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))

    @contextmanager
    def best(self) -> Iterator[tuple[str, Metrics]]:
        best = min(ray.train.get_all_reported_checkpoints(), key=lambda reported: reported.metrics[SCORE])
        with best.checkpoint.as_directory() as folder:
            yield folder, best.metrics

    def notice(self) -> float | None:
        if not self._on_cluster:  # nobody takes this machine
            return None
        told = ray.train.get_preemption_info()
        return None if told is None else float(told.deadline_ms or 0)


def save(trainer: Trainer, history: Sequence[EpochMetrics], folder: str | Path) -> None:
    """A checkpoint. Raises CheckpointError or OSError."""
    trainer.save(folder)
    write_history(history, folder)


def restore(trainer: Trainer, folder: str | Path) -> list[EpochMetrics]:
    """Goes back to where `save` was called. Raises CheckpointError."""
    trainer.restore(folder)
    return read_history(folder)


def train_loop(config: dict[str, WorkerSettings]) -> Outcome:
    """`train_share` in a worker of Ray Train, by the ``settings`` in its config."""
    settings = config["settings"]
    return train_share(settings, TrainSession(settings.on_cluster))


def train_share(settings: WorkerSettings, session: Session) -> Outcome:
    """Trains this process's share from the last checkpoint, if there is one, to the end, and scores the test set; the
    first process of each machine tells how that is doing. The scores of `glow.scoring.SCORED` are sent to the driver.
    """

    def tell(figures: dict[str, float]) -> None:
        settings.outbox.put(Machine(machine_name(), figures))

    with sampled(tell) if session.local_rank == 0 else nullcontext():
        return _train_share(settings, session)


def _train_share(settings: WorkerSettings, session: Session) -> Outcome:
    set_up_process()  # on a cluster, whose workers are not preloaded
    spec = settings.spec
    torch.set_num_threads(settings.threads)
    splits = _splits(settings)
    packed = is_packed(spec.dataset)  # such a data set says in which order its images come
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
        history = [] if folder is None else restore(trainer, folder)
    talker = Talker(settings.outbox, trainer, session)
    talker.attempt(history)
    plan = SavingPlan(every(spec.checkpoint_every), session.notice, session.device)

    def save_inside_epoch() -> None:
        if plan.after_step(trainer.step):
            trainer.pool()
            session.report(trainer, history, INSIDE_EPOCH)
            plan.saved()

    for result in trainer.epochs(talker.step, save_inside_epoch):
        tested = spec.test_every and result.epoch % spec.test_every == 0
        test = mean_bits_per_dim(trainer.evaluated_model, images["test"]) if tested else math.nan
        told = talker.epoch(result, test)
        history.append(EpochMetrics.of({**vars(told), "time": time.time()}))
        last = result.epoch == spec.epochs
        if not last and spec.sample_every and result.epoch % spec.sample_every == 0:
            talker.samples(trainer.evaluated_model, spec.temperature, splits["validation"])
        if plan.after_epoch(result.epoch, last):
            session.report(trainer, history, _metrics(result, test, last))
            plan.saved()
    with session.best() as (folder, best):
        model = load_checkpoint(folder, session.device).set_precision(trainer.precision)
    talker.samples(model, spec.temperature, splits["validation"])
    test = mean_bits_per_dim(model, images["test"])
    talker.final_score(test)
    for split, start in shards_of(splits)[session.rank :: session.workers]:
        table = score_shard(model, splits[split], start)
        settings.outbox.put(Scores(split, start, table))
    return Outcome(best, test, history)


def _splits(settings: WorkerSettings) -> Splits:
    """The images that the driver has put in the object store, or has left where they lie."""
    if not settings.data:
        return open_splits(settings.spec, settings.config.image_shape)
    data = ray.get(settings.data[0])
    # Ray's arrays are read-only; torch wants its own.
    return {
        split: LazyDataset.held(torch.tensor(images), torch.tensor(labels)) for split, (images, labels) in data.items()
    }


def _metrics(result: EpochResult, test_bits_per_dim: float, last: bool) -> Metrics:
    """What is reported of an epoch. A model whose validation images have no finite score is the worst of all."""
    score = result.validation_bits_per_dim
    worst = {SCORE: score if math.isfinite(score) else NO_SCORE}
    counted = {} if last else {COUNTED_EPOCH: result.epoch}
    return result.to_dict() | worst | counted | {"test_bits_per_dim_by_epoch": test_bits_per_dim}


class Talker:
    """Rank 0's messages to the driver; the other ranks send none."""

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
        """From the pace of this attempt."""
        done = epochs_done - self._first_epoch
        left = self._trainer.config.epochs - epochs_done
        return (time.monotonic() - self._started) / done * left if done > 0 else math.nan

    def attempt(self, history: Sequence[EpochMetrics]) -> None:
        self._put(
            Attempt(
                workers=self._workers,
                epoch=self._trainer.epoch,
                history=tuple(history),
                device=_device_name(self._trainer.device),
                precision=self._trainer.precision,
                parameters=sum(parameter.numel() for parameter in self._trainer.model.parameters()),
                step=self._trainer.step_of_epoch,
            )
        )

    def step(self, result: StepResult) -> None:
        self._put(
            Step(
                **vars(result),
                validation_bits_per_dim=self._validation,
                epochs=self._trainer.config.epochs,
                seconds_left=self._seconds_left(result.epoch - 1 + result.step / result.steps),
            )
        )

    def epoch(self, result: EpochResult, test_bits_per_dim: float) -> Epoch:
        """`test_bits_per_dim` is NaN where the test set was not scored. Returns what is sent."""
        self._validation = result.validation_bits_per_dim
        told = Epoch(
            **vars(result),
            test_bits_per_dim_by_epoch=test_bits_per_dim,
            epochs=self._trainer.config.epochs,
            seconds_left=self._seconds_left(result.epoch),
        )
        self._put(told)
        return told

    def samples(self, model: Glow, temperature: float, images: LazyDataset) -> None:
        if self._outbox is not None:
            self._put(draw_samples(model, self._trainer.epoch, temperature, images))

    def final_score(self, test_bits_per_dim: float) -> None:
        self._put(FinalScore(test_bits_per_dim))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
