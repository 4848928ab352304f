"""What runs in each worker of a training: one process's share, its checkpoints, and rank 0's events."""

from __future__ import annotations

import errno
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, UserCallback

from glow.checkpoint import CheckpointError, load_checkpoint
from glow.config import GlowConfig
from glow.dequantization import dequantize, uniform_noise
from glow.model import Glow
from glow.scoring import score_shard, shards_of
from glow.training import EpochResult, StepResult, Trainer, TrainingDiverged, mean_bits_per_dim
from jobs.specs.training import TrainSpec
from jobs.system.machine_metrics import machine_name, sampled
from jobs.system.process_setup import set_up_process

__all__ = ["COUNTED_EPOCH", "SCORE", "History", "NoRetry", "Session", "save", "train_loop", "train_share"]

SCORE = "validation_bits_per_dim"
"""The metric by which the best checkpoint is kept."""

COUNTED_EPOCH = "counted_epoch"
"""The metric that the schedulers of an ablation count in. The last epoch does not report it, so that a training that
has come to its end is never stopped before its test."""

INVERTED_IMAGES = 32

HISTORY_FILE = "history.json"

History = list[dict[str, Any]]
"""What ``epoch`` events say of each epoch, less what only the display needs. It is in every checkpoint: a driver may
die before it has recorded an epoch, and training then goes on after it."""


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

    def report(self, trainer: Trainer, history: History, metrics: dict[str, Any]) -> None:
        """A checkpoint with its metrics, of which the one with the lowest `SCORE` is kept beside the last. Every rank
        must call this; it waits for all."""

    def best(self) -> AbstractContextManager[tuple[str | Path, dict[str, Any]]]:
        """The folder of the best checkpoint so far, and its metrics."""


