"""Functions of the benchmark that run in a Python of their own, for what a process has from its start to its end."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

__all__ = ["in_own_process"]


def in_own_process(module: str, *arguments: object) -> Any:
    """What `python -m MODULE ARGUMENTS` prints last, as JSON. Raises RuntimeError with what it complains of."""
    command = [sys.executable, "-m", module, *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
