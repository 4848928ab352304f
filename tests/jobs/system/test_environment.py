"""Tests of the environment of a process, and of the outputs, stores and machines that follow from it."""

import json
import os
import sys
from typing import Any

import pytest

from glowctl.errors import JobError
from glowctl.outputs import KeptResult, KeptRun, place_named, recall, recall_trial, remember, usable_output
from glowctl.system import environment as surroundings
from glowctl.system.environment import check_file_names, in_ray_job, job_metadata, node_types, ray_job_id
from glowctl.tracking.store import open_command
from glowctl.tracking.uris import TrackingError, tracking_uri

BOOTSTRAP = """
max_workers: 3
head_node_type: head
available_node_types:
  head: {resources: {CPU: 0}}
  gpu: {resources: {CPU: 4, GPU: 1}, max_workers: 4}
"""


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    for name in ("GLOW_STORAGE", "GLOW_NODE_TYPES", "MLFLOW_TRACKING_URI", surroundings.JOB_CONFIG):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def job(monkeypatch):
    monkeypatch.setenv(surroundings.JOB_CONFIG, json.dumps({"metadata": {"job_submission_id": "j-1", "a": "b"}}))


def test_a_folder_whose_name_is_not_utf_8_is_named(monkeypatch, tmp_path):
    folder = os.fsencode(tmp_path) + b"/M\xfcller"
    os.mkdir(folder)
    monkeypatch.chdir(os.fsdecode(folder))
    with pytest.raises(JobError, match="UTF-8") as refused:
        check_file_names()
    assert refused.value.code == "file-names-not-utf-8"
    assert "ller" in refused.value.problem
    assert "LC_ALL" not in refused.value.remedy
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(JobError, match="LC_ALL"):
        check_file_names()


def test_what_a_job_says_of_itself(request):
    assert (in_ray_job(), job_metadata(), ray_job_id()) == (False, {}, None)
    request.getfixturevalue("job")
    assert (in_ray_job(), job_metadata()["a"], ray_job_id()) == (True, "b", "j-1")


def test_relative_outputs_are_under_the_storage(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert usable_output("out") == str(tmp_path / "out")
    monkeypatch.setenv("GLOW_STORAGE", "s3://bucket/glow/")
    assert usable_output("out") == "s3://bucket/glow/out"
    assert usable_output("gs://other/out") == "gs://other/out"
    assert usable_output(str(tmp_path / "own")) == str(tmp_path / "own")
    monkeypatch.setenv("GLOW_STORAGE", str(tmp_path / "shared"))
    assert usable_output("out") == str(tmp_path / "shared" / "out")


def test_a_job_without_storage_or_store_is_told_so(job, tmp_path):
    with pytest.raises(JobError, match="--output"):
        usable_output("out")
    assert usable_output(str(tmp_path / "own")) == str(tmp_path / "own")
    with pytest.raises(TrackingError, match="--tracking-uri"):
        tracking_uri()


def test_the_store_of_a_job_is_named_to_its_user(job, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert open_command(tracking_uri()) == "glowctl ui --tracking-uri http://127.0.0.1:5000"


def test_machines_that_may_come_are_known_from_ray_up(job, monkeypatch, tmp_path):
    monkeypatch.setattr(surroundings, "BOOTSTRAP", str(tmp_path / "bootstrap.yaml"))
    assert node_types() == ({}, None)
    (tmp_path / "bootstrap.yaml").write_text(BOOTSTRAP)
    assert node_types() == ({"gpu": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 4}}, 3)


def test_a_bootstrap_file_is_of_no_account_outside_of_a_job(monkeypatch, tmp_path):
    (tmp_path / "bootstrap.yaml").write_text(BOOTSTRAP)
    monkeypatch.setattr(surroundings, "BOOTSTRAP", str(tmp_path / "bootstrap.yaml"))
    assert node_types() == ({}, None)


def test_machines_that_may_come_are_known_from_a_variable(monkeypatch):
    monkeypatch.setenv("GLOW_NODE_TYPES", '{"gpu": {"resources": {"GPU": 1}, "max_workers": 2}}')
    assert node_types() == ({"gpu": {"resources": {"GPU": 1}, "max_workers": 2}}, None)
    monkeypatch.setenv("GLOW_NODE_TYPES", "4 GPUs")
    with pytest.raises(JobError, match="GLOW_NODE_TYPES") as error:
        node_types()
    assert error.value.code == "variable-not-json"


def test_storage_remembers_what_a_run_is(tmp_path):
    assert recall(str(tmp_path / "run")) is None
    facts: dict[str, Any] = {
        "spec": {"depth": 8},
        "images": {"digits train": "abc"},
        "resources": {"cpus_per_worker": 1.0},
    }
    result = KeptResult(state="finished", test_bits_per_dim=2.0, seconds=3.0)
    kept = KeptRun(job="ablate", run_id="abc", run_name="a name", result=result, **facts)
    remember(str(tmp_path / "run"), kept)
    assert recall(str(tmp_path / "run")) == kept
    assert recall_trial(str(tmp_path / "run")) is None
    remember(str(tmp_path / "run"), result)
    assert recall_trial(str(tmp_path / "run")) == result
    assert {file.name for file in (tmp_path / "run").iterdir()} == {"run.json", "trial.json"}
    with pytest.raises(JobError, match="cannot be written"):
        remember("/proc/nothing", kept)


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"job": "train"}'])
def test_what_storage_has_of_a_run_may_be_damaged(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    assert recall(str(tmp_path)) is None


def test_a_runs_place_is_found_by_its_id_or_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert place_named("abc") == str(tmp_path / "outputs" / "abc")
    assert place_named("some/abc/") == str(tmp_path / "some" / "abc")
    assert place_named("s3://bucket/some/abc") == "s3://bucket/some/abc"
    monkeypatch.setenv("GLOW_STORAGE", "s3://bucket/glow")
    assert place_named("abc") == "s3://bucket/glow/outputs/abc"
