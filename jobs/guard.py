"""Ends an embedded Ray whose driver is gone, however it went: run by `jobs.connection` as a process of its own.

`python -m jobs.guard FOLDER PID` waits for the end of its standard input, which the driver PID holds open and the
kernel closes when it dies. Then it kills every process that has a file open in Ray's private FOLDER (Ray hides its
workers' command lines and environments, but each writes a log there), and removes the folder. Ray's own processes die
with their driver, all but two agents of the raylet, which would stay for minutes.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil

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


def main(folder: str, driver: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
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
    main(sys.argv[1], int(sys.argv[2]))