class TrainSession:
    """A worker of Ray Train."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()
        self.local_rank = context.get_local_rank()
        self.device = ray.train.torch.get_device()

    @contextmanager
    def restored(self) -> Iterator[str | None]:
        checkpoint = ray.train.get_checkpoint()
        with nullcontext() if checkpoint is None else checkpoint.as_directory() as folder:
            yield folder

    def report(self, trainer: Trainer, history: History, metrics: dict[str, Any]) -> None:
        if self.rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            save(trainer, history, folder)
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))

    @contextmanager
    def best(self) -> Iterator[tuple[str, dict[str, Any]]]:
        best = min(ray.train.get_all_reported_checkpoints(), key=lambda reported: reported.metrics[SCORE])
        with best.checkpoint.as_directory() as folder:
            yield folder, best.metrics


def save(trainer: Trainer, history: History, folder: str | Path) -> None:
    """A checkpoint. Raises CheckpointError or OSError."""
    trainer.save(folder)
    Path(folder, HISTORY_FILE).write_text(json.dumps(history))


def restore(trainer: Trainer, folder: str | Path) -> History:
    """Goes back to where `save` was called. Raises CheckpointError."""
    trainer.restore(folder)
    file = Path(folder, HISTORY_FILE)
    try:
        history: History = json.loads(file.read_text())
    except FileNotFoundError:  # a checkpoint of an older glowctl
        return []
    except ValueError:
        raise CheckpointError(f"{file} is damaged: use another checkpoint") from None
    return history


def train_loop(settings: dict[str, Any]) -> dict[str, Any]:
    """`train_share` in a worker of Ray Train."""
    return train_share(settings, TrainSession())


def train_share(settings: dict[str, Any], session: Session) -> dict[str, Any]:
    """Trains this process's share from the last checkpoint, if there is one, to the end, and scores the test set; the
    first process of each machine tells how that is doing.

    It gives ``best``, the metrics of the best checkpoint by validation, and ``test_bits_per_dim``, the test set's under
    that model. The scores of `glow.scoring.SCORED` go into the queue as ``scores``: split, start, table.
    """

    def tell(figures: dict[str, float]) -> None:
        about = {"event": "machine", **settings["facts"], "machine": machine_name()}
        settings["queue"].put({**about, "metrics": figures})

    with sampled(tell) if session.local_rank == 0 else nullcontext():
        return _train_share(settings, session)


def _train_share(settings: dict[str, Any], session: Session) -> dict[str, Any]:
    set_up_process()  # on a cluster, whose workers are not preloaded
    spec = TrainSpec(**settings["spec"])
    torch.set_num_threads(settings["threads"])
    data = ray.get(settings["data"][0])
    # Ray's arrays are read-only; torch wants its own.
    images, labels = ({split: torch.tensor(array) for split, array in data[of].items()} for of in ("images", "labels"))
    trainer = Trainer(
        Glow(GlowConfig.from_dict(settings["config"])),
        images["train"],
        labels["train"],
        validation=images["validation"],
        config=spec.fit_config(),
        device=session.device,
    )
    with session.restored() as folder:
        history = [] if folder is None else restore(trainer, folder)
    talker = Talker(settings["queue"], settings["facts"], trainer, session)
    talker.attempt(history)
    for result in trainer.epochs(on_step=talker.step):
        tested = spec.test_every and result.epoch % spec.test_every == 0
        test = mean_bits_per_dim(trainer.evaluated_model, images["test"]) if tested else math.nan
        history.append(result.to_dict() | {"test_bits_per_dim_by_epoch": test})
        talker.epoch(result, test)
        last = result.epoch == spec.epochs
        if not last and spec.sample_every and result.epoch % spec.sample_every == 0:
            talker.samples(trainer.evaluated_model, settings["grid"], spec.temperature, images["validation"])
        if last or result.epoch % spec.checkpoint_every == 0:
            session.report(trainer, history, _metrics(result, test, last))
    with session.best() as (folder, best):
        model = load_checkpoint(folder, session.device).set_precision(trainer.precision)
    talker.samples(model, settings["grid"], spec.temperature, images["validation"])
    test = mean_bits_per_dim(model, images["test"])
    talker.test(test)
    for split, start in shards_of(images)[session.rank :: session.workers]:
        table = score_shard(model, images[split], labels[split], start)
        settings["queue"].put({"event": "scores", **settings["facts"], "split": split, "start": start, "table": table})
    return {"best": best, "test_bits_per_dim": test}


def _metrics(result: EpochResult, test_bits_per_dim: float, last: bool) -> dict[str, Any]:
    """What is reported of an epoch. A model whose validation images have no finite score is the worst of all."""
    score = result.validation_bits_per_dim
    worst = {SCORE: score if math.isfinite(score) else math.inf}
    counted = {} if last else {COUNTED_EPOCH: result.epoch}
    return result.to_dict() | worst | counted | {"test_bits_per_dim_by_epoch": test_bits_per_dim}


class Talker:
    """Rank 0's events to the driver; the other ranks' methods do nothing."""

    def __init__(self, queue: Any, facts: Mapping[str, Any], trainer: Trainer, session: Session) -> None:
        self._queue = queue if session.rank == 0 else None
        self._facts = facts  # that every event bears
        self._workers = session.workers
        self._trainer = trainer
        self._first_epoch = trainer.epoch
        self._started = time.monotonic()
        self._validation = math.nan

    def _put(self, event: str, **facts: Any) -> None:
        if self._queue is not None:
            self._queue.put({"event": event, **self._facts, **facts})

    def _seconds_left(self, epochs_done: float) -> float:
        """From the pace of this attempt."""
        done = epochs_done - self._first_epoch
        left = self._trainer.config.epochs - epochs_done
        return (time.monotonic() - self._started) / done * left if done > 0 else math.nan

    def attempt(self, history: History) -> None:
        self._put(
            "attempt",
            workers=self._workers,
            epoch=self._trainer.epoch,
            history=history,
            device=_device_name(self._trainer.device),
            precision=self._trainer.precision,
            parameters=sum(parameter.numel() for parameter in self._trainer.model.parameters()),
        )

    def step(self, result: StepResult) -> None:
        left = self._seconds_left(result.epoch - 1 + result.step / result.steps)
        self._put(
            "step",
            **vars(result),
            validation_bits_per_dim=self._validation,
            epochs=self._trainer.config.epochs,
            seconds_left=left,
        )

    def epoch(self, result: EpochResult, test_bits_per_dim: float) -> None:
        """`test_bits_per_dim` is NaN where the test set was not scored."""
        self._validation = result.validation_bits_per_dim
        self._put(
            "epoch",
            **result.to_dict(),
            test_bits_per_dim_by_epoch=test_bits_per_dim,
            epochs=self._trainer.config.epochs,
            seconds_left=self._seconds_left(result.epoch),
        )

    def samples(self, model: Glow, n: int, temperature: float, images: torch.Tensor) -> None:
        """Samples of the model, always from the same noise, and how exactly it inverts real images."""
        if self._queue is None:
            return
        classes = model.config.num_classes
        labels = None if classes is None else torch.arange(n) * classes // n
        samples = model.sample(n, temperature, torch.Generator().manual_seed(0), labels)
        error = inverse_error(model, images[:INVERTED_IMAGES])
        self._put("samples", epoch=self._trainer.epoch, images=samples.cpu().numpy(), inverse_error=error)

    def test(self, bits_per_dim: float) -> None:
        self._put("test", bits_per_dim=bits_per_dim)


@torch.no_grad()
def inverse_error(model: Glow, images: torch.Tensor) -> float:
    """The largest error of inverse(forward(x)) over all pixels, in grey levels of 256."""
    noise = uniform_noise(torch.arange(len(images)), model.config.image_shape).to(model.device)
    x_BCHW = dequantize(images.to(model.device), noise)
    return (model.inverse(model(x_BCHW)[0]) - x_BCHW).abs().max().item() * 256


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
