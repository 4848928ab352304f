"""The machines that a job can use: those of its cluster, or this machine, on which Ray need not run yet."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import joblib

from glowctl.system.environment import in_ray_job, node_types

GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Files that Linux has if there are GPUs: of NVIDIA, of AMD, and of Windows if Linux runs under it."""

Machine = Mapping[str, float]
"""The resources of a machine by Ray's names: number of cores ("CPU") and of GPUs ("GPU"). A missing name means 0."""


def machines_up() -> list[Machine]:
    """Return the machines of the cluster that run now, busy or not; without a cluster, only this machine.

    A job on a cluster must have connected to Ray.
    """
    if not in_ray_job():
        return [this_machine()]
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def machines_to_come() -> list[Machine]:
    """Return the machines that the cluster's autoscaler can still add; an empty list without a cluster."""
    return _missing(machines_up(), *node_types()) if in_ray_job() else []


def this_machine() -> Machine:
    """Return the number of cores that this process may use, and the number of GPUs that torch sees.

    The CPU affinity and the limit of the container bound the number of cores.
    """
    return {"CPU": float(joblib.cpu_count()), "GPU": float(_gpus())}


def _gpus() -> int:
    if sys.platform == "linux" and not any(Path(device).exists() for device in GPU_DEVICES):
        return 0
    known = None if "torch" in sys.modules else _gpus_without_torch()
    if known is not None:
        return known
    import torch

    return torch.cuda.device_count()


def _gpus_without_torch() -> int | None:
    """Return the number of GPUs that torch would see, without its import, which takes seconds and delays Ray's start.

    torch asks the same library of NVIDIA. The result is None if only torch can answer: for GPUs of AMD, without the
    library, and if $CUDA_VISIBLE_DEVICES is not a list of different numbers.
    """
    found = find_spec("torch")
    if found is None or found.origin is None:
        return None
    built = runpy.run_path(str(Path(found.origin).with_name("version.py")))
    if built.get("cuda") is None:
        return 0 if built.get("hip") is None else None
    try:
        import pynvml

        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
    except Exception:  # the library is not installed, or does not fit the driver
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count
    numbers = [number.strip() for number in visible.split(",")] if visible else []
    if not all(number.isdecimal() for number in numbers) or len(set(map(int, numbers))) < len(numbers):
        return None
    return next((index for index, number in enumerate(numbers) if int(number) >= count), len(numbers))  # as CUDA does


def _missing(up: list[Machine], types: Mapping[str, Mapping[str, Any]], most: int | None) -> list[Machine]:
    """Return the machines of each type that do not run yet; at most `most` machines in addition to the head in all."""
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
