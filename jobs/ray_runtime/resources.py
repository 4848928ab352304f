"""What each worker gets, checked against what the machines have before anything waits for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jobs.errors import JobError
from jobs.ray_runtime.machines import Machine, machines_to_come, machines_up
from jobs.specs.training import TrainSpec, worker_range
from jobs.text import count

__all__ = ["Resources", "resources_for", "trial_resources"]

LEAST_SHARE = 0.25
"""Of a core for a worker, unless it is said otherwise."""


@dataclass(frozen=True)
class Resources:
    """Workers (least, most), and the GPUs and cores of each."""

    workers: tuple[int, int]
    gpus: float
    cpus: float

    @property
    def threads(self) -> int:
        """Of torch in each worker."""
        return max(1, math.floor(self.cpus))

    @property
    def backend(self) -> str:
        """Workers that share a GPU cannot use NCCL."""
        return "nccl" if self.gpus >= 1 else "gloo"

    @property
    def room_now(self) -> int:
        """For how many workers there is room on the machines that are there, be they busy or not."""
        return min(self.workers[1], _room(machines_up(), self.gpus, self.cpus))

    def task_options(self) -> dict[str, float]:
        """The options of a Ray task that is one worker's."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}


class Asked(Protocol):
    """What a spec says of each worker; None leaves it open."""

    @property
    def gpus_per_worker(self) -> float | None: ...
    @property
    def cpus_per_worker(self) -> float | None: ...


FLAGS = "--workers, --cpus-per-worker or --gpus-per-worker"
TRIAL_FLAGS = "--workers-per-trial, --cpus-per-trial or --gpus-per-trial"


def resources_for(spec: Asked, workers: tuple[int, int] | None, flags: str = FLAGS) -> Resources:
    """What is asked for, with what is left open filled in: without a number of workers, one a GPU if they use GPUs,
    else one a machine.

    Raises JobError if the cluster cannot give it; `flags` are those that it says to lower.
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
            f"{count(least, 'worker')} with {each} each cannot run here: there are {count(have['CPU'], 'core')} "
            f"and {count(have['GPU'], 'GPU')} on {count(len(machines), 'machine')}, room for {fitting}; lower {flags}"
        )
    return Resources((least, most), gpus, cpus)


def trial_resources(spec: TrainSpec, trials: int, most: int | None) -> tuple[Resources, int]:
    """What each of so many trials gets, and how many of them, at most `most`, there is room for at a time.

    Where they use no GPUs, all cores are shared out among the trials that run at a time, whole ones while they last.

    Raises JobError if there is no room for one.
    """
    workers, _ = worker_range(spec.workers)
    at_a_time = min(trials, most or trials)
    machines = _machines()
    gpus = _total(machines)["GPU"] if spec.gpus_per_worker is None else spec.gpus_per_worker
    if spec.cpus_per_worker is None and not gpus:
        side_by_side = max(1, min(at_a_time, _room(machines, gpus=0, cpus=1) // workers))
        each = _share(machines, side_by_side * workers, elastic=False)
        spec = spec.model_copy(update={"cpus_per_worker": each})
    resources = resources_for(spec, (workers, workers), TRIAL_FLAGS)
    return resources, min(at_a_time, _room(machines, resources.gpus, resources.cpus) // workers)


def _machines() -> list[Machine]:
    return [*machines_up(), *machines_to_come()]


def _total(machines: Sequence[Machine]) -> dict[str, float]:
    return {kind: sum(machine.get(kind, 0.0) for machine in machines) for kind in ("CPU", "GPU")}


def _room(machines: Sequence[Machine], gpus: float, cpus: float) -> int:
    """For how many workers."""
    return sum(_fits(machine, gpus, cpus) for machine in machines)


def _share(machines: Sequence[Machine], workers: int, elastic: bool) -> float:
    """The most whole cores that each worker can have. Where there are too few, a fraction, or, for elastic training,
    one: then fewer start. Not less than `LEAST_SHARE`."""
    largest = math.floor(max((machine.get("CPU", 0.0) for machine in machines), default=0.0))
    for cores in range(largest, 0, -1):
        if _room(machines, gpus=0, cpus=cores) >= workers:
            return float(cores)
    if elastic:
        return 1.0
    return next((1 / part for part in range(2, 4) if _room(machines, gpus=0, cpus=1 / part) >= workers), LEAST_SHARE)


def _fits(machine: Machine, gpus: float, cpus: float) -> int:
    """How many workers a machine has room for."""
    by_cpu = math.floor(machine.get("CPU", 0.0) / cpus + 1e-9)
    if not gpus:
        return by_cpu
    per_gpu = math.floor(1 / gpus + 1e-9) if gpus < 1 else 1 / gpus
    return min(by_cpu, math.floor(machine.get("GPU", 0.0) * per_gpu + 1e-9))
