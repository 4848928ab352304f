"""`glowctl check`, as a gate in a pipeline uses it. No Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from glow.datasets import load_dataset
from glow.ood import Calibration, ImageCheck
from glowctl.commands.app import main
from glowctl.evaluation.find_model import find_model
from glowctl.tracking.runs import find_run
from glowctl.tracking.store import open_store
from tests.jobs.command_line import GLOWCTL, environment, sentence_of


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


@pytest.fixture(scope="module")
def store(digits_run):
    """A folder with a store that has a trained model, and with some digits and photographs as files."""
    folder, run_id = digits_run
    for name, number in (("digits", 120), ("photos", 30)):
        images, labels = load_dataset(name, "test", image_shape=(1, 8, 8))
        for index in range(number):
            place = folder / name / f"class{labels[index]}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[index, 0].numpy()).save(place / f"{index:03}.png")
    return folder, run_id


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command in this process, which has imported all that it needs."""

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["glowctl", *arguments])
        monkeypatch.setattr(os, "environ", os.environ.copy())
        capsys.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


@pytest.fixture
def checked(store, command):
    """Run the command in the folder of the store."""

    def check(*arguments: str):
        return command(store[0], "check", *arguments)

    return check


def event_of(done) -> dict:
    return json.loads(done.stdout.splitlines()[-1])


