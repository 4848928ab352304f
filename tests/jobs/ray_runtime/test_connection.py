"""Tests of the embedded Ray of a command that then does not use it."""

import tempfile
from pathlib import Path

import pytest

from jobs.errors import JobError
from jobs.ray_runtime.connection import embedded_ray
from tests.jobs.command_line import Running, alive, wait_until

pytestmark = pytest.mark.ray


@pytest.fixture
def folder(monkeypatch):
    """Make a folder for Ray's files with a short path, because the paths of sockets must be short."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        yield Path(place)


def test_a_ray_that_does_not_start_is_a_sentence_and_leaves_nothing(folder, monkeypatch):
    monkeypatch.setattr("jobs.ray_runtime.connection.this_machine", lambda: {"CPU": -1.0, "GPU": 0.0})
    with embedded_ray() as ready, pytest.raises(JobError, match="ValueError") as error:
        ready()
    assert error.value.code == "ray-start-failed"
    assert list(folder.iterdir()) == []


def test_a_disk_without_room_for_rays_files_is_a_sentence(folder, monkeypatch):
    monkeypatch.setattr("jobs.ray_runtime.connection.free_megabytes", lambda place: 3.0)
    with pytest.raises(JobError, match=r"20 MB.*3 MB.*TMPDIR") as error, embedded_ray():
        pass
    assert error.value.code == "disk-full"
    assert list(folder.iterdir()) == []


def test_a_ray_that_is_not_needed_after_all_leaves_nothing(folder):
    with pytest.raises(ValueError, match="changed my mind"), embedded_ray():
        raise ValueError("changed my mind")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "process",
    [
        pytest.param("jobs.ray_runtime.embedded", marks=pytest.mark.nightly),
        pytest.param("gcs_server", marks=pytest.mark.nightly),
        pytest.param("raylet", marks=pytest.mark.slow),
        pytest.param("EarlyController", marks=pytest.mark.nightly),
    ],
)
def test_ctrl_c_while_a_training_starts_ends_it_within_seconds_and_leaves_nothing(tmp_path, process):
    running = Running(tmp_path, "train", "--preset", "smoke", "--epochs", "500")
    wait_until(lambda: running.named(process), every=0.05)
    family = running.family()
    running.interrupt()
    assert running.wait(20) == 130
    assert "glowctl: stopped" in running.lines()
    assert "Traceback" not in running.output.read_text()
    wait_until(lambda: not alive(family), timeout=30)
