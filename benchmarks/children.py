"""Separate Python processes for measurements that depend on the whole life of a process, such as its peak of memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

__all__ = ["in_own_process"]


def in_own_process(module: str, *arguments: object) -> Any:
    """Run `python -m MODULE ARGUMENTS`, and return the JSON value of the last line that it prints.

    Raises:
        RuntimeError: if the process fails; the message has its standard error.
    """
    command = [sys.executable, "-m", module, *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
