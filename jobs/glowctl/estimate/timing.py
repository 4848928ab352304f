"""Time the work of a training or of a scoring in a Ray task, which has the resources of one worker."""

from __future__ import annotations

import math
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from glow.config import GlowConfig
from glow.model import Glow
from glow.scoring import BATCH_SIZE, score
from glow.training.trainer import EVALUATION_BATCH, Trainer, mean_bits_per_dim
from glowctl.evaluation.scoring import model_on
from glowctl.specs.training import TrainSpec
from glowctl.system.process_setup import set_up_computing
from glowctl.training.data import Splits, is_packed
from glowctl.training.samples import draw_samples
from glowctl.training.worker import splits_of

WARM_UP_STEPS, WARM_UP_S = 3, 2.0
"""The first steps are not timed, because they choose algorithms and fill caches: that many, or those in this time."""

LONG_S = 0.5
"""A call that takes longer is timed as it is; a shorter one is timed at its second time."""


@dataclass(frozen=True)
class TimedTraining:
    """The measurements of one worker of a training.

    Attributes:
        began: when the worker had its data, in seconds since 1970.
        step: seconds of a step.
        validated: seconds of the validation of an image.
        scored: seconds of the scoring of an image.
        drawn: seconds of a sample grid.
        saved: seconds of a checkpoint.
        checkpoint: bytes of a checkpoint.
        weights: bytes of the weights.
        row: bytes of a row of a score table.
        memory: largest memory of the worker, in bytes.
        gpu_memory: largest memory that torch took of its GPU, in bytes; None without one.
    """

    began: float
    step: float
    validated: float
    scored: float
    drawn: float
    saved: float
    checkpoint: int
    weights: int
    row: float
    memory: float
    gpu_memory: float | None


@dataclass(frozen=True)
class TimedScoring:
    """The measurements of one worker of an evaluation: `began`, `scored`, `row` and memory as in `TimedTraining`.

    Attributes:
        began: when the worker had the model.
        scored: seconds of an image.
        gradients: further seconds of an image with its gradient norms.
        row: bytes of a row of the table.
        memory: largest memory of the worker.
        gpu_memory: largest memory of its GPU.
    """

    began: float
    scored: float
    gradients: float
    row: float
    memory: float
    gpu_memory: float | None


@ray.remote
def time_trainings(
    trainings: Sequence[tuple[TrainSpec, GlowConfig]],
    data: list[ray.ObjectRef],
    threads: int,
    workers: int,
    seconds: float,
) -> list[TimedTraining]:
    """Time the work of one worker in each of several trainings on the same data, one after the other.

    Args:
        trainings: the settings and the model of each.
        data: the result of `glowctl.training.ray_trainer.put_data`.
        threads: number of torch's threads.
        workers: number of workers of each training, which share its batches.
        seconds: how long the steps of each are timed.
    """
    set_up_computing(threads)
    spec, config = trainings[0]
    splits = splits_of(data, spec, config)
    began = time.time()
    return [_time_training(spec, config, splits, began, workers, seconds) for spec, config in trainings]


def _time_training(
    spec: TrainSpec, model_config: GlowConfig, splits: Splits, began: float, workers: int, seconds: float
) -> TimedTraining:
    config = replace(spec.fit_config(), epochs=10**6, batch_size=math.ceil(spec.batch_size / workers))
    train = splits["train"] if is_packed(spec.dataset) else splits["train"].images()
    device = "cuda" if ray.get_gpu_ids() else "cpu"
    trainer = Trainer(Glow(model_config), train, splits["train"].labels, config=config, device=device)
    step = _time_steps(trainer, seconds)
    model, held_out = trainer.evaluated_model, splits["validation"]
    images = held_out.images(0, EVALUATION_BATCH)
    validated = _timed(lambda: mean_bits_per_dim(model, images)) / len(images)
    drawn = _timed(lambda: draw_samples(model, 0, spec.temperature, held_out))
    with tempfile.TemporaryDirectory() as folder:
        saved = _timed(lambda: trainer.save(folder))
        size = sum(path.stat().st_size for path in Path(folder).rglob("*"))
    few = images[:BATCH_SIZE]
    scored = _timed(lambda: score(model, few)) / len(few)
    table = score(model, images[:2])
    weights = sum(weight.nbytes for weight in model.state_dict().values())
    row = table.memory_usage(index=False).sum() / len(table)
    return TimedTraining(began, step, validated, scored, drawn, saved, size, weights, row, *_memory())


class _Enough(Exception):
    """Ends the steps that are timed."""


def _time_steps(trainer: Trainer, seconds: float) -> float:
    """Return the seconds of a step after a warm-up, with its share of the time between epochs."""
    began = _now(trainer.device)
    timed: tuple[int, float] | None = None  # steps and time at the end of the warm-up
    taken = math.nan

    def after_step() -> None:
        nonlocal timed, taken
        if timed is None:
            if trainer.step >= WARM_UP_STEPS or time.perf_counter() - began > WARM_UP_S:
                timed = trainer.step, _now(trainer.device)
        elif time.perf_counter() - timed[1] > seconds and trainer.step > timed[0]:
            taken = (_now(trainer.device) - timed[1]) / (trainer.step - timed[0])
            raise _Enough

    try:
        for _ in trainer.epochs(after_step=after_step):
            after_step()
    except _Enough:
        pass
    return taken


@ray.remote
def time_scoring(reference: list[Any], images: np.ndarray, how: dict[str, Any], threads: int) -> TimedScoring:
    """Time what `glowctl.evaluation.scoring.score_shard` does, with some images after a first pass.

    Args:
        reference: the model (`glowctl.evaluation.scoring.put_model`).
        images: uint8 (N, C, H, W).
        how: further arguments of `glow.scoring.score`.
        threads: number of torch's threads.
    """
    model, began = model_on(reference, threads), time.time()
    images_NCHW, plain = torch.tensor(images), how | {"gradient_stride": 0}
    few = images_NCHW[:8]
    table = score(model, few, **plain)
    scored = _timed(lambda: score(model, images_NCHW, **plain)) / len(images_NCHW)
    gradients = 0.0
    if how["gradient_stride"]:
        both = _timed(lambda: score(model, few, **how | {"gradient_stride": 1})) / len(few)
        gradients = max(0.0, both - scored)
    return TimedScoring(began, scored, gradients, table.memory_usage(index=False).sum() / len(table), *_memory())


def _timed(run: Callable[[], object]) -> float:
    """Return the seconds of a call, which waits for the GPU."""
    for _ in range(2):
        began = time.perf_counter()
        run()
        taken = time.perf_counter() - began
        if taken > LONG_S:
            break
    return taken


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _memory() -> tuple[float, float | None]:
    """Return the largest memory in bytes of this process so far, and of torch on its GPU (None without one)."""
    gpu = float(torch.cuda.max_memory_reserved()) if torch.cuda.is_initialized() else None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0, gpu
