"""Starts an embedded Ray, and ends it when its driver is gone, however that went: run by
`jobs.ray_runtime.connection` as a process of its own.

`python -m jobs.ray_runtime.embedded_guard FOLDER PID BYTES` starts `jobs.ray_runtime.embedded`, which says Ray's
address on the standard output that both share, and waits for the end of its standard input, which the driver PID holds
open and the kernel closes when it dies. Then it kills the head, and every process that has a file open in Ray's private
FOLDER (Ray hides its workers' command lines and environments, but each writes a log there), and removes the folder.
Ray's own processes die with their head, all but two agents of the raylet, which would stay for minutes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from jobs.system.processes import python_command

__all__ = ["ERRORS"]

ERRORS = "head.err"
"""In Ray's folder: what its head wrote on standard error."""

PATIENCE_S = 15.0


def _processes_of(folder: str, driver: int) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        if process.pid in (os.getpid(), driver):
            continue
        try:
            if any(file.path.startswith(folder + os.sep) for file in process.open_files()):
                yield process
        except (psutil.Error, OSError):  # it ended meanwhile, or is somebody else's
            continue


def _started(folder: str, object_store_bytes: str) -> subprocess.Popen[bytes]:
    with Path(folder, ERRORS).open("w") as errors:
        command = python_command("jobs.ray_runtime.embedded", folder, object_store_bytes)
        head = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors)
    os.close(sys.stdout.fileno())  # so that the driver's pipe ends if the head does
    return head


def main(folder: str, driver: int, object_store_bytes: str) -> None:
    head = _started(folder, object_store_bytes)  # which would inherit what is set here
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    head.kill()
    head.wait()
    deadline = time.monotonic() + PATIENCE_S
    quiet_looks = 0
    while quiet_looks < 2 and time.monotonic() < deadline:
        found = list(_processes_of(folder, driver))
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        quiet_looks = 0 if found else quiet_looks + 1
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
