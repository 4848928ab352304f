"""The Ray Train trainer of a training, the callbacks that run in its controller, and the errors that it raises.

`glowctl train` makes its trainer here, and so does a trial of an ablation that has several workers.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError
from ray.train import (
    Checkpoint,
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
from glow.errors import CheckpointError, TrainingDiverged
from glowctl.errors import refused_by_disk
from glowctl.ray_runtime.ray_internals import start_fewer_train_processes
from glowctl.ray_runtime.resources import Resources
from glowctl.system.environment import in_ray_job
from glowctl.training.messages import Outbox, Stored, WorkerSettings
from glowctl.training.progress import BEST, Stood, next_name
from glowctl.training.worker import train_loop

if TYPE_CHECKING:
    from glowctl.training.prepare import Work

STARTS = 10
"""How often the start of the group of workers is tried again after machines were missing or were lost during it."""

RESIZE_INTERVAL_S = 10.0
"""Seconds between two checks of an elastic training for room for more workers."""

PATIENCE_FOR_ALL_S = 900
"""How long a training with a fixed number of workers waits for machines before it tries to start again, in seconds."""

PATIENCE_FOR_SOME_S = 15
"""How long an elastic training waits for machines before it counts again how many there are, in seconds."""


class NoRetry(UserCallback):
    """A callback in Ray's controller that ends a training at once after an error that a restart would meet again."""

    @staticmethod
    def is_final(error: Exception) -> bool:
        """Return whether the error would occur again after a restart.

        It would if the disk or the user's quota is full, the file system is read-only, training diverged, or a
        checkpoint is damaged. A ValueError would too, because it means that settings or data are wrong.
        """
        return refused_by_disk(error) or isinstance(error, (TrainingDiverged, CheckpointError, ValueError))

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the first error of the workers for which `is_final` is true, which ends the training."""
        for error in worker_exceptions.values():
            if self.is_final(error):
                raise error


class StoredNotices(UserCallback):
    """A callback in Ray's controller that sends a `Stored` message for each checkpoint after an epoch.

    Ray calls it when it has the checkpoint from which it restarts the workers of the training.

    Args:
        outbox: the queue to the driver.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def after_report(self, run_context: Any, metrics: list[dict[str, float]], checkpoint: Checkpoint | None) -> None:
        """Send the message about a checkpoint of rank 0, unless it was saved inside an epoch."""
        if checkpoint is not None and "epoch" in metrics[0]:
            self._outbox.put(Stored(checkpoint.path))


def put_data(work: Work) -> list[ray.ObjectRef]:
    """Put the images and labels of each split into Ray's object store.

    Returns:
        A list of one reference, because Ray passes a reference inside a list on as a reference, and would replace a
        bare one by the arrays. The list is empty if the workers map the images from files themselves.
    """
    if any(images.mapped for images in work.splits.values()):
        return []
    return [ray.put({split: (each.images().numpy(), each.labels.numpy()) for split, each in work.splits.items()})]


def worker_settings(
    work: Work, resources: Resources, data: list[ray.ObjectRef], outbox: Outbox, start: Checkpoint | None = None
) -> WorkerSettings:
    """Return the settings for the workers of a training.

    Args:
        work: the training.
        resources: the workers.
        data: the result of `put_data`.
        outbox: the queue to the driver.
        start: the checkpoint from which the training continues; None at its start.
    """
    private = work.spec.model_copy(update={"tracking_uri": None})  # the URI may hold a password
    return WorkerSettings(private, work.config, data, outbox, resources.threads, in_ray_job(), start)


def scaling_config(resources: Resources) -> ScalingConfig:
    """Return Ray Train's description of the workers: a fixed number, or (least, most) for an elastic training."""
    least, most = resources.workers
    per_worker = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    # Ray declares the types of Train V1 here but runs Train V2.
    return ScalingConfig(  # type: ignore[call-arg]
        num_workers=most if least == most else (least, most),  # type: ignore[arg-type]
        use_gpu=resources.gpus > 0,
        resources_per_worker=per_worker,
        elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S,
    )


