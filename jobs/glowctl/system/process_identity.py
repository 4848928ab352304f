"""The identity of a process: its machine or container, its id, and its start.

A process id alone is not enough: the system gives it to another process after the first one has ended.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path


def this_process() -> str:
    """Return the identity of this process as a text without line breaks."""
    return f"{_place()} {os.getpid()} {_began(os.getpid())}"


def is_of_this_machine(identity: str) -> bool:
    """Return whether a process was started on this machine since the last boot, and in this container if there is one.

    `has_ended` can answer only for such a process.
    """
    place, pid, _ = _parts(identity)
    return place == _place() and pid.isdecimal()


def has_ended(identity: str) -> bool:
    """Return whether a process of this machine has ended; False if that cannot be found out."""
    _, pid, began = _parts(identity)
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it belongs to another user
        pass
    return _began(int(pid)) not in (began, None)


def _parts(identity: str) -> tuple[str, str, str]:
    place, pid, began = identity.rsplit(" ", 2) if identity.count(" ") >= 2 else ("", "", "")
    return place, pid, began


def _place() -> str:
    """Return where process ids are valid: the machine's name, its last start, and the namespace of the container.

    The name is needed because machines that were copied while they ran share everything else.
    """
    boot, namespace = "", ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return "/".join((socket.gethostname(), boot, namespace)).replace(" ", "-")


def _began(pid: int) -> str | None:
    """Return when a process began; "" if it has ended and its parent has not noticed yet, None if unknown."""
    if sys.platform != "linux":
        return _began_elsewhere(pid)
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode().split()
    except (OSError, ValueError):
        return None
    return "" if state in "ZX" else fields[18]  # in ticks since boot, so that setting the clock does not change it


def _began_elsewhere(pid: int) -> str | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else str(int(process.create_time()))
    except psutil.Error:
        return None
