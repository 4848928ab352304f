"""The number of workers of a job, and the cores and GPUs of each, checked against what the machines have.

The check comes first because Ray waits forever for resources that no machine has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from glowctl.display.events import Waiting
from glowctl.errors import JobError
from glowctl.ray_runtime.machines import Machine, machines_to_come, machines_up
from glowctl.specs.training import TrainSpec, worker_range
from glowctl.system.environment import in_ray_job
from glowctl.text import count

LEAST_SHARE = 0.25
"""Smallest share of a core that a worker gets unless ``--cpus-per-worker`` says otherwise."""


@dataclass(frozen=True)
class Resources:
    """The workers of a job and what each of them gets.

    Attributes:
        workers: the smallest and the largest number of workers, which differ for an elastic training.
        gpus: number of GPUs per worker, which may be 0 or a fraction.
        cpus: number of cores per worker.
    """

    workers: tuple[int, int]
    gpus: float
    cpus: float

    @property
    def threads(self) -> int:
        """The number of threads that torch uses in each worker."""
        return max(1, math.floor(self.cpus))

    @property
    def backend(self) -> str:
        """The backend of torch.distributed: NCCL for whole GPUs, else Gloo, because NCCL needs one GPU per worker."""
        return "nccl" if self.gpus >= 1 else "gloo"

    @property
    def room_now(self) -> int:
        """The number of workers that fit on the machines that run now, busy or not; at most ``workers[1]``."""
        return min(self.workers[1], _room(machines_up(), self.gpus, self.cpus))

    def cost(self, seconds: float, workers: int, price: float | None) -> dict[str, float]:
        """Return the cost of some workers for some time, as metrics: core and GPU seconds, and the price if known.

        Args:
            seconds: how long they work.
            workers: their number.
            price: the price per hour of a GPU, or of a core if they use no GPUs; None if it is not known.
        """
        cores, gpus = (seconds * workers * each for each in (self.cpus, self.gpus))
        paid = {} if price is None else {"price": (gpus or cores) / 3600 * price}
        return {"core_seconds": cores, "gpu_seconds": gpus, **paid}

    def task_options(self) -> dict[str, float]:
        """Return the options of a Ray task that has the resources of one worker."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}


class Asked(Protocol):
    """The settings that ask for resources. `resources_for` chooses an amount where a setting is None."""

    @property
    def gpus_per_worker(self) -> float | None:
        """The number of GPUs per worker; None means 1 if a machine has GPUs, else 0."""

    @property
    def cpus_per_worker(self) -> float | None:
        """The number of cores per worker; None means 1 if workers use GPUs, else as many as fit."""


def waiting(resources: Resources) -> Waiting | None:
    """Return the event that a job on a cluster has to wait for its workers; None if there is room for them now.

    This process must have connected to Ray.
    """
    import ray

    if not in_ray_job():
        return None
    free = ray.available_resources()
    cpus, gpus, least = free.get("CPU", 0.0), free.get("GPU", 0.0), resources.workers[0]
    enough = cpus >= least * resources.cpus and gpus >= least * resources.gpus
    if enough and resources.room_now >= least:
        return None
    to_come = len(machines_to_come())
    return Waiting(least, resources.room_now, resources.cpus, resources.gpus, cpus, gpus, to_come)


REMEDY = "lower --workers, --cpus-per-worker or --gpus-per-worker"
TRIAL_REMEDY = "lower --workers-per-trial, --cpus-per-trial or --gpus-per-trial"


