"""The connection of a job to Ray.

A job that runs on a cluster uses that cluster. Any other job gets an embedded Ray: a private Ray on this machine, which
is started for the job and removed after it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from glowctl.errors import JobError
from glowctl.ray_runtime.machines import this_machine
from glowctl.system.environment import in_ray_job
from glowctl.system.helper_processes import end, start
from glowctl.system.scratch import PREFIX, SCRATCH_NAME_LENGTH, free_megabytes
from glowctl.system.signals import signals_as_interrupt
from glowctl.system.verbosity import is_verbose, unheeded

log = logging.getLogger(__name__)

ERRORS = "head.err"
"""Name of the file, in the folder of an embedded Ray, with the standard error of the process that starts it."""

LEAST_FREE_MB = 20
"""Free megabytes that the disk with Ray's files must have."""

LONGEST_PLACE = 29
"""The largest number of characters of a folder in which Ray's sockets can be."""

ELSEWHERE = "/tmp"
"""The folder for Ray's files if the folder for temporary files does not fit."""

STOP_PATIENCE_S = 60
"""Seconds that a stopped job may take to record how it ended, before it is killed."""

CLEANER = "PlacementGroupCleaner"
"""Ray's name for the class of these processes."""

MOST_JOBS = 10_000
"""Largest number of jobs that Ray lists. By default it lists 100, and leaves out the newest without an error."""

# Ray reads these when it is imported, and passes them to its workers.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a stray call after the end must not start another Ray
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # keeps "(raylet) A worker died" out of the progress; displays report it
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # checkpoints and deaths of workers are noticed within this time
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow has the metrics
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # a kill -9 loses at most this many seconds of Tune's state of the trials
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends an ablation in the same way as any other command
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune prints nothing itself
}
"""Environment variables of every Ray that a job uses."""

# A cluster has the settings of its owner instead.
OWN_RAY = {
    "RAY_AUTH_MODE": "token",  # this command makes a separate token, so that ~/.ray is neither read nor written
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Otherwise Ray replaces 127.0.0.1 by this machine's public address and accepts connections from other machines.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_prestart_worker_first_driver": "0",  # one idle process per core, which compete with the command's imports
}
"""Further environment variables of an embedded Ray."""


def set_environment() -> None:
    """Set the environment variables of Ray that the user has not set; must be called before ray is imported."""
    for name, value in (ENVIRONMENT if in_ray_job() else ENVIRONMENT | OWN_RAY).items():
        os.environ.setdefault(name, value)
    if not in_ray_job() and os.environ["RAY_AUTH_MODE"] == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))


@contextlib.contextmanager
def connected(state_api: bool = False) -> Iterator[Callable[[], None]]:
    """Connect a job to Ray: to the cluster if the job runs on one, else to an embedded Ray.

    The context manager yields a function that must be called before Ray is used. An embedded Ray starts in a separate
    process while this process imports torch and reads the data; the function waits until that Ray has started. The
    object store of an embedded Ray may take at most 30 % of the machine's memory, which is Ray's default, and occupies
    only as much as is stored in it.

    Args:
        state_api: whether an embedded Ray has Ray's State API. Only an ablation needs this API: Ray Train uses it to
            find which trials have ended, so that the resources that they had reserved become free.

    Raises:
        JobError: if Ray's files cannot be written or the disk has no room for them; from the function, if Ray does not
            start.
    """
    with _cluster() if in_ray_job() else embedded_ray(state_api) as ready:
        yield ready


@contextlib.contextmanager
def machines_known() -> Iterator[None]:
    """Connect to the cluster if this process is a job on a cluster; otherwise, start no Ray.

    This is enough for `glowctl.ray_runtime.machines` to list the machines that a job would run on.
    """
    with _cluster() if in_ray_job() else contextlib.nullcontext():
        yield


def _least_level() -> int:
    """Return the lowest level of Ray's messages that this process shows.

    Ray logs errors with tracebacks, such as that of a full disk while Ray Tune saves its state. Those that matter to a
    job are also raised, and the user reads them as one sentence.
    """
    return logging.ERROR if is_verbose() else logging.CRITICAL


@contextlib.contextmanager
def _cluster() -> Iterator[Callable[[], None]]:
    import ray

    ray.init(log_to_driver=False, logging_level=_least_level())  # Ray has put the address into the environment
    with without_leftovers(), signals_as_interrupt():
        yield lambda: None


@contextlib.contextmanager
def without_leftovers() -> Iterator[None]:
    """End the processes that Ray 2.60 leaves on the head of a cluster after an ablation was stopped or killed.

    For a trial of several workers, Ray Train starts a process that frees the resources of the trial if its controller
    dies. Afterwards this process should end, but it calls exit_actor() in a thread, where the call has no effect.
    Therefore the process stays on the head forever, with 200 MB of memory.

    The leftover processes of earlier drivers are ended when the `with` block starts. When it ends, this driver
    disconnects from the cluster, and its own leftover processes are ended.
    """
    import ray
    from ray.util.state import list_jobs

    with unheeded(log, "processes of earlier drivers are not ended now"):  # Ray's State API may be busy
        running = {job.job_id for job in list_jobs(filters=[("status", "=", "RUNNING")], limit=MOST_JOBS)}
        _end(_cleaners(lambda job: job not in running))
    own: list[psutil.Process] = []
    try:
        yield
    finally:
        job = ray.get_runtime_context().get_job_id()
        with unheeded(log, "processes of this driver are left to the next driver"):
            own = _cleaners(lambda of: of == job)
        ray.shutdown()  # ends all other processes of the job
        _end(own)


