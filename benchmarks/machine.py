"""The machine on which figures are measured, and the threads and precisions that they use on it."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.row import Setting
from glow.training import hardware_precision

__all__ = ["machine", "setting"]


def setting(quick: bool = False) -> Setting:
    """Return the setting for this machine: all physical cores that this process may use, and bf16 if they have it."""
    threads = min(psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0)))
    fastest = hardware_precision(torch.device("cpu"))
    return Setting(threads, ("float32",) if fastest == "float32" else ("float32", "bf16"), quick)


def machine(how: Setting) -> dict[str, Any]:
    """Describe the machine, the versions of the libraries, and the date."""
    return {
        "cpu": _cpu(),
        "cores": psutil.cpu_count(logical=False),
        "threads": how.threads,
        "bf16": "bf16" in how.precisions,
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "normflows": importlib.metadata.version("normflows"),
        "load": round(os.getloadavg()[0], 1),  # of the last minute, to show whether other programs ran
        "date": datetime.date.today().isoformat(),
    }


def _cpu() -> str:
    """Return the name of the processor with its family and model, because the name alone can be vague."""
    try:
        described = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", described, re.MULTILINE))
    name = found.get("model name", platform.machine())
    family = f" (family {found['cpu family']}, model {found['model']})" if "cpu family" in found else ""
    return name + family
