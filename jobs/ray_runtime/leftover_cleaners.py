"""The removal of processes that Ray 2.60 leaves on a cluster after an ablation was stopped or killed.

For a trial of several workers, Ray Train starts a process that frees the resources of the trial if its controller dies.
Afterwards this process should end, but it calls exit_actor() in a thread, where the call has no effect. Therefore
the process stays on the head forever, with 200 MB of memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from jobs.system.verbosity import unheeded

__all__ = ["without_leftovers"]

log = logging.getLogger(__name__)

CLEANER = "PlacementGroupCleaner"
"""Ray's name for the class of these processes."""

MOST_JOBS = 10_000
"""Largest number of jobs that Ray lists. By default it lists 100, and leaves out the newest without an error."""


@contextmanager
def without_leftovers() -> Iterator[None]:
    """End the processes that Ray leaves on the head of a cluster after ablations.

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
