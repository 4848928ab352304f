"""What Ray 2.60 leaves behind of a training whose driver was stopped or killed.

In a trial of several workers, Ray Train starts a process that removes what the trial had reserved when its controller
dies, and means to end then; but it calls exit_actor() in a thread, where that ends nothing, and stays on the head for
ever (200 MB).
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


@contextmanager
def without_leftovers() -> Iterator[None]:
    """For a driver on a cluster's head, around its connection: ends those of drivers that are gone, and at last its
    own."""
    import ray
    from ray.util.state import list_jobs

    with unheeded(log, "what earlier drivers left stays for the next time"):  # Ray's state API may be busy
        running = {job.job_id for job in list_jobs() if job.status == "RUNNING"}
        _end(_cleaners(lambda job: job not in running))
    own: list[psutil.Process] = []
    try:
        yield
    finally:
        job = ray.get_runtime_context().get_job_id()
        with unheeded(log, "what this driver leaves stays for the next one to end"):
            own = _cleaners(lambda of: of == job)
        ray.shutdown()  # which ends all else that the job has running
        _end(own)


def _cleaners(of_job: Callable[[str], bool]) -> list[psutil.Process]:
    """Those on this machine."""
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
