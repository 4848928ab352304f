"""Which process something belongs to, so that no other is ever taken for it: where it is, its id, and when it began."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["has_ended", "is_of_this_machine", "this_process"]


def this_process() -> str:
    """The identity of this process, as a text without line breaks."""
    return f"{_place()} {os.getpid()} {_began(os.getpid())}"


def is_of_this_machine(identity: str) -> bool:
    """Whether `has_ended` can tell of this process: it is one of this machine since its last start, or of this
    container."""
    place, pid, _ = _parts(identity)
    return place == _place() and pid.isdecimal()


def has_ended(identity: str) -> bool:
    """Whether a process of this machine has ended; one that cannot be seen is taken to live."""
    _, pid, began = _parts(identity)
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        pass
    return _began(int(pid)) not in (began, None)


def _parts(identity: str) -> tuple[str, str, str]:
    place, pid, began = identity.rsplit(" ", 2) if identity.count(" ") >= 2 else ("", "", "")
    return place, pid, began


def _place() -> str:
    """What a process id is of: a machine since its last start, or a container on it. Machines that were copied while
    they ran share all but the name."""
    boot, namespace = "", ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return "/".join((socket.gethostname(), boot, namespace)).replace(" ", "-")


def _began(pid: int) -> str | None:
    """When a process began; empty if it has ended and is not collected yet, None if that cannot be read."""
    if sys.platform != "linux":
        return _began_elsewhere(pid)
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode().split()
    except (OSError, ValueError):
        return None
    return "" if state in "ZX" else fields[18]  # in clock ticks since boot, which no change of the clock changes


def _began_elsewhere(pid: int) -> str | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else str(int(process.create_time()))
    except psutil.Error:
        return None
