"""What each worker gets, checked against what the cluster has before anything waits for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.train import ScalingConfig

from jobs.errors import JobError
from jobs.specs.training import TrainSpec, worker_range
from jobs.system.environment import node_types
from jobs.text import count

__all__ = ["Resources", "resources_for", "trial_resources"]

RESIZE_INTERVAL_S = 10.0
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
        return min(self.workers[1], _room(_alive(), self.gpus, self.cpus))

    def task_options(self) -> dict[str, float]:
        """The options of a Ray task that is one worker's."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}

    def scaling_config(self) -> ScalingConfig:
        least, most = self.workers
        resources = {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})
        # Ray declares the types of its first version of Train here, and runs the second.
        return ScalingConfig(  # type: ignore[call-arg]
            num_workers=most if least == most else (least, most),  # type: ignore[arg-type]
            use_gpu=self.gpus > 0,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S,
        )


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
    nodes = _nodes()
    have = _total(nodes)
    gpus = spec.gpus_per_worker if spec.gpus_per_worker is not None else float(have["GPU"] > 0)
    cpus = spec.cpus_per_worker
    if workers is None:
        machines = [node["CPU"] for node in nodes if node.get("CPU", 0.0) >= 1]  # a head may offer none
        cpus = cpus or (1.0 if gpus else float(math.floor(min(machines, default=1.0))))
        room = math.floor(have["GPU"] / gpus + 1e-9) if gpus else len(machines)
        workers = (max(1, room), max(1, room))
    least, most = workers
    cpus = cpus or (1.0 if gpus else _share(nodes, most, elastic=least < most))
    fitting = _room(nodes, gpus, cpus)
    if fitting < least:
        each = f"{count(cpus, 'core')} and {count(gpus, 'GPU')}" if gpus else count(cpus, "core")
        raise JobError(
            f"{count(least, 'worker')} with {each} each cannot run here: there are {count(have['CPU'], 'core')} "
            f"and {count(have['GPU'], 'GPU')} on {count(len(nodes), 'machine')}, room for {fitting}; lower {flags}"
        )
    return Resources((least, most), gpus, cpus)


def trial_resources(spec: TrainSpec, trials: int, most: int | None) -> tuple[Resources, int]:
    """What each of so many trials gets, and how many of them, at most `most`, there is room for at a time.

    Where they use no GPUs, all cores are shared out among the trials that run at a time, whole ones while they last.

    Raises JobError if there is no room for one.
    """
    workers, _ = worker_range(spec.workers)
    at_a_time = min(trials, most or trials)
    nodes = _nodes()
    gpus = _total(nodes)["GPU"] if spec.gpus_per_worker is None else spec.gpus_per_worker
    if spec.cpus_per_worker is None and not gpus:
        side_by_side = max(1, min(at_a_time, _room(nodes, gpus=0, cpus=1) // workers))
        each = _share(nodes, side_by_side * workers, elastic=False)
        spec = spec.model_copy(update={"cpus_per_worker": each})
    resources = resources_for(spec, (workers, workers), TRIAL_FLAGS)
    return resources, min(at_a_time, _room(nodes, resources.gpus, resources.cpus) // workers)


def _nodes() -> list[dict[str, float]]:
    """The machines of the cluster, and those that its autoscaler may add."""
    alive = _alive()
    return [*alive, *_to_come(alive, *node_types())]


def _alive() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _to_come(
    alive: list[dict[str, float]], types: Mapping[str, Mapping[str, Any]], most: int | None
) -> list[dict[str, float]]:
    """The machines that may be added: of each kind as many as are not there yet, and no more than `most` workers beside
    the head."""
    left = list(alive)
    missing = []
    for kind in types.values():
        resources = {name: float(amount) for name, amount in kind.get("resources", {}).items()}
        for _ in range(kind.get("max_workers", 0) if resources else 0):
            same = next((node for node in left if _same(node, resources)), None)
            if same is not None:
                left.remove(same)
            else:
                missing.append(resources)
    return missing if most is None else missing[: max(0, most + 1 - len(alive))]


def _same(node: Mapping[str, float], resources: Mapping[str, float]) -> bool:
    return all(node.get(kind, 0.0) == resources.get(kind, 0.0) for kind in ("CPU", "GPU"))


def _total(nodes: list[dict[str, float]]) -> dict[str, float]:
    return {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU")}


def _room(nodes: list[dict[str, float]], gpus: float, cpus: float) -> int:
    """For how many workers."""
    return sum(_fits(node, gpus, cpus) for node in nodes)


def _share(nodes: list[dict[str, float]], workers: int, elastic: bool) -> float:
    """The most whole cores that each worker can have. Where there are too few, a fraction, or, for elastic training,
    one: then fewer start. Not less than `LEAST_SHARE`."""
    largest = math.floor(max((node.get("CPU", 0.0) for node in nodes), default=0.0))
    for cores in range(largest, 0, -1):
        if _room(nodes, gpus=0, cpus=cores) >= workers:
            return float(cores)
    if elastic:
        return 1.0
    return next((1 / part for part in range(2, 4) if _room(nodes, gpus=0, cpus=1 / part) >= workers), LEAST_SHARE)


def _fits(node: dict[str, float], gpus: float, cpus: float) -> int:
    """How many workers a node has room for."""
    by_cpu = math.floor(node.get("CPU", 0.0) / cpus + 1e-9)
    if not gpus:
        return by_cpu
    per_gpu = math.floor(1 / gpus + 1e-9) if gpus < 1 else 1 / gpus
    return min(by_cpu, math.floor(node.get("GPU", 0.0) * per_gpu + 1e-9))
