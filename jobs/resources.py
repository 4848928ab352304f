"""What each worker gets, checked against what the cluster has before anything waits for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.train import ScalingConfig

from jobs.errors import JobError

__all__ = ["Resources", "resources_for"]

RESIZE_INTERVAL_S = 10.0


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

    def task_options(self) -> dict[str, Any]:
        """Of a Ray task that is one worker's."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}

    def scaling_config(self) -> ScalingConfig:
        least, most = self.workers
        resources = {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})
        return ScalingConfig(
            num_workers=most if least == most else (least, most),
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


def resources_for(spec: Asked, workers: tuple[int, int] | None) -> Resources:
    """What is asked for, with what is left open filled in: without a number of workers, one a GPU if they use GPUs,
    else one a machine.

    Raises JobError if the cluster cannot give it.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    have = {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU")}
    gpus = spec.gpus_per_worker if spec.gpus_per_worker is not None else float(have["GPU"] > 0)
    cpus = spec.cpus_per_worker
    if workers is None:
        machines = [node["CPU"] for node in nodes if node.get("CPU", 0.0) >= 1]  # a head may offer none
        cpus = cpus or (1.0 if gpus else float(math.floor(min(machines, default=1.0))))
        count = math.floor(have["GPU"] / gpus + 1e-9) if gpus else len(machines)
        workers = (max(1, count), max(1, count))
    least, most = workers
    cpus = cpus or (1.0 if gpus else _share(have["CPU"], most, elastic=least < most))
    fitting = sum(_fits(node, gpus, cpus) for node in nodes)
    if fitting < least:
        each = f"{_number(cpus, 'core')} and {_number(gpus, 'GPU')}" if gpus else _number(cpus, "core")
        raise JobError(
            f"{_number(least, 'worker')} with {each} each cannot run here: there are {_number(have['CPU'], 'core')} "
            f"and {_number(have['GPU'], 'GPU')} on {_number(len(nodes), 'machine')}, room for {fitting}; lower "
            "--workers, --cpus-per-worker or --gpus-per-worker"
        )
    return Resources((least, most), gpus, cpus)


def _share(cpus: float, workers: int, elastic: bool) -> float:
    """Whole cores where each worker can have one. Else a fraction, or, for elastic training, one: then fewer start."""
    if cpus >= workers:
        return float(cpus // workers)
    return 1.0 if elastic else cpus / workers


def _fits(node: dict[str, float], gpus: float, cpus: float) -> int:
    """How many workers a node has room for."""
    by_cpu = math.floor(node.get("CPU", 0.0) / cpus + 1e-9)
    if not gpus:
        return by_cpu
    per_gpu = math.floor(1 / gpus + 1e-9) if gpus < 1 else 1 / gpus
    return min(by_cpu, math.floor(node.get("GPU", 0.0) * per_gpu + 1e-9))


def _number(count: float, thing: str) -> str:
    return f"{count:g} {thing}" + ("" if count == 1 else "s")
