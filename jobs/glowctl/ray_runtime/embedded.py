"""The helper process that starts an embedded Ray, and ends that Ray when the driver ends for any reason.

`python -m glowctl.ray_runtime.embedded FOLDER PID STATE_API CPUS GPUS` starts a Ray with its files in FOLDER, prints
its address on standard output, and waits for the end of its standard input, which the driver PID holds open
(`glowctl.system.helper_processes`). Then it kills every process that has a file open in FOLDER, and removes the folder.
This finds all workers: Ray hides their command lines and environments, but each worker writes a log in FOLDER. It also
finds two agents of the raylet, which would otherwise stay for minutes. Ray's other processes die with this one. If the
driver was killed, the helper also removes the driver's folder for temporary files.

While the driver writes a run to MLflow, this process has a line with the store and the experiment from it
(`Record.running`). If the driver is killed, this process sets its runs to FAILED.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress

import psutil

from glowctl.ray_runtime.ray_internals import start_fewer_processes
from glowctl.system.helper_processes import shield, supervise
from glowctl.system.scratch import remove_abandoned
from glowctl.system.verbosity import unheeded

log = logging.getLogger(__name__)

PATIENCE_S = 15.0
"""Seconds within which the processes of Ray must have ended; then the folder is removed anyway."""

LOOPBACK = "127.0.0.1"


def main(folder: str, driver: int, state_api: bool, cpus: float, gpus: float) -> int:
    """Start Ray, print its address, and end Ray when the driver ends; return the exit code."""

    def run() -> int:
        try:
            print(_start_ray(folder, state_api, cpus, gpus), flush=True)
        except Exception:
            traceback.print_exc()  # the driver shows its last line
        os.close(sys.stdout.fileno())  # ends the driver's pipe
        threading.Event().wait()
        return 1

    runs = ""

    def receive(line: str) -> None:
        nonlocal runs
        runs = line

    def clean_up() -> None:
        _end_ray(folder, driver)
        if runs:
            _mark_runs(*json.loads(runs))

    return supervise(run, clean_up, receive)


def _mark_runs(uri: str, experiment_id: str) -> None:
    """Set the runs of the driver, which was killed, to FAILED. If the store fails now, the next command does it."""
    from glowctl.tracking.liveness import mark_dead
    from glowctl.tracking.store import client_of

    with unheeded(log, "cannot mark the runs of a driver that was killed"):
        mark_dead(client_of(uri), experiment_id)


def _start_ray(folder: str, state_api: bool, cpus: float, gpus: float) -> str:
    """Start a Ray on the loopback interface, and return its address."""
    import ray

    port = _free_port()
    if state_api:  # workers inherit it; otherwise the State API in a worker would ask the cluster of $RAY_ADDRESS
        os.environ["RAY_API_SERVER_ADDRESS"] = f"http://{LOOPBACK}:{port}"
    start_fewer_processes()
    ray.init(
        "local",
        num_cpus=int(cpus),  # as the plan has counted them (glowctl.ray_runtime.machines)
        num_gpus=int(gpus),
        include_dashboard=state_api,
        dashboard_host=LOOPBACK,
        dashboard_port=port,
        log_to_driver=False,
        _node_ip_address=LOOPBACK,
        _temp_dir=folder,
    )
    shield()  # again, because ray.init has replaced a handler
    return str(ray.get_runtime_context().gcs_address)


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as server:
        return int(server.getsockname()[1])


def _end_ray(folder: str, driver: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    quiet_looks = 0
    while quiet_looks < 2 and time.monotonic() < deadline:
        found = list(_processes_of(folder, driver))
        for process in found:
            with suppress(psutil.Error):  # the process has ended by itself
                process.kill()
        quiet_looks = 0 if found else quiet_looks + 1
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)
    remove_abandoned(os.path.dirname(tempfile.gettempdir()))  # the driver's folder, if the driver was killed


def _processes_of(folder: str, driver: int) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        if process.pid in (os.getpid(), driver):
            continue
        try:
            if any(file.path.startswith(folder + os.sep) for file in process.open_files()):
                yield process
        except (psutil.Error, OSError):  # the process has ended, or belongs to another user
            continue


if __name__ == "__main__":
    folder, driver, state_api, cpus, gpus = sys.argv[1:]
    sys.exit(main(folder, int(driver), state_api == "True", float(cpus), float(gpus)))
