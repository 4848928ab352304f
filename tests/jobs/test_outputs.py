"""Unfinished checkpoints are removed, and others are kept; storage that cannot be read is told from an empty one."""

import json
from pathlib import Path

import pytest

from jobs.errors import JobError
from jobs.outputs import KeptRun, recall, remember, remove_unfinished_checkpoints
from jobs.training.prepare import prepare_resume
from tests.glow.buckets import refusing_store


def checkpoint(folder: Path, name: str, content: str = "x") -> Path:
    made = folder / "run" / f"checkpoint_{name}"
    made.mkdir(parents=True)
    (made / "model.safetensors").write_text(content)
    return made


def snapshot(folder: Path, *names: str) -> Path:
    file = folder / "run" / "checkpoint_manager_snapshot.json"
    file.write_text(
        json.dumps({"checkpoint_results": [{"checkpoint_dir_name": f"checkpoint_{name}"} for name in names]})
    )
    return file


def left(folder: Path) -> set[str]:
    return {path.name for path in (folder / "run").glob("checkpoint_*/")}


def test_what_ray_did_not_come_to_keep_is_removed(tmp_path):
    for name in ("1", "2", "3"):
        checkpoint(tmp_path, name)
    snapshot(tmp_path, "1", "2")
    remove_unfinished_checkpoints(str(tmp_path), "run")
    assert left(tmp_path) == {"checkpoint_1", "checkpoint_2"}


def test_where_ray_does_not_say_what_it_keeps_only_what_is_empty_goes(tmp_path):
    checkpoint(tmp_path, "1")
    checkpoint(tmp_path, "2", "")
    remove_unfinished_checkpoints(str(tmp_path), "run")
    assert left(tmp_path) == {"checkpoint_1"}
    file = snapshot(tmp_path, "0")
    file.write_text(file.read_text()[:20])  # a kill cut it short
    remove_unfinished_checkpoints(str(tmp_path), "run")
    assert left(tmp_path) == {"checkpoint_1"}


def test_a_run_without_a_folder_is_left_alone(tmp_path):
    remove_unfinished_checkpoints(str(tmp_path), "run")
    remove_unfinished_checkpoints("no-such-kind://bucket/outputs", "run")


def test_the_same_holds_in_a_bucket(bucket):
    remove_unfinished_checkpoints(bucket.uri("outputs"), "run")
    for name, content in (("1", b"x"), ("2", b"x"), ("3", b"")):
        bucket.put(f"outputs/run/checkpoint_{name}/model.safetensors", content)
        bucket.put(f"outputs/run/checkpoint_{name}/history.json", b"x")
    bucket.put("outputs/other/checkpoint_9/model.safetensors", b"")
    remove_unfinished_checkpoints(bucket.uri("outputs"), "run")
    assert checkpoints(bucket) == {"run/checkpoint_1", "run/checkpoint_2", "other/checkpoint_9"}
    kept = json.dumps({"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_2"}]})
    bucket.put("outputs/run/checkpoint_manager_snapshot.json", kept.encode())
    remove_unfinished_checkpoints(bucket.uri("outputs"), "run")
    assert checkpoints(bucket) == {"run/checkpoint_2", "other/checkpoint_9"}


def checkpoints(bucket) -> set[str]:
    files = bucket.keys()
    return {key.split("/", 1)[1].rpartition("/")[0] for key in files if "/checkpoint_" in key and "snapshot" not in key}


def test_a_bucket_may_hold_no_run(bucket):
    place = bucket.uri("outputs/run")
    assert recall(place) is None
    assert recall("s3://no-such-bucket-here/outputs/run") is None
    kept = KeptRun(job="train", spec={"depth": 8}, images={})
    remember(place, kept)
    assert recall(place) == kept


@pytest.fixture
def refusing(monkeypatch):
    """The URI of a bucket whose server refuses every request, as a store does without the right credentials."""
    with refusing_store(monkeypatch) as uri:
        yield f"{uri}/outputs/run"


def test_a_bucket_that_refuses_is_named_with_the_cause(refusing, tmp_path):
    with pytest.raises(JobError, match=f"{refusing} cannot be read .*(?i:denied)") as raised:
        prepare_resume(refusing, {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"})
    assert raised.value.code == "output-not-readable"
    assert "credentials" in raised.value.remedy


def test_a_place_of_an_unknown_kind_is_named():
    with pytest.raises(JobError, match="no-such-kind://bucket/run") as raised:
        recall("no-such-kind://bucket/run")
    assert raised.value.code == "output-not-readable"