def _cleaners(of_job: Callable[[str], bool]) -> list[psutil.Process]:
    """Return the leftover processes on this machine that belong to certain jobs."""
    import ray
    from ray.util.state import list_actors

    here = ray.get_runtime_context().get_node_id()
    alive = list_actors(filters=[("class_name", "=", CLEANER), ("state", "=", "ALIVE")])
    return [psutil.Process(actor.pid) for actor in alive if actor.node_id == here and of_job(actor.job_id)]


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with unheeded(log, f"process {process.pid} was not ended", psutil.Error):
            if CLEANER in " ".join(process.cmdline()):
                process.kill()


@contextlib.contextmanager
def embedded_ray(state_api: bool = False) -> Iterator[Callable[[], None]]:
    """Start a private Ray on the loopback interface, and yield the function that `connected` describes.

    However this process ends, the helper process `glowctl.ray_runtime.embedded` ends the processes of that Ray and
    removes its files. Inside the `with` block, SIGTERM and SIGHUP raise `Terminated`, and Ctrl-C raises
    KeyboardInterrupt. Several processes can each have their own Ray at the same time. Ray takes about 3 s to start,
    and 600 MB of memory.
    """
    with contextlib.ExitStack() as ending:
        begun = _begin(state_api, ending)
        ending.enter_context(signals_as_interrupt())

        def ready() -> None:
            import ray

            try:
                address = _address(*begun)
            except JobError as error:  # Ray limits its start to 30 s, which is too short on a very busy machine
                log.debug("Ray is started a second time, because the first start failed (%s)", error)
                address = _address(*_begin(state_api, ending))
            ending.callback(ray.shutdown)
            ray.init(address, log_to_driver=False, logging_level=_least_level())
            ending.enter_context(signals_as_interrupt())  # again, because ray.init has replaced the handler

        yield ready


def room_for_ray() -> str:
    """Check that an embedded Ray could write its files, and return the folder in which it would.

    Raises:
        JobError: if Ray's files cannot be written, or the disk has no room for them.
    """
    folder = Path(_ray_folder())
    shutil.rmtree(folder)
    return str(folder.parent)


def _begin(state_api: bool, ending: contextlib.ExitStack) -> tuple[subprocess.Popen[str], str]:
    """Start the process that starts Ray, and have `ending` end it; return the process and Ray's folder."""
    folder = _ray_folder()
    with Path(folder, ERRORS).open("wb") as errors:
        have = this_machine()
        arguments = (folder, str(os.getpid()), str(state_api), str(have["CPU"]), str(have["GPU"]))
        head = start("glowctl.ray_runtime.embedded", *arguments, stdout=subprocess.PIPE, stderr=errors, listens=True)
    ending.callback(end, head)
    return head, folder


def _address(head: subprocess.Popen[str], folder: str) -> str:
    """Wait for Ray and return its address. Raises JobError if it does not start."""
    assert head.stdout is not None
    address = head.stdout.readline().strip()
    if not address:
        said = Path(folder, ERRORS).read_text().strip().splitlines()
        raise JobError(
            f"Ray does not start on this machine ({said[-1] if said else 'its process died'})",
            remedy="check that memory, disk and processes are not exhausted, then try again",
            code="ray-start-failed",
        )
    return address


def _ray_folder() -> str:
    """Make a folder for Ray: in the folder for temporary files, or in /tmp if the path of that folder does not fit.

    Paths of sockets must be ASCII with at most 107 characters, of which Ray needs 70.
    """
    place, why = tempfile.gettempdir(), ""
    remedy = "free some space, or set the environment variable TMPDIR to a folder on another disk"
    fits = len(place) <= LONGEST_PLACE and place.isascii()
    if not fits:
        longest = LONGEST_PLACE - SCRATCH_NAME_LENGTH
        why = f", because {os.path.dirname(place)} is not ASCII or has more than {longest} characters"
        remedy = (
            f"free some space there, or set the environment variable TMPDIR to an ASCII path of at most {longest} "
            "characters on another disk"
        )
        place = ELSEWHERE
    try:
        free = free_megabytes(place)
        if free >= LEAST_FREE_MB:
            return tempfile.mkdtemp(prefix="ray-" if fits else PREFIX, dir=place)
    except OSError as error:
        raise JobError(
            f"Ray's files cannot be written in {place} ({error.strerror}){why}",
            remedy=remedy,
            code="no-temporary-folder",
        ) from error
    raise JobError(
        f"Ray needs {LEAST_FREE_MB} MB for its files in {place}{why}, but only {free:.0f} MB are free there",
        remedy=remedy,
        code="disk-full",
    )