def files_in(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


def test_the_exit_code_is_the_verdict(checked):
    assert checked("digits/", "--no-record").returncode == 0
    assert checked("photos/", "--no-record").returncode == 3
    assert checked("photos/", "--no-record", "--exit-zero").returncode == 0


def test_the_event_has_the_verdict_and_the_list(store, checked):
    done = checked("photos/", "--json")
    event = event_of(done)
    assert (done.returncode, event["event"], event["belongs"], event["images"]) == (3, "check", False, 30)
    assert event["p_value"] == pytest.approx(len(event["p_values"]) * min(event["p_values"].values()))
    assert event["p_value"] <= 0.01
    listed = [row for row in event["furthest"] if row["flagged"]]
    assert len(listed) == event["flagged"] > 20
    assert all(Path(store[0], row["image"]).is_file() for row in listed)
    assert {row["class"] for row in listed} == {"class0", "class1"}
    assert event["held_out"] == 176


def test_it_is_recorded_as_a_run_nested_under_the_training(store, checked, command):
    folder, train_run = store
    event = event_of(checked("digits/", "--json", "--alpha", "0.95"))
    run = find_run(uri_of(folder), "glow", event["run_id"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "check digits small"
    assert (run.data.tags["glow.job"], run.data.tags["mlflow.parentRunId"]) == ("check", train_run)
    assert run.data.metrics["p_value"] == event["p_value"]
    assert run.data.metrics["belongs"] == 1
    names = {entry.path for entry in open_store(uri_of(folder), "glow")[0].list_artifacts(run.info.run_id)}
    assert {"spec.json", "check.parquet", "check_furthest.json", "furthest.png", "log.txt"} <= names
    table = pd.read_parquet(Path(event["place"]) / "check.parquet")
    assert len(table) == 120
    assert {"image", "class", "nll", "p_typicality", f"p_{event['detector']}", "flagged"} <= set(table)
    again = event_of(checked("--spec", f"runs:/{event['run_id']}/spec.json", "--json"))
    assert again["p_values"] == event["p_values"]
    assert "belongs" in command(folder, "show", event["run_id"]).stdout


def test_without_a_record_nothing_is_written_but_what_was_asked_for(store, checked):
    folder, _ = store
    database, before = (folder / "mlflow.db").read_bytes(), files_in(folder)
    done = checked("photos/", "--no-record", "--table", "photos.csv", "--sheet", "photos-sheet.png")
    assert done.returncode == 3
    assert files_in(folder) - before == {Path("photos.csv"), Path("photos-sheet.png")}
    assert (folder / "mlflow.db").read_bytes() == database
    table = pd.read_csv(folder / "photos.csv")
    assert len(table) == 30
    assert Image.open(folder / "photos-sheet.png").size[0] > 500


def test_a_folder_of_weights_needs_no_store(store, command, tmp_path):
    done = command(tmp_path, "check", "digits", "--model", str(store[0] / "trained"), "--no-record", "--json")
    assert done.returncode == 0
    assert event_of(done)["images"] == 355
    assert files_in(tmp_path) == set()


def test_the_table_has_the_p_values_of_the_library(store, checked):
    folder, run_id = store
    event = event_of(checked("digits", "--no-record", "--json", "--table", "all.parquet", "--detector", "density"))
    model = find_model(run_id, uri_of(folder), "glow")
    assert isinstance(model.calibration, Calibration)
    check = ImageCheck(model.calibration, "density")
    scores = pd.read_parquet(folder / "all.parquet")
    p_values = scores["p_typicality"].to_numpy()
    distance = np.abs(model.calibration.held_out["nll"] - model.calibration.train_nll.mean()).to_numpy()
    own = np.abs(scores["nll"] - model.calibration.train_nll.mean()).to_numpy()
    expected = [(1 + (distance >= each).sum()) / (1 + len(distance)) for each in own]
    np.testing.assert_allclose(p_values, expected)
    assert event["detector"] == check.detector == "density"


def test_the_served_model_gives_the_same_p_values_and_list(store, checked):
    folder, run_id = store
    checked("digits", "--no-record", "--table", "all.parquet")
    table = pd.read_parquet(folder / "all.parquet")[:20]
    outputs = find_run(uri_of(folder), "glow", run_id).outputs
    assert outputs is not None
    client = open_store(uri_of(folder), "glow")[0]
    served = mlflow.pyfunc.load_model(client.get_logged_model(outputs.model_outputs[0].model_id).artifact_location)
    answer = served.predict(load_dataset("digits", "test")[0][:20].numpy())
    np.testing.assert_allclose(answer["nll"], table["nll"], rtol=1e-6)
    np.testing.assert_allclose(answer["p_values"], table[f"p_{answer['detector']}"])
    assert answer["flagged"] == [False] * 20


def given(folder: Path, lines: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command with these lines on its standard input."""
    command = [str(GLOWCTL), "check", "-", "--no-record", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(), input=lines, text=True, capture_output=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_paths_come_from_standard_input(store):
    folder, _ = store
    paths = "".join(f"{path}\n" for path in sorted((folder / "photos").rglob("*.png")))
    done = given(folder, paths, "--json")
    event = event_of(done)
    assert (done.returncode, event["images"]) == (3, 30)
    assert event["furthest"][0]["image"] in paths
    assert "standard input" in sentence_of(given(folder, "\n"))


def test_what_cannot_be_read_is_counted_and_the_rest_is_judged(store, checked, tmp_path):
    for path in sorted((store[0] / "digits").rglob("*.png"))[:60]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "cut.png").write_bytes(next((store[0] / "digits").rglob("*.png")).read_bytes()[:50])
    (tmp_path / "empty.jpg").touch()
    Image.new("RGB", (30, 20)).save(tmp_path / "wide.png")
    done = checked(str(tmp_path), str(tmp_path / "missing.png"), "--no-record", "--json")
    event = event_of(done)
    assert (event["images"], event["unreadable"]) == (61, 3)
    assert {Path(row["image"]).name for row in event["unreadable_images"]} == {"cut.png", "empty.jpg", "missing.png"}
    assert event["shapes"] == {"1x8x8": 60, "3x20x30": 1}
    text = checked(str(tmp_path), "--no-record").stdout
    assert "cut.png" in text
    assert "3x20x30" in text


@pytest.mark.parametrize(
    ("arguments", "code", "facts"),
    [
        (("nowhere",), 1, ["nowhere"]),
        (("empty/",), 1, ["empty/"]),
        (("text/",), 1, ["text/"]),
        (("broken/",), 1, ["broken/", "1"]),
        (("folder:nowhere",), 1, ["folder:", "nowhere"]),
        ((), 2, ["source"]),
        (("digits/", "--alpha", "1"), 2, ["--alpha", "1"]),
        (("digits/", "--fdr", "0"), 2, ["--fdr", "0"]),
        (("digits/", "--table", "check.txt"), 2, ["--table", "check.txt", ".csv"]),
        (("digits/", "--detector", "magic"), 2, ["'magic'", "joint"]),
        (("digits/class0/010.png", "--alpha", "0.999"), 2, ["176", "0.999"]),
        (("digits/", "--table", "no/such/folder/a.csv"), 1, ["--table", "no/such/folder/a.csv"]),
        (("digits/", "--sheet", "no/such/folder/a.png"), 1, ["--sheet", "no/such/folder/a.png"]),
        (("digits/", "--model", "nothing"), 1, ["nothing"]),
    ],
)
def test_each_bad_request_is_one_sentence(store, checked, arguments, code, facts):
    folder, _ = store
    for name in ("empty", "text", "broken"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "text/a.txt").write_text("no image")
    (folder / "broken/a.png").write_bytes(b"no image")
    sentence = sentence_of(checked(*arguments, "--no-record"), code)
    for fact in facts:
        assert fact in sentence


def test_a_model_without_scores_is_refused(store, checked, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    for name in ("config.json", "model.safetensors"):
        (weights / name).write_bytes((store[0] / "trained/checkpoint" / name).read_bytes())
    assert str(weights) in sentence_of(checked("digits/", "--model", str(weights), "--no-record"))


def test_another_reference_decides_what_belongs(checked):
    """Photographs belong to photographs."""
    event = event_of(checked("photos/", "--reference", "photos", "--no-record", "--json"))
    assert event["belongs"]
    assert event["held_out"] == 1000
    assert not event_of(checked("noise", "--reference", "photos", "--no-record", "--json"))["belongs"]
