import os

import pytest
import torch

from jobs.ray_runtime.machines import machines_to_come, machines_up, this_machine


def test_this_machine_offers_what_this_process_may_use(monkeypatch):
    machine = this_machine()
    assert 1 <= machine["CPU"] <= os.cpu_count()
    assert machine["GPU"] == torch.cuda.device_count()
    monkeypatch.setattr("jobs.ray_runtime.machines.GPU_DEVICES", ("/dev/null",))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert this_machine()["GPU"] == 8


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_a_process_that_is_bound_to_one_core_offers_one():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert this_machine()["CPU"] == 1
    finally:
        os.sched_setaffinity(0, before)


def test_outside_of_a_cluster_there_is_this_machine_alone(monkeypatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setenv("GLOW_NODE_TYPES", '{"gpu": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 4}}')
    assert machines_up() == [this_machine()]
    assert machines_to_come() == []
