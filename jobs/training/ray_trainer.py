"""A training as Ray Train runs it: made the same way by `glowctl train` and by a trial of several workers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError
from ray.train import (
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    UserCallback,
    WorkerGroupError,
)
from ray.train.torch import TorchConfig, TorchTrainer

from glow.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from jobs.ray_runtime.resources import Resources
from jobs.system.environment import in_ray_job
from jobs.training.messages import Outbox
from jobs.training.worker import SCORE, NoRetry, WorkerSettings, train_loop

if TYPE_CHECKING:
    from jobs.training.prepare import Work

__all__ = [
    "cause_of",
    "copy_model",
    "death_behind",
    "plain_reason",
    "put_data",
    "scaling_config",
    "torch_trainer",
    "worker_settings",
]

PATIENCE_FOR_ALL_S = 900
"""How long a training of a fixed number of workers waits for machines to come, or come back, before it tries anew."""

PATIENCE_FOR_SOME_S = 15
"""How long an elastic training does, before it looks again at how many there are."""

STARTS = 10
"""How often the start of all workers together is tried again, after machines that did not come or went meanwhile."""

RESIZE_INTERVAL_S = 10.0
"""How often an elastic training looks whether there is room for more workers."""

UNUSED = ("DatasetsCallback", "PlacementGroupCleanerCallback")
"""Callbacks of Ray Train that each start a process (200 MB): for data sets of Ray Data, of which a training has none,
and to free what a controller has reserved that dies before its driver, with which this driver ends."""


class LeanTrainer(TorchTrainer):
    """Starts two processes less beside a training than Ray Train does by itself, and leaves Ctrl-C to its caller.

    Ray Train's own handler of SIGINT asks the controller to abort, which may be gone, ends in SystemExit, and stays in
    place afterwards. A thread instead would wait in Ray's C++ for ever, and crash the interpreter as it ends.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [each for each in callbacks if type(each).__name__ not in UNUSED]

    def _register_sigint_handler(self, controller: Any) -> None:
        pass


def put_data(work: Work) -> list[ray.ObjectRef]:
    """The images and labels of each split in the object store; in a list, so that Ray hands on the reference and not
    the arrays. Of images that the workers map themselves nothing, and an empty list."""
    if any(images.mapped for images in work.splits.values()):
        return []
    return [ray.put({split: (each.images().numpy(), each.labels.numpy()) for split, each in work.splits.items()})]


def worker_settings(work: Work, resources: Resources, data: list[ray.ObjectRef], outbox: Outbox) -> WorkerSettings:
    """What the workers of a training are told; `data` is of `put_data`."""
    private = work.spec.model_copy(update={"tracking_uri": None})  # which may hold a password
    return WorkerSettings(private, work.config, data, outbox, resources.threads, on_cluster=in_ray_job())


def scaling_config(resources: Resources) -> ScalingConfig:
    """The workers of a training, in the words of Ray Train."""
    least, most = resources.workers
    per_worker = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    # Ray declares the types of its first version of Train here, and runs the second.
    return ScalingConfig(  # type: ignore[call-arg]
        num_workers=most if least == most else (least, most),  # type: ignore[arg-type]
        use_gpu=resources.gpus > 0,
        resources_per_worker=per_worker,
        elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S,
    )


def torch_trainer(
    settings: WorkerSettings, resources: Resources, name: str, callbacks: list[UserCallback] | None = None
) -> TorchTrainer:
    """Makes a trainer that continues by itself where one of the same name and output stopped.

    A trial of Tune, which has `callbacks`, takes Ray's own trainer: when a trial is killed, its driver lives on and
    needs what the trial had reserved.
    """
    least, most = resources.workers
    patience = PATIENCE_FOR_ALL_S if least == most else PATIENCE_FOR_SOME_S
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(patience))
    trainer = LeanTrainer if callbacks is None else TorchTrainer
    # Ray declares the types of its first version of Train, and runs the second.
    return trainer(
        train_loop,  # type: ignore[arg-type]
        train_loop_config={"settings": settings},
        scaling_config=scaling_config(resources),
        torch_config=TorchConfig(backend=resources.backend),
        run_config=RunConfig(
            name=name,
            storage_path=settings.spec.output,
            callbacks=[NoRetry(), *(callbacks or [])],  # type: ignore[list-item]
            # Without a limit an error of the controller itself is retried for ever.
            failure_config=FailureConfig(  # type: ignore[call-arg]
                max_failures=settings.spec.max_failures, controller_failure_limit=STARTS
            ),
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute=SCORE, checkpoint_score_order="min"
            ),
        ),
    )


def cause_of(error: Exception) -> Exception:
    """What failed in a worker, out of what Ray Train raises for it; any other error as it is."""
    if isinstance(error, ControllerError):
        return error.controller_failure
    if isinstance(error, WorkerGroupError):
        return error.worker_failures[min(error.worker_failures)]
    return error


def plain_reason(error: Exception) -> str:
    """A worker's error in a line."""
    if isinstance(error, OSError) and error.errno is not None:
        return f"{os.strerror(error.errno)} ({str(error).splitlines()[0]})"
    if NoRetry.is_final(error):
        return str(error)
    death = death_behind(error)
    if death is not None:
        short = isinstance(death, OutOfMemoryError)
        return "Ray killed its process because memory was short" if short else "its process died"
    if isinstance(error, RayError):
        return str(error).strip().splitlines()[-1]
    return f"{type(error).__name__}: {error}"


def death_behind(error: BaseException | None) -> RayError | None:
    """The death of a process on Ray that an error came of, at whatever remove; None if it came of something else."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, (OutOfMemoryError, RayActorError)):
            return error
        seen.add(id(error))
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return None


def copy_model(source: str | Path, folder: Path) -> None:
    """The model of a checkpoint without the state of its training, which is twice its size."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (WEIGHTS_FILE, CONFIG_FILE):
        shutil.copy(Path(source, file), folder / file)