def resources_for(spec: Asked, workers: tuple[int, int] | None, remedy: str = REMEDY) -> Resources:
    """Return the resources of a job: what its settings ask for, and defaults for what they leave open.

    Args:
        spec: the settings.
        workers: the smallest and the largest number of workers. None means as many as the GPUs have room for if
            workers use GPUs, else one per machine.
        remedy: the advice of the error message.

    Raises:
        JobError: if the machines do not have room for the smallest number of workers.
    """
    machines = _machines()
    have = _total(machines)
    gpus = spec.gpus_per_worker if spec.gpus_per_worker is not None else float(have["GPU"] > 0)
    cpus = spec.cpus_per_worker
    if workers is None:
        offered = [machine["CPU"] for machine in machines if machine.get("CPU", 0.0) >= 1]  # a head may offer none
        cpus = cpus or (1.0 if gpus else float(math.floor(min(offered, default=1.0))))
        room = math.floor(have["GPU"] / gpus + 1e-9) if gpus else len(offered)
        workers = (max(1, room), max(1, room))
    least, most = workers
    cpus = cpus or (1.0 if gpus else _share(machines, most, elastic=least < most))
    fitting = _room(machines, gpus, cpus)
    if fitting < least:
        each = f"{count(cpus, 'core')} and {count(gpus, 'GPU')}" if gpus else count(cpus, "core")
        raise JobError(
            f"there is not enough room for {count(least, 'worker')} with {each} each: "
            f"{count(have['CPU'], 'core')} and {count(have['GPU'], 'GPU')} on {count(len(machines), 'machine')} give "
            f"room for {fitting}",
            remedy=remedy,
            code="not-enough-resources",
        )
    return Resources((least, most), gpus, cpus)


def trial_resources(
    spec: TrainSpec, trials: int, most: int | None, remedy: str = TRIAL_REMEDY
) -> tuple[Resources, int]:
    """Return the resources of each trial of an ablation, and how many trials run at the same time.

    If workers use no GPUs and the settings leave the number of cores open, the workers of the trials that run at the
    same time share all cores. Each worker gets whole cores, or a fraction of a core if one trial has more workers than
    there are cores.

    Args:
        spec: the settings of a trial.
        trials: number of trials.
        most: largest number of trials that may run at the same time; None for no limit.
        remedy: the advice of the error message.

    Raises:
        JobError: if there is no room for one trial.
    """
    workers, _ = worker_range(spec.workers)
    at_a_time = min(trials, most or trials)
    machines = _machines()
    gpus = _total(machines)["GPU"] if spec.gpus_per_worker is None else spec.gpus_per_worker
    if spec.cpus_per_worker is None and not gpus:
        side_by_side = max(1, min(at_a_time, _room(machines, gpus=0, cpus=1) // workers))
        each = _share(machines, side_by_side * workers, elastic=False)
        spec = spec.model_copy(update={"cpus_per_worker": each})
    resources = resources_for(spec, (workers, workers), remedy)
    return resources, min(at_a_time, _room(machines, resources.gpus, resources.cpus) // workers)


def _machines() -> list[Machine]:
    return [*machines_up(), *machines_to_come()]


def _total(machines: Sequence[Machine]) -> dict[str, float]:
    return {kind: sum(machine.get(kind, 0.0) for machine in machines) for kind in ("CPU", "GPU")}


def _room(machines: Sequence[Machine], gpus: float, cpus: float) -> int:
    """Return the number of workers that fit on the machines."""
    return sum(_fits(machine, gpus, cpus) for machine in machines)


def _share(machines: Sequence[Machine], workers: int, elastic: bool) -> float:
    """Return the largest number of whole cores that each worker can have.

    If there are fewer cores than workers, it is a fraction of a core, at least `LEAST_SHARE`. For an elastic training
    it is one core instead, and fewer workers start.
    """
    largest = math.floor(max((machine.get("CPU", 0.0) for machine in machines), default=0.0))
    for cores in range(largest, 0, -1):
        if _room(machines, gpus=0, cpus=cores) >= workers:
            return float(cores)
    if elastic:
        return 1.0
    return next((1 / part for part in range(2, 4) if _room(machines, gpus=0, cpus=1 / part) >= workers), LEAST_SHARE)


def _fits(machine: Machine, gpus: float, cpus: float) -> int:
    """Return the number of workers that fit on a machine."""
    by_cpu = math.floor(machine.get("CPU", 0.0) / cpus + 1e-9)
    if not gpus:
        return by_cpu
    per_gpu = math.floor(1 / gpus + 1e-9) if gpus < 1 else 1 / gpus
    return min(by_cpu, math.floor(machine.get("GPU", 0.0) * per_gpu + 1e-9))
