"""Small Python processes beside this one, which run the same code."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["python_command", "python_environment"]

PROJECT = Path(__file__).parents[2]


def python_command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", module, *arguments]  # -P: not what lies in this folder


def python_environment() -> dict[str, str]:
    """In which `jobs` is found also where it is not installed, as in a job of a cluster."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))}
