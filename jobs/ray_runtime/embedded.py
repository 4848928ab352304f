"""The Ray of `jobs.ray_runtime.connection`, in a helper process (`jobs.system.helper_processes`), which ends it when
its driver is gone, however that went.

`python -m jobs.ray_runtime.embedded FOLDER PID STATE_API CPUS GPUS` starts a Ray with its files in FOLDER, says its
address on standard output, and waits for the end of its standard input, which the driver PID holds open. Then it
kills every process that has a file open in FOLDER (Ray hides its workers' command lines and environments, but each
writes a log there), and removes the folder. Ray's own processes die with this one, all but two agents of the raylet,
which would stay for minutes.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress

import psutil

from jobs.system.helper_processes import supervise
from jobs.system.scratch import remove_abandoned

PATIENCE_S = 15.0


def main(folder: str, driver: int, state_api: bool, cpus: float, gpus: float) -> int:
    def run() -> int:
        try:
            print(_start_ray(folder, state_api, cpus, gpus), flush=True)
        except Exception:
            traceback.print_exc()  # whose last line the driver shows
        os.close(sys.stdout.fileno())  # so that the driver's pipe ends
        threading.Event().wait()
        return 1

    return supervise(run, lambda: _end_ray(folder, driver))


def _start_ray(folder: str, state_api: bool, cpus: float, gpus: float) -> str:
    """The address of a Ray on the loopback interface.

    It is made of the parts that `ray.init` is made of, less what nobody here needs: that process would be a driver too,
    and would start a monitor for an autoscaler, a reader of its workers' logs and, without `state_api`, nine processes
    of the dashboard: a third of the time that Ray takes to start.
    """
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    parameters = RayParams(
        node_ip_address="127.0.0.1",
        temp_dir=folder,
        num_cpus=int(cpus),  # as the plan had it (jobs.ray_runtime.machines)
        num_gpus=int(gpus),
        include_dashboard=state_api,
        dashboard_host="127.0.0.1",
        dashboard_port=None,  # the next that is free, as `ray.init` does it: else a second Ray does not start
        include_log_monitor=False,  # type: ignore[arg-type]  # which Ray itself gives as a bool
        no_monitor=True,
    )
    return str(Node(parameters, head=True, shutdown_at_exit=False).gcs_address)


def _end_ray(folder: str, driver: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    quiet_looks = 0
    while quiet_looks < 2 and time.monotonic() < deadline:
        found = list(_processes_of(folder, driver))
        for process in found:
            with suppress(psutil.Error):  # it ended meanwhile
                process.kill()
        quiet_looks = 0 if found else quiet_looks + 1
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)
    remove_abandoned(os.path.dirname(tempfile.gettempdir()))  # the driver's, if it was killed


def _processes_of(folder: str, driver: int) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        if process.pid in (os.getpid(), driver):
            continue
        try:
            if any(file.path.startswith(folder + os.sep) for file in process.open_files()):
                yield process
        except (psutil.Error, OSError):  # it ended meanwhile, or is somebody else's
            continue


if __name__ == "__main__":
    folder, driver, state_api, cpus, gpus = sys.argv[1:]
    sys.exit(main(folder, int(driver), state_api == "True", float(cpus), float(gpus)))
