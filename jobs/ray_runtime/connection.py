"""The Ray that a job runs on: one of its own on this machine, started for it and gone after it, or the cluster that it
is a job of."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from jobs.errors import JobError
from jobs.ray_runtime.machines import this_machine
from jobs.system.environment import in_ray_job
from jobs.system.helper_processes import end, start
from jobs.system.scratch import free_megabytes, make_scratch_folder
from jobs.system.signals import sigterm_as_interrupt

__all__ = ["STOP_PATIENCE_S", "connected", "embedded_ray", "machines_known", "set_environment"]

log = logging.getLogger(__name__)

ERRORS = "head.err"
"""In the folder of an embedded Ray: what the process that starts it wrote on standard error."""

LEAST_FREE_MB = 20
"""Room on the disk that Ray's logs are on."""

STOP_PATIENCE_S = 60
"""How long a job that is stopped may take to leave its record in a true state, before it is killed."""

# Ray reads these when it is imported, and hands them to its workers.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a stray call after the end must not start another Ray
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # no "(raylet) A worker died" among the progress: the record tells of it
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a checkpoint is registered, and a death noticed, within this
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow has the metrics
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # what is known of trials that a kill -9 may cost
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends an ablation as it ends any command
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune says nothing by itself
}

# Of an embedded Ray. A cluster's are its owner's.
OWN_RAY = {
    "RAY_AUTH_MODE": "token",  # with a token of this command's own, so that ~/.ray is neither read nor written
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Else Ray replaces 127.0.0.1 by the address that others see, and listens to them.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_preload_python_modules": "jobs.ray_runtime.worker_preload",
}


def set_environment() -> None:
    """Must come before ray is imported."""
    for name, value in (ENVIRONMENT if in_ray_job() else ENVIRONMENT | OWN_RAY).items():
        os.environ.setdefault(name, value)
    if not in_ray_job() and os.environ["RAY_AUTH_MODE"] == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))


@contextlib.contextmanager
def connected(state_api: bool = False) -> Iterator[Callable[[], None]]:
    """Ray for a job: the cluster that this process is a job of, else a Ray of its own.

    It gives a function that must be called before Ray is used. A Ray of its own starts before that, beside this
    process, which imports torch and reads the data meanwhile. Its object store takes at most Ray's share of the memory,
    30 %, and only as much as is put there. It has Ray's State API only if that is asked for: Ray Train asks it
    which trials of an ablation are gone, to free what they had reserved, and nobody else needs it.
    """
    with _cluster() if in_ray_job() else embedded_ray(state_api) as ready:
        yield ready


@contextlib.contextmanager
def machines_known() -> Iterator[None]:
    """What it takes to see the machines that a job would run on: a cluster is asked, of this machine no Ray is
    started."""
    with _cluster() if in_ray_job() else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _cluster() -> Iterator[Callable[[], None]]:
    import ray

    from jobs.ray_runtime.leftover_cleaners import without_leftovers

    ray.init(log_to_driver=False, logging_level=logging.ERROR)  # Ray has told the job its address
    with without_leftovers(), sigterm_as_interrupt():
        yield lambda: None


@contextlib.contextmanager
def embedded_ray(state_api: bool = False) -> Iterator[Callable[[], None]]:
    """A private Ray on the loopback interface, as `connected` gives it.

    Nothing of it is left however this process ends: `jobs.ray_runtime.embedded` sees to that. SIGTERM raises
    `Terminated`, Ctrl-C KeyboardInterrupt. Several processes can each have one. It takes about 3 s and 600 MB.
    """
    with contextlib.ExitStack() as ending:
        begun = _begin(state_api, ending)
        ending.enter_context(sigterm_as_interrupt())

        def ready() -> None:
            import ray

            try:
                address = _address(*begun)
            except JobError as error:  # Ray gives itself 30 s, which a machine that is very busy exceeds
                log.debug("Ray is started once more (%s)", error)
                address = _address(*_begin(state_api, ending))
            ending.callback(ray.shutdown)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
            ending.enter_context(sigterm_as_interrupt())  # anew: ray.init sets a handler of its own

        yield ready


def _begin(state_api: bool, ending: contextlib.ExitStack) -> tuple[subprocess.Popen[str], str]:
    """Starts the process that starts Ray, and has `ending` end it; the process, and Ray's folder."""
    folder = _ray_folder()
    with Path(folder, ERRORS).open("wb") as errors:
        have = this_machine()
        arguments = (folder, str(os.getpid()), str(state_api), str(have["CPU"]), str(have["GPU"]))
        head = start("jobs.ray_runtime.embedded", *arguments, stdout=subprocess.PIPE, stderr=errors)
    ending.callback(end, head)
    return head, folder


def _address(head: subprocess.Popen[str], folder: str) -> str:
    """Waits for Ray. Raises JobError if it does not start."""
    assert head.stdout is not None
    address = head.stdout.readline().strip()
    if not address:
        said = Path(folder, ERRORS).read_text().strip().splitlines()
        raise JobError(f"Ray does not start here: {said[-1] if said else 'its process died'}")
    return address


def _ray_folder() -> str:
    """A new folder for a Ray. Paths of sockets must be ASCII, and not exceed 107 characters, of which Ray needs 70."""
    place = tempfile.gettempdir()
    short = len(place) < 30 and place.isascii()
    place = place if short else "/tmp"
    if (free := free_megabytes(place)) < LEAST_FREE_MB:
        raise JobError(
            f"Ray needs {LEAST_FREE_MB} MB for its files in {place}, where {free:.0f} MB are free: make room, or name "
            "another folder by TMPDIR"
        )
    return tempfile.mkdtemp(prefix="ray-") if short else str(make_scratch_folder("/tmp"))
