import os
import sys
from types import SimpleNamespace

import pytest
import torch

from glowctl.ray_runtime import machines
from glowctl.ray_runtime.machines import machines_to_come, machines_up, this_machine


def test_this_machine_offers_what_this_process_may_use(monkeypatch):
    machine = this_machine()
    assert 1 <= machine["CPU"] <= (os.cpu_count() or 1)
    assert machine["GPU"] == torch.cuda.device_count()
    monkeypatch.setattr("glowctl.ray_runtime.machines.GPU_DEVICES", ("/dev/null",))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert this_machine()["GPU"] == 8


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, 4),
        ("", 0),
        ("2", 1),
        ("3, 0", 2),
        ("0,7,1", 1),
        ("0,0", "asks torch"),
        ("0,-1", "asks torch"),
        ("GPU-1a2b", "asks torch"),
        ("MIG-1a2b", "asks torch"),
    ],
)
def test_nvidia_gpus_are_counted_without_torch_as_torch_counts_them(monkeypatch, visible, expected):
    monkeypatch.setattr(machines.runpy, "run_path", lambda path: {"cuda": "12.6", "hip": None})
    nvidia = SimpleNamespace(nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 4)
    monkeypatch.setitem(sys.modules, "pynvml", nvidia)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machines._gpus_without_torch() == (None if expected == "asks torch" else expected)


@pytest.mark.parametrize(
    ("built", "expected"), [({"cuda": None, "hip": None}, 0), ({"cuda": None, "hip": "6.1"}, None)]
)
def test_a_torch_for_no_gpu_sees_none_and_one_for_amd_is_asked(monkeypatch, built, expected):
    monkeypatch.setattr(machines.runpy, "run_path", lambda path: built)
    assert machines._gpus_without_torch() == expected


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
