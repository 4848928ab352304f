"""What this machine is made of, its free memory, and its load.

The load has the names that MLflow's UI shows as system metrics.
"""

from __future__ import annotations

import json
import logging
import platform
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from glowctl.system.verbosity import unheeded

if TYPE_CHECKING:
    from glowctl.text import JsonObject

log = logging.getLogger(__name__)


INTERVAL_S = 5.0
"""Seconds between two measurements."""

ENVIRONMENT_FILE = "environment.json"
"""Name of the file in the folder of a run that says what ran it."""

MEGA = 1e6

CONTAINER = Path("/sys/fs/cgroup")
"""The folder in which Linux shows the limits of a container."""


def machine_name() -> str:
    """Return the network name of this machine."""
    return platform.node()


def machine_facts() -> JsonObject:
    """Return the processor, cores, memory and GPUs of this machine, and the versions of their driver and of CUDA."""
    facts: JsonObject = {
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_megabytes": round(psutil.virtual_memory().total / MEGA),
        "gpus": [],
    }
    with suppress(Exception):  # the library is not installed, or there is no GPU
        import pynvml

        pynvml.nvmlInit()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        facts["gpus"] = [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
        facts["driver"] = str(pynvml.nvmlSystemGetDriverVersion())
        major, minor = divmod(pynvml.nvmlSystemGetCudaDriverVersion(), 1000)
        facts["cuda"] = f"{major}.{minor // 10}"
    return facts


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def environment_text(machines: Mapping[str, JsonObject]) -> str:
    """Return the content of an ``environment.json``: the versions of Python and of all packages, and the machines.

    Args:
        machines: what `machine_facts` returns on each machine, by its name.
    """
    facts = {"python": platform.python_version(), "platform": platform.platform(), "machines": machines}
    return json.dumps({**facts, "packages": _packages()}, indent=2) + "\n"


@cache
def _packages() -> dict[str, str]:
    """Return the version of each package, which takes half a second to find out."""
    found = [each.metadata for each in metadata.distributions()]
    return dict(sorted((each["Name"].lower(), each["Version"]) for each in found if each["Name"]))


@contextmanager
def sampled(put: Callable[[dict[str, float]], None], interval_s: float = INTERVAL_S) -> Iterator[None]:
    """Measure the load of this machine in a separate thread until the `with` block ends.

    Args:
        put: receives the result of `measured` after every interval and once at the end.
        interval_s: seconds between two measurements.
    """
    ended = threading.Event()

    def run() -> None:
        before = psutil.net_io_counters()
        psutil.cpu_percent()  # the next call returns the mean since this one
        going_on = True
        while going_on:
            going_on = not ended.wait(interval_s)
            with unheeded(log, "a measurement of the machine is lost"):  # the store fails, or the driver has ended
                put(measured(before))

    thread = threading.Thread(target=run, name="machine", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def measured(since: Any = None) -> dict[str, float]:
    """Return the use of all cores, the memory, the disk, the network and the GPUs, by the metric's name in MLflow.

    The end of a name is the unit, such as "percentage" or "megabytes" (10^6 bytes).

    Args:
        since: an earlier result of `psutil.net_io_counters`, from which network traffic is counted; None to count from
            the machine's start.
    """
    memory, disk, network = psutil.virtual_memory(), psutil.disk_usage("/"), psutil.net_io_counters()
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / MEGA,
        "system_memory_usage_percentage": memory.percent,
        "disk_usage_percentage": disk.percent,
        "disk_usage_megabytes": disk.used / MEGA,
        "disk_available_megabytes": disk.free / MEGA,
        "network_receive_megabytes": (network.bytes_recv - (since.bytes_recv if since else 0)) / MEGA,
        "network_transmit_megabytes": (network.bytes_sent - (since.bytes_sent if since else 0)) / MEGA,
        **_gpus(),
    }


def _gpus() -> dict[str, float]:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:  # the library is not installed, or there is no GPU
        log.debug("no GPU is measured: %s", error)
        return {}
    found: dict[str, float] = {}
    for index in range(pynvml.nvmlDeviceGetCount()):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory, rates = pynvml.nvmlDeviceGetMemoryInfo(gpu), pynvml.nvmlDeviceGetUtilizationRates(gpu)
        found[f"gpu_{index}_memory_usage_percentage"] = 100 * memory.used / memory.total
        found[f"gpu_{index}_memory_usage_megabytes"] = memory.used / MEGA
        found[f"gpu_{index}_utilization_percentage"] = rates.gpu
        with suppress(pynvml.NVMLError):  # not every GPU measures its power
            found[f"gpu_{index}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
    return found


def memory_left() -> int:
    """Return the free memory in bytes: of this machine, or of the container if its limit leaves less.

    Memory in which the system caches files counts as free.
    """
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # there is no container, or it has no limit ("max")
        limit = int((CONTAINER / "memory.max").read_text())
        used = int((CONTAINER / "memory.current").read_text())
        files = {name: int(bytes_) for name, bytes_ in map(str.split, (CONTAINER / "memory.stat").open())}
        free = min(free, limit - used + files.get("file", 0))
    return free
