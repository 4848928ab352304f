"""Tests of the removal of processes that Ray leaves on a cluster, with a stand-in for Ray's lists."""

from types import SimpleNamespace

import ray
import ray.util.state

from glowctl.ray_runtime import connection
from glowctl.ray_runtime.connection import without_leftovers

ENDED, RUNNING, OWN = "00000003", "00000fff", "00001000"


def test_cleaners_of_a_running_job_stay_however_many_jobs_have_ended(monkeypatch):
    states = {f"{number:08x}": "SUCCEEDED" for number in range(150)} | {RUNNING: "RUNNING", OWN: "RUNNING"}

    def list_jobs(filters=(), limit=100):  # as Ray: the oldest first, and no error if some are left out
        assert all((name, predicate) == ("status", "=") for name, predicate, _ in filters)
        found = [job for job, status in sorted(states.items()) if all(status == value for *_, value in filters)]
        return [SimpleNamespace(job_id=job, status=states[job]) for job in found[:limit]]

    ended: list[str] = []
    monkeypatch.setattr(ray.util.state, "list_jobs", list_jobs)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: OWN))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(connection, "_cleaners", lambda of_job: [*filter(of_job, (ENDED, RUNNING, OWN))])
    monkeypatch.setattr(connection, "_end", ended.extend)
    with without_leftovers():
        assert ended == [ENDED]
    assert ended == [ENDED, OWN]
