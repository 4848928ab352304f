"""The Ray Train trainer of a training, and the errors that it raises.

`glowctl train` makes its trainer here, and so does a trial of an ablation that has several workers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import OutOfMemoryError, RayActorError, RayError
from ray.train import (
    BackendConfig,
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    UserCallback,
    WorkerGroupError,
)
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from glow.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from jobs.ray_runtime.resources import Resources
from jobs.system.environment import in_ray_job
from jobs.training.controller import NoRetry, SavedNotices, forms_group, set_patience
from jobs.training.messages import Outbox
from jobs.training.worker import SCORE, train_loop
from jobs.training.worker_settings import WorkerSettings

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

STARTS = 10
"""How often the start of the group of workers is tried again after machines were missing or were lost during it."""

RESIZE_INTERVAL_S = 10.0
"""Seconds between two checks of an elastic training for room for more workers."""

ABORT_PATIENCE_S = 10
"""How long a training that is stopped waits for its controller to end, in seconds."""

UNUSED = ("DatasetsCallback", "PlacementGroupCleanerCallback")
"""Callbacks of Ray Train that each start a process of 200 MB and that a training does not need.

The first serves data sets of Ray Data, which are not used here. The second frees the resources of a controller that
dies before its driver; here the driver ends together with its controller.
"""


class LeanTrainer(DataParallelTrainer):
    """A trainer whose controller has been started already, and which starts two processes fewer (`UNUSED`).

    The trainer leaves Ctrl-C to its caller. Ray Train's own SIGINT handler asks the controller to abort, although the
    controller may no longer exist; the handler then raises SystemExit, and it stays installed after the training.
    """

    controller: ActorHandle[Any]
    """The result of `start_controller`."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if type(each).__name__ not in UNUSED]

    def _initialize_and_run_controller(self, **arguments: Any) -> ray.train.Result:
        ray.get(self.controller.begin.remote(**arguments))
        try:
            ray.get(self.controller.run.remote())
        except BaseException:
            if in_ray_job():
                _abort(self.controller)
            raise
        return cast("ray.train.Result", ray.get(self.controller.get_result.remote()))


def _abort(controller: ActorHandle[Any]) -> None:
    """Have a controller withdraw its request for machines of the cluster, and end.

    If it were killed instead, the cluster would reserve the machines for it for three more minutes, and an elastic
    training that starts in this time would wait for them.
    """
    with suppress(RayError):  # it has ended already, or does not answer
        ray.get(controller.abort.remote(), timeout=ABORT_PATIENCE_S)


def put_data(work: Work) -> list[ray.ObjectRef]:
    """Put the images and labels of each split into Ray's object store.

    Returns:
        A list of one reference, because Ray passes a reference inside a list on as a reference, and would replace a
        bare one by the arrays. The list is empty if the workers map the images from files themselves.
    """
    if any(images.mapped for images in work.splits.values()):
        return []
    return [ray.put({split: (each.images().numpy(), each.labels.numpy()) for split, each in work.splits.items()})]


def worker_settings(work: Work, resources: Resources, data: list[ray.ObjectRef], outbox: Outbox) -> WorkerSettings:
    """Return the settings for the workers of a training; `data` is the result of `put_data`."""
    private = work.spec.model_copy(update={"tracking_uri": None})  # the URI may hold a password
    return WorkerSettings(private, work.config, data, outbox, resources.threads, on_cluster=in_ray_job())


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
    settings: WorkerSettings,
    resources: Resources,
    name: str,
    *,
    controller: ActorHandle[Any] | None = None,
    callbacks: Sequence[UserCallback] = (),
) -> TorchTrainer | LeanTrainer:
    """Make a trainer, which continues from the last checkpoint if one of the same name and output exists.

    Args:
        settings: the settings for the workers.
        resources: the number of workers and what each gets.
        name: the name of the folder of the checkpoints, within the output.
        controller: the result of `start_controller`; None in a trial of Tune, for which the trainer is Ray's own
            `TorchTrainer`. If a trial is killed, the driver of the ablation goes on and needs the resources that the
            trial had reserved. A process that `LeanTrainer` does not start frees them.
        callbacks: Ray Train's callbacks, in addition to `NoRetry` and `SavedNotices`.
    """
    set_patience(resources)
    arguments: dict[str, Any] = {
        "train_loop_per_worker": train_loop,
        "train_loop_config": {"settings": settings},
        "scaling_config": scaling_config(resources),
        "run_config": _run_config(settings, name, callbacks),
    }
    group = TorchConfig(backend=resources.backend) if forms_group(resources) else None
    if controller is None:
        return TorchTrainer(**arguments, torch_config=group)
    trainer = LeanTrainer(**arguments, backend_config=group or BackendConfig())
    trainer.controller = controller
    return trainer


def _run_config(settings: WorkerSettings, name: str, callbacks: Sequence[UserCallback]) -> RunConfig:
    # Ray declares the types of Train V1 but runs Train V2.
    return RunConfig(
        name=name,
        storage_path=settings.spec.output,
        callbacks=[NoRetry(), SavedNotices(settings.outbox), *callbacks],  # type: ignore[list-item]
        # Without a limit, Ray retries an error of the controller itself forever.
        failure_config=FailureConfig(  # type: ignore[call-arg]
            max_failures=settings.spec.max_failures, controller_failure_limit=STARTS
        ),
        checkpoint_config=CheckpointConfig(
            num_to_keep=1, checkpoint_score_attribute=SCORE, checkpoint_score_order="min"
        ),
    )


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


def copy_model(source: str | Path, folder: Path) -> None:
    """Copy the model of a checkpoint without the training state, which is twice as large as the model."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (WEIGHTS_FILE, CONFIG_FILE):
        shutil.copy(Path(source, file), folder / file)
