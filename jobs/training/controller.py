"""The process of Ray Train's controller: its early start, and the callbacks that run in it.

The controller imports this module. It needs no torch, which takes a second and a half of a core to import, unless
several workers are to form a process group.
"""

from __future__ import annotations

import os
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.train import Checkpoint, UserCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController

from glow.errors import CheckpointError, TrainingDiverged
from jobs.errors import refused_by_disk
from jobs.ray_runtime.resources import Resources
from jobs.training.messages import Outbox, Saved

__all__ = ["EarlyController", "NoRetry", "SavedNotices", "forms_group", "set_patience", "start_controller"]

PATIENCE_FOR_ALL_S = 900
"""How long a training with a fixed number of workers waits for machines before it tries to start again, in seconds."""

PATIENCE_FOR_SOME_S = 15
"""How long an elastic training waits for machines before it counts again how many there are, in seconds."""

QUIET = {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0"}
"""The variable that Ray Train sets for its controller, which waits for results in coroutines."""


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


class SavedNotices(UserCallback):
    """A callback in Ray's controller that sends a `Saved` message for each checkpoint after an epoch.

    Ray calls it when the checkpoint is in the list from which a training continues, whatever dies next.

    Args:
        outbox: the queue to the driver.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def after_report(self, run_context: Any, metrics: list[dict[str, float]], checkpoint: Checkpoint | None) -> None:
        """Send the message about a checkpoint of rank 0, unless it was saved inside an epoch."""
        if checkpoint is not None and "epoch" in metrics[0]:
            self._outbox.put(Saved(int(metrics[0]["epoch"])))


class EarlyController(TrainController):
    """Ray Train's controller, in a process that starts before its arguments are known.

    Args:
        forms_group: whether the workers form a process group of torch, whose settings come with the other arguments.
            Then torch is imported now, while the driver does something else.
    """

    def __init__(self, forms_group: bool) -> None:
        """Prepare for the arguments of a controller, which `begin` takes."""
        if forms_group:
            import ray.train.torch  # noqa: F401

    async def begin(self, **arguments: Any) -> None:
        """Take the arguments of a controller."""
        super().__init__(**arguments)


def start_controller(resources: Resources) -> ActorHandle[Any]:
    """Start the actor that will control a training, without waiting for it.

    The actor to which the controller reports the resources that it needs is started too. Both import libraries while
    the driver imports MLflow and opens the run. Without this call, Ray Train would start the controller only when the
    training begins, and the other actor a second later.

    Returns:
        The controller, for the argument `controller` of `jobs.training.ray_trainer.torch_trainer`.
    """
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    set_patience(resources)
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    # As Ray Train starts it: on the machine of the driver, and with those of its variables that the user has set.
    actor = ray.remote(num_cpus=0, label_selector=here, runtime_env={"env_vars": get_env_vars_to_propagate() | QUIET})
    controller = actor(EarlyController).remote(forms_group(resources))
    get_or_create_autoscaling_coordinator()
    return cast("ActorHandle[Any]", controller)


def forms_group(resources: Resources) -> bool:
    """Return whether the workers form a process group of torch, which one worker does not need."""
    return resources.workers[1] > 1


def set_patience(resources: Resources) -> None:
    """Set how long a controller waits for machines. Ray Train has only an environment variable for it."""
    least, most = resources.workers
    patience = PATIENCE_FOR_ALL_S if least == most else PATIENCE_FOR_SOME_S
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(patience))
