"""Tests of the metrics of machines, with a GPU library made for the test."""

import sys
import time
from types import SimpleNamespace

from glowctl.system.machine_metrics import measured, sampled
from tests.jobs.command_line import wait_until


def test_a_machine_is_looked_at_every_so_often_and_at_the_end():
    told: list[dict[str, float]] = []
    with sampled(told.append, interval_s=0.2):
        wait_until(lambda: len(told) >= 2, every=0.05)
        before = len(told)
    assert len(told) > before
    for figures in told:
        assert 0 < figures["system_memory_usage_percentage"] < 100
        assert figures["network_receive_megabytes"] >= 0


def test_a_driver_that_is_gone_ends_nothing():
    def gone(figures):
        raise ConnectionError

    with sampled(gone, interval_s=0.05):
        time.sleep(0.2)


def test_the_processor_is_what_was_busy_meanwhile():
    told: list[dict[str, float]] = []
    with sampled(told.append, interval_s=1.0):
        end = time.monotonic() + 1.1
        while time.monotonic() < end:
            continue
    assert told[0]["cpu_utilization_percentage"] > 5


class NVMLError(Exception):
    pass


def power(gpu):
    if gpu == 1:
        raise NVMLError
    return 250_000


def test_gpus_are_told_under_mlflows_names(monkeypatch):
    library = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(used=20e9, total=80e9),
        nvmlDeviceGetUtilizationRates=lambda gpu: SimpleNamespace(gpu=90 + gpu),
        nvmlDeviceGetPowerUsage=power,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    figures = {name: value for name, value in measured().items() if name.startswith("gpu")}
    assert figures == {
        "gpu_0_memory_usage_percentage": 25.0,
        "gpu_0_memory_usage_megabytes": 20_000,
        "gpu_0_utilization_percentage": 90,
        "gpu_0_power_usage_watts": 250,
        "gpu_1_memory_usage_percentage": 25.0,
        "gpu_1_memory_usage_megabytes": 20_000,
        "gpu_1_utilization_percentage": 91,
    }


def test_a_machine_without_gpus_tells_of_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert not any(name.startswith("gpu") for name in measured())


def test_names_are_those_that_mlflow_gives(monkeypatch):
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monkeypatch.setitem(sys.modules, "pynvml", None)
    theirs = set()
    for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor()):
        monitor.collect_metrics()
        theirs |= monitor.aggregate_metrics().keys()
    assert theirs == measured().keys()
