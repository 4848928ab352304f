"""The cost of a job from the measurements of `timing`, and the limits of ``--max-hours`` and ``--max-price``."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from statistics import mean
from typing import Any

import psutil

from glow.datasets.corruptions import CORRUPTIONS, RECOMMENDED_BY
from glowctl.ablation.prepare import Ablation
from glowctl.display.events import Estimated, Plan
from glowctl.errors import JobError
from glowctl.estimate.timing import TimedTraining, time_scoring, time_trainings
from glowctl.evaluation.run import Evaluation
from glowctl.evaluation.scoring import Table, put_model, result_of
from glowctl.outputs import is_remote
from glowctl.ray_runtime.resources import Resources, resources_for
from glowctl.specs.base import every
from glowctl.specs.training import TrainSpec
from glowctl.system.environment import in_ray_job
from glowctl.training.prepare import Work
from glowctl.training.ray_trainer import put_data

STARTS_AND_ENDS = 2.1
"""Duration of the start and the end of a job, in units of the start of the task that times it.

All consist of imports, of processes that start or end, and of requests to MLflow. The factor is measured
(docs/performance.md), and the start is that of the present command.
"""

TIMED_S = 5.0
"""Seconds for which the steps of all configurations are timed, besides at least `LEAST_S` for each."""

LEAST_S = 0.3

MOST_CONFIGURATIONS = 12
"""Largest number of configurations of an ablation that are timed; others count as their mean."""

STORED_S = 0.1
"""Seconds for which a checkpoint delays a training, besides those for writing it: Ray and the workers meet."""

BETWEEN_S = 1.0
"""Seconds between two trials of an ablation (`python -m benchmarks.start_up --trials`)."""


def cost_of_training(work: Work, resources: Resources) -> Estimated:
    """Estimate a whole training from some of its steps. Ray must run.

    Each of its workers is timed while the others are timed too, but without the exchange of gradients.

    Args:
        work: the training.
        resources: its workers.
    """
    workers = resources.workers[1]
    (timed,) = _time([work], resources, workers, workers)
    seconds = _start(timed.began) + training_seconds(work, timed, workers)
    return _estimated(work, timed, seconds, resources, workers, trainings=1)


def cost_of_ablation(ablation: Ablation, planned: Plan) -> Estimated:
    """Estimate a whole ablation from some steps of its configurations. Ray must run.

    As many trials run at the same time as in the ablation. Trials that a scheduler may stop count as whole.

    Args:
        ablation: the ablation.
        planned: the plan of its trials.
    """
    spec, workers = ablation.spec, planned.workers
    resources = Resources((workers, workers), planned.gpus, planned.cpus)
    configurations = spec.configurations()
    chosen = configurations[:: math.ceil(len(configurations) / MOST_CONFIGURATIONS)]
    specs = [spec.trial_spec({**values, "seed": spec.all_seeds[0]}) for values in chosen]
    works = [ablation.work.variant(each, each) for each in specs]
    timed = _time(works, resources, workers, planned.at_a_time * workers)
    taken = [training_seconds(work, each, workers) for work, each in zip(works, timed, strict=True)]
    known = {str(values): seconds for values, seconds in zip(chosen, taken, strict=True)}
    trials = [known.get(str(values), mean(taken)) for values in configurations] * spec.seeds
    seconds = _start(timed[0].began) + makespan(trials, planned.at_a_time)
    largest = max(timed, key=lambda each: each.memory)
    return _estimated(ablation.work, largest, seconds, resources, planned.at_a_time * workers, planned.trials)


def cost_of_evaluation(work: Evaluation[Any]) -> Estimated:
    """Estimate an evaluation that scores data sets: start, scoring and end, but not the tests of ``ood``. Ray must run.

    Scores that MLflow has cost nothing.
    """
    if work.features is not None and work.features.missing:
        raise JobError(
            "the time of an encoder is not estimated",
            remedy="run glowctl ood without an estimate; docs/evaluation.md has the seconds per image of --encoder",
            code="encoder-not-estimated",
        )
    missing = [*work.missing, *(work.background.missing if work.background else ())]
    spec, images = work.spec, work.tables[0].images
    resources = resources_for(spec, (spec.workers, spec.workers) if spec.workers else None)
    workers = resources.workers[1]
    arguments = put_model(work.model), images.images(0, 250).numpy(), work.tables[0].how, resources.threads
    task = time_scoring.options(**resources.task_options(), scheduling_strategy="SPREAD")
    (timed, *_) = [result_of(each) for each in [task.remote(*arguments) for _ in range(_at_once(workers))]]

    def seconds_of(table: Table) -> float:
        stride = table.how["gradient_stride"]
        return len(table.images) * (timed.scored + (timed.gradients / stride if stride else 0.0))

    seconds = _start(timed.began) + sum(map(seconds_of, missing)) / workers
    return Estimated(
        seconds=seconds,
        memory_megabytes=timed.memory / 1e6,
        gpu_memory_megabytes=None if timed.gpu_memory is None else timed.gpu_memory / 1e6,
        disk_megabytes=sum(len(table.images) for table in missing) * timed.row / 1e6,
        network_megabytes=sum(table.images.nbytes for table in missing) / 1e6 if in_ray_job() else 0.0,
        units=workers * (resources.gpus or resources.cpus),
        unit="GPU" if resources.gpus else "core",
    )


def refuse(estimate: Estimated, limits: TrainSpec) -> None:
    """Raise JobError if an estimate exceeds ``--max-hours`` or ``--max-price``."""
    hours, price = estimate.seconds / 3600, estimate.price
    if limits.max_hours is not None and hours > limits.max_hours:
        raise _exceeded(f"take about {hours:.3g} hours", f"--max-hours {limits.max_hours:g}")
    if limits.max_price is not None and price is not None and price > limits.max_price:
        raise _exceeded(f"cost about {price:.3g}", f"--max-price {limits.max_price:g}")


def _exceeded(what: str, limit: str) -> JobError:
    return JobError(
        f"the run would {what}, more than {limit}",
        remedy="raise the limit, or make the run smaller",
        code="limit-exceeded",
    )


def _start(began: float) -> float:
    """Return the seconds for the start and the end of a job, from the time at which a task of this command began."""
    return STARTS_AND_ENDS * (began - psutil.Process().create_time())


def _at_once(tasks: int) -> int:
    """Return how many tasks run together: all on this machine, where they share the cores, and one on a cluster."""
    return 1 if in_ray_job() else tasks


def _time(works: Sequence[Work], resources: Resources, workers: int, tasks: int) -> list[TimedTraining]:
    """Time trainings in several tasks at once; return for each training the measurements of the first task.

    The other tasks are there to slow it down, as the other workers or trials will.
    """
    data = put_data(works[0])
    configurations = [(work.spec.model_copy(update={"tracking_uri": None}), work.config) for work in works]
    task = time_trainings.options(**resources.task_options(), scheduling_strategy="SPREAD")
    seconds = max(LEAST_S, TIMED_S / len(works))
    arguments = configurations, data, resources.threads, workers, seconds
    running = [task.remote(*arguments) for _ in range(_at_once(tasks))]
    first, *_ = [result_of(each) for each in running]
    return first


def training_seconds(work: Work, timed: TimedTraining, workers: int) -> float:
    """Return how long the workers of a training train, validate, draw, save and score.

    Args:
        work: the training.
        timed: the measurements of a worker.
        workers: number of workers.
    """
    spec, sizes = work.spec, {split: len(images) for split, images in work.splits.items()}
    steps = spec.epochs * math.ceil(sizes["train"] / spec.batch_size)
    grids = 1 + (spec.epochs // spec.sample_every if spec.sample_every else 0)
    tested = spec.epochs // spec.test_every * sizes["test"] if spec.test_every else 0
    scored = sum(sizes.values()) + len(CORRUPTIONS) * min(RECOMMENDED_BY, sizes["validation"])
    return (
        steps * timed.step
        + (spec.epochs * sizes["validation"] + tested) * timed.validated / workers
        + scored * timed.scored / workers
        + grids * timed.drawn
        + _checkpoints(spec, steps, timed.step) * (timed.saved + STORED_S)
    )


def _checkpoints(spec: TrainSpec, steps: int, step: float) -> float:
    interval = every(spec.checkpoint_every)
    if interval.epochs is not None:
        return math.ceil(spec.epochs / interval.epochs)
    return spec.epochs + steps / (interval.steps or max(1.0, (interval.seconds or 0.0) / step))


def makespan(durations: Sequence[float], places: int) -> float:
    """Return when the last of some trials ends, if each starts, in order, in the place that is free first.

    Examples:
        >>> makespan([3.0, 1.0, 1.0], places=2)
        3.0
    """
    free = [-BETWEEN_S] * places
    for duration in durations:
        heapq.heappush(free, heapq.heappop(free) + BETWEEN_S + duration)
    return max(free)


def _estimated(
    work: Work, timed: TimedTraining, seconds: float, resources: Resources, workers: int, trainings: int
) -> Estimated:
    spec, units = work.spec, workers * (resources.gpus or resources.cpus)
    rows = sum(len(images) for images in work.splits.values())
    return Estimated(
        seconds=seconds,
        memory_megabytes=timed.memory / 1e6,
        gpu_memory_megabytes=None if timed.gpu_memory is None else timed.gpu_memory / 1e6,
        disk_megabytes=trainings * (timed.checkpoint + 2 * timed.weights + rows * timed.row) / 1e6,
        network_megabytes=trainings * _network(work, timed, resources.workers[1]) / 1e6,
        units=units,
        unit="GPU" if resources.gpus else "core",
        price=None if spec.price is None else seconds / 3600 * units * spec.price,
    )


def _network(work: Work, timed: TimedTraining, workers: int) -> float:
    """Return the bytes that a training sends: images, gradients in a ring, and checkpoints to a bucket."""
    spec = work.spec
    steps = spec.epochs * math.ceil(len(work.splits["train"]) / spec.batch_size)
    stored = timed.checkpoint * _checkpoints(spec, steps, timed.step) if is_remote(spec.output) else 0.0
    if not in_ray_job():
        return stored
    images = workers * sum(images.nbytes for images in work.splits.values())
    part = 0.5 if spec.gradient_precision == "bf16" else 1.0
    return stored + images + 2 * (workers - 1) * timed.weights * part * steps
