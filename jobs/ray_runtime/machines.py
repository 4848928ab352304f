"""The machines that a job may use: those of the cluster that it is a job of, else this one, which need not have a Ray
yet."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import joblib

from jobs.system.environment import in_ray_job, node_types

__all__ = ["Machine", "machines_to_come", "machines_up", "this_machine"]

GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""What Linux shows a process of GPUs: NVIDIA's, AMD's, and those of Windows beneath it."""

Machine = Mapping[str, float]
"""What a machine offers, in Ray's words: "CPU" cores and "GPU" GPUs; one that has none need not say so."""


def machines_up() -> list[Machine]:
    """The machines that are there, be they busy or not. A job of a cluster must be connected to it."""
    if not in_ray_job():
        return [this_machine()]
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def machines_to_come() -> list[Machine]:
    """The machines that the cluster's autoscaler may add."""
    return _missing(machines_up(), *node_types()) if in_ray_job() else []


def this_machine() -> Machine:
    """The cores that this process may use, by its affinity and its container's limit, and the GPUs that torch sees."""
    return {"CPU": float(joblib.cpu_count()), "GPU": float(_gpus())}


def _gpus() -> int:
    if sys.platform == "linux" and not any(Path(device).exists() for device in GPU_DEVICES):
        return 0  # known without torch, whose import takes seconds in which Ray starts
    import torch

    return torch.cuda.device_count()


def _missing(up: list[Machine], types: Mapping[str, Mapping[str, Any]], most: int | None) -> list[Machine]:
    """Of each kind as many as are not there yet, and no more than `most` workers beside the head."""
    left = list(up)
    missing: list[Machine] = []
    for kind in types.values():
        resources = {name: float(amount) for name, amount in kind.get("resources", {}).items()}
        for _ in range(kind.get("max_workers", 0) if resources else 0):
            same = next((machine for machine in left if _same(machine, resources)), None)
            if same is not None:
                left.remove(same)
            else:
                missing.append(resources)
    return missing if most is None else missing[: max(0, most + 1 - len(up))]


def _same(machine: Machine, resources: Machine) -> bool:
    return all(machine.get(kind, 0.0) == resources.get(kind, 0.0) for kind in ("CPU", "GPU"))
