"""`glowctl doctor` reads the data sets on this machine, and reports what would stop a training."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

from glowctl.commands import doctor
from glowctl.commands.doctor import examine
from glowctl.ray_runtime import connection
from tests.glow.test_data import write_idx


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """A function that returns whether a training can run, and the state and text of a row of the table."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GLOW_STORAGE", raising=False)

    def check(thing):
        out = io.StringIO()
        fine = examine(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path), Console(file=out, width=300))
        [row] = [line.split(maxsplit=2) for line in out.getvalue().splitlines() if re.match(rf"\w+ +{thing} ", line)]
        return fine, row[0], row[2]

    return check


def test_doctor_says_what_there_is_and_what_is_wrong(checked, tmp_path):
    for thing in ("python", "torch", "gpu", "ray", "mlflow", "tracking", "data root", "digits", "svhn"):
        assert checked(thing)[0]
    assert "missing" in checked("mnist")[2]
    (tmp_path / "mlflow.db").write_text("nothing of SQLite" * 60)
    assert checked("tracking")[:2] == (False, "wrong")


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [(2, [0, 10], "0 to 9"), (0, [], "empty"), (2, [0, 9], "partial: train only")],
)
def test_doctor_looks_into_mnist(checked, tmp_path, images, labels, said):
    write_idx(tmp_path, np.zeros((images, 28, 28), np.uint8), np.array(labels, np.uint8))
    fine, state, text = checked("mnist")
    assert said in text
    assert fine == (state == "note")
    assert ("leave out --no-download" in text) == (not fine)


def test_doctor_leaves_no_output_folder(checked, tmp_path):
    _, state, text = checked("output")
    assert state != "wrong"
    assert str(tmp_path / "outputs") in text
    assert not (tmp_path / "outputs").exists()
    (tmp_path / "outputs").mkdir()
    checked("output")
    assert (tmp_path / "outputs").exists()


@pytest.mark.parametrize("storage", [None, "file"])
def test_an_output_that_cannot_be_written_is_wrong(checked, tmp_path, monkeypatch, storage):
    place = tmp_path / (storage or "outputs")
    place.write_text("a file")
    if storage is not None:
        monkeypatch.setenv("GLOW_STORAGE", str(place))
    fine, state, text = checked("output")
    assert (fine, state) == (False, "wrong")
    assert str(place) in text


def test_a_bucket_that_does_not_answer_is_wrong(checked, bucket, monkeypatch):
    monkeypatch.setenv("GLOW_STORAGE", bucket.uri("runs"))
    assert checked("output")[1] == "ok"
    monkeypatch.setenv("GLOW_STORAGE", "nope://bucket/runs")
    assert checked("output")[:2] == (False, "wrong")


@pytest.mark.parametrize(("free_mb", "state"), [(3.0, "wrong"), (300.0, "note"), (30000.0, "ok")])
@pytest.mark.parametrize("thing", ["disk", "temporary", "output"])
def test_a_full_disk_is_wrong(checked, monkeypatch, thing, free_mb, state):
    for module in (doctor, connection):
        monkeypatch.setattr(module, "free_megabytes", lambda place: free_mb)
    fine, found, _ = checked(thing)
    assert found == state
    assert fine or state == "wrong"


@pytest.mark.parametrize(("free_gib", "state"), [(0.5, "wrong"), (2, "note"), (8, "ok")])
def test_no_memory_is_wrong(checked, monkeypatch, free_gib, state):
    monkeypatch.setattr(doctor, "memory_left", lambda: int(free_gib * 2**30))
    fine, found, _ = checked("memory")
    assert found == state
    assert fine or state == "wrong"