def torch_trainer(
    settings: WorkerSettings, resources: Resources, place: str, callbacks: Sequence[UserCallback] = ()
) -> TorchTrainer:
    """Make a trainer that starts the training at `settings.start`.

    Every trainer is a new experiment of Ray Train, which reads no file that an earlier one has left.

    Args:
        settings: the settings for the workers.
        resources: the number of workers and what each gets.
        place: the folder of the training, or its URI in a bucket. The experiment has a new folder in it.
        callbacks: Ray Train's callbacks, in addition to `NoRetry` and `StoredNotices`.
    """
    least, most = resources.workers
    patience = PATIENCE_FOR_ALL_S if least == most else PATIENCE_FOR_SOME_S
    # Ray Train has only an environment variable for the time that it waits for machines.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(patience))
    run_config = RunConfig(
        name=next_name(place, "attempt"),
        storage_path=place,
        # Ray declares the types of Train V1 but runs Train V2.
        callbacks=[NoRetry(), StoredNotices(settings.outbox), *callbacks],  # type: ignore[list-item]
        # Without a limit, Ray retries an error of the controller itself forever.
        failure_config=FailureConfig(  # type: ignore[call-arg]
            max_failures=settings.spec.max_failures, controller_failure_limit=STARTS
        ),
        checkpoint_config=CheckpointConfig(num_to_keep=1),
    )
    return TorchTrainer(
        train_loop,  # type: ignore[arg-type]  # Ray Train V2 returns its result
        train_loop_config={"settings": settings},
        scaling_config=scaling_config(resources),
        run_config=run_config,
        torch_config=TorchConfig(backend=resources.backend),
    )


def fit(trainer: TorchTrainer) -> None:
    """Run a training in the main thread.

    There, Ray Train handles Ctrl-C: it ends the workers, withdraws its request for machines, and exits. Without this, a
    cluster would reserve the machines for three more minutes, and an elastic training that starts in this time would
    wait for them. This function passes SIGTERM and SIGHUP to the same handler, and interrupts the caller in place of an
    exit.

    Raises:
        ControllerError, WorkerGroupError: if the training fails.
        RayActorError: if the process that controls the training dies.
        KeyboardInterrupt: after one of these signals.
    """
    start_fewer_train_processes(trainer)
    before = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit()
    except SystemExit:
        raise KeyboardInterrupt from None
    except KeyboardInterrupt:  # SIGTERM, SIGHUP, or Ctrl-C before Ray Train has set its handler
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler):
            with suppress(SystemExit, KeyboardInterrupt):
                handler(signal.SIGINT, None)
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def cause_of(error: Exception) -> Exception:
    """Return the error in a worker or in the controller that Ray Train wrapped; any other error unchanged."""
    if isinstance(error, ControllerError):
        return error.controller_failure
    if isinstance(error, WorkerGroupError):
        return error.worker_failures[min(error.worker_failures)]
    return error


def plain_reason(error: Exception) -> str:
    """Describe a worker's error in one line."""
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
    """Return the error for the death of a Ray process that caused `error`, directly or indirectly; None if none did."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, (OutOfMemoryError, RayActorError)):
            return error
        seen.add(id(error))
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return None


def checkpoint_of(stood: Stood) -> Checkpoint:
    """Return a checkpoint in the form in which Ray's processes receive it."""
    return Checkpoint(stood.path, stood.files)


def copy_best_model(stood: Stood, folder: Path) -> None:
    """Copy the best model so far from a checkpoint into a folder, which is made if it is new."""
    folder.mkdir(parents=True, exist_ok=True)
    with checkpoint_of(stood).as_directory() as source:
        for file in (WEIGHTS_FILE, CONFIG_FILE):
            shutil.copy(Path(source, BEST, file), folder / file)
