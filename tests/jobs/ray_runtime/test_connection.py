"""Tests of the embedded Ray of a command that then does not use it."""

import logging
import tempfile
from pathlib import Path

import pytest
import ray

from glowctl.errors import JobError
from glowctl.ray_runtime import connection
from glowctl.ray_runtime.connection import embedded_ray, room_for_ray
from tests.jobs.command_line import Running, alive, wait_until

pytestmark = pytest.mark.ray


@pytest.fixture
def folder(monkeypatch):
    """Make a folder for Ray's files with a short path, because the paths of sockets must be short."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        yield Path(place)


@pytest.mark.parametrize("verbose", [False, True])
def test_errors_that_ray_logs_with_tracebacks_are_shown_to_the_verbose_alone(folder, monkeypatch, verbose):
    """Ray Tune logs them if it cannot save its state, such as on a full disk."""
    monkeypatch.setenv("GLOW_VERBOSE", "1" if verbose else "")
    monkeypatch.setattr(connection, "_begin", lambda *arguments: ())
    monkeypatch.setattr(connection, "_address", lambda *arguments: "address")
    settings = {}
    monkeypatch.setattr(ray, "init", lambda address, **given: settings.update(given))
    with embedded_ray() as ready:
        ready()
    assert (settings["logging_level"] <= logging.ERROR) == verbose


def test_the_room_for_rays_files_is_checked_and_nothing_is_left(folder, monkeypatch):
    assert room_for_ray() == str(folder)
    assert list(folder.iterdir()) == []
    monkeypatch.setattr("glowctl.ray_runtime.connection.free_megabytes", lambda place: 3.0)
    with pytest.raises(JobError) as error:
        room_for_ray()
    assert error.value.code == "disk-full"


def test_a_ray_that_does_not_start_is_a_sentence_and_leaves_nothing(folder, monkeypatch):
    monkeypatch.setattr("glowctl.ray_runtime.connection.this_machine", lambda: {"CPU": -1.0, "GPU": 0.0})
    with embedded_ray() as ready, pytest.raises(JobError, match="ValueError") as error:
        ready()
    assert error.value.code == "ray-start-failed"
    assert list(folder.iterdir()) == []


def test_a_disk_without_room_for_rays_files_is_a_sentence(folder, monkeypatch):
    monkeypatch.setattr("glowctl.ray_runtime.connection.free_megabytes", lambda place: 3.0)
    with pytest.raises(JobError, match=r"20 MB.*3 MB.*TMPDIR") as error, embedded_ray():
        pass
    assert error.value.code == "disk-full"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["of-more-than-15-characters", "ü"])
@pytest.mark.parametrize(
    ("elsewhere", "code"), [("/proc", "no-temporary-folder"), ("/none", "no-temporary-folder"), ("/tmp", "disk-full")]
)
def test_a_place_of_a_long_name_is_not_blamed_for_a_full_disk(folder, monkeypatch, name, elsewhere, code):
    """Ray's files then are in /tmp, so that to set TMPDIR to another disk does not help."""
    place = folder / name / "glow-12345678"
    place.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setattr(connection, "ELSEWHERE", elsewhere)
    if code == "disk-full":
        monkeypatch.setattr(connection, "free_megabytes", lambda place: 3.0)
    else:
        monkeypatch.setattr(connection, "LEAST_FREE_MB", 0)  # /proc has none
    with pytest.raises(JobError) as error, embedded_ray():
        pass
    assert error.value.code == code
    for fact in (elsewhere, str(folder / name), "TMPDIR", "ASCII", "15 characters"):
        assert fact in str(error.value)
    assert list(place.iterdir()) == []


def test_a_ray_that_is_not_needed_after_all_leaves_nothing(folder):
    with pytest.raises(ValueError, match="changed my mind"), embedded_ray():
        raise ValueError("changed my mind")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "process",
    [
        pytest.param("glowctl.ray_runtime.embedded", marks=pytest.mark.nightly),
        pytest.param("gcs_server", marks=pytest.mark.nightly),
        pytest.param("raylet", marks=pytest.mark.slow),
        pytest.param("TrainController", marks=pytest.mark.nightly),
    ],
)
def test_ctrl_c_while_a_training_starts_ends_it_within_seconds_and_leaves_nothing(tmp_path, process):
    running = Running(tmp_path, "train", "--preset", "smoke", "--epochs", "500")
    wait_until(lambda: bool(running.named(process)), every=0.05)
    family = running.family()
    running.interrupt()
    assert running.wait(20) == 130
    assert "glowctl: stopped" in running.lines()
    assert "Traceback" not in running.output.read_text()
    wait_until(lambda: not alive(family), timeout=60)
