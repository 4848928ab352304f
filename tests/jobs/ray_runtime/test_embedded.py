"""Tests of the start and the end of an embedded Ray by its helper process."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from glowctl.ray_runtime import embedded, ray_internals
from glowctl.ray_runtime.embedded import _start_ray
from tests.jobs.command_line import wait_until

KILLED = """
import os, signal, tempfile
from glowctl.ray_runtime.connection import embedded_ray, set_environment
from glowctl.system.scratch import scratch_folder
set_environment()
with scratch_folder(), embedded_ray() as ready:
    ready()
    os.kill(os.getpid(), signal.SIGKILL)
"""

PUBLIC_ALONE = """
import sys
from glowctl.ray_runtime import connection, embedded, ray_internals
connection.set_environment()
ray_internals.NODE = "ray.no_such_module"
print(embedded._start_ray(sys.argv[1], False, 1, 0))
"""


@pytest.mark.parametrize("state_api", [False, True])
def test_workers_ask_their_own_ray_for_its_state(tmp_path, monkeypatch, state_api):
    """Ray Train frees what a killed trial had reserved, and must not ask another Ray whether the trial lives."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    given: dict[str, Any] = {}
    monkeypatch.setattr(embedded, "start_fewer_processes", lambda: None)
    monkeypatch.setattr(embedded, "shield", lambda: None)
    monkeypatch.setattr(
        ray, "init", lambda address, **options: given.update(options, asked=os.environ["RAY_API_SERVER_ADDRESS"])
    )
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:6379"))
    assert _start_ray(str(tmp_path), state_api, cpus=1, gpus=0) == "127.0.0.1:6379"
    assert given["asked"] == (f"http://127.0.0.1:{given['dashboard_port']}" if state_api else "http://127.0.0.1:9")


@pytest.mark.parametrize("module", ["ray.no_such_module", "ray"])
def test_a_ray_without_the_private_names_is_left_as_it_is(monkeypatch, module):
    monkeypatch.setattr(ray_internals, "NODE", module)
    monkeypatch.setattr(ray_internals, "COORDINATOR", module)
    before = set(vars(sys.modules["ray"]))
    ray_internals.start_fewer_processes()
    ray_internals.start_coordinator()
    ray_internals.start_fewer_train_processes(trainer := SimpleNamespace())
    assert set(vars(sys.modules["ray"])) == before
    assert vars(trainer) == {}


@pytest.mark.ray
@pytest.mark.slow
def test_ray_starts_by_its_public_names_alone(tmp_path):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        command = [sys.executable, "-c", PUBLIC_ALONE, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1].startswith("127.0.0.1:")


@pytest.mark.slow
@pytest.mark.ray
def test_a_command_that_is_killed_leaves_no_folder():
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="") as place:
        environment = {**os.environ, "TMPDIR": place, "RAY_AUTH_MODE": "disabled"}
        subprocess.run([sys.executable, "-c", KILLED], env=environment, check=False)
        wait_until(lambda: not list(Path(place).iterdir()), timeout=60)
