"""`glowctl prune` on stores, folders and a bucket that the tests fill; killed at every step, and at random moments."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

import glowctl.pruning.folders
from glowctl.ablation.summary import trial_table
from glowctl.outputs import KeptRun, claimed, remember
from glowctl.pruning.run import LOCKED, prune
from glowctl.specs.ablation import AblateSpec
from glowctl.specs.training import TrainSpec
from glowctl.tracking import tag_names
from glowctl.tracking.removal import begin_removal, registrations
from glowctl.tracking.runs import child_runs
from tests.jobs.command_line import sentence_of
from tests.jobs.pruning.recorded import NAME, Recorded
from tests.jobs.stores import mlflow_server


@pytest.fixture
def store(tmp_path, uri) -> Recorded:
    return Recorded(tmp_path, uri)


def pruned(capsys, uri, *, delete=True, older="30d", trials=False, keep_best=1):
    """Return the ids of what was deleted or would be, and the reason why each of the others stays."""
    prune(uri, "glow", older, trials, keep_best, delete, as_json=True)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    done = {event["id"]: event for event in events if event["event"] == "prune"}
    assert all(event["deleted"] is delete for event in done.values())
    return done, {event["id"]: event["reason"] for event in events if event["event"] == "kept"}


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_what_is_listed_is_what_is_deleted(store, capsys):
    training = store.train("old")
    evaluation = store.evaluate(training)
    _, trials = store.ablate(3)
    newest = store.train("newest")
    before = files_in(store.folder / "outputs")
    listed, stay = pruned(capsys, store.uri, delete=False)
    assert set(listed) == {training, *trials[1:]}
    assert set(stay) == {trials[0], newest}
    assert listed[training]["evaluations"] == [evaluation]
    assert listed[training]["versions"] == [f"{NAME}/1"]
    assert listed[training]["folder_bytes"] == 300 + sum(
        len(content) for path, content in before.items() if training in path.parts
    )
    assert listed[training]["mlflow_bytes"] > 500 + 500 + 1000  # two tables, a model
    assert listed[trials[1]]["folder_bytes"] > 2000
    assert files_in(store.folder / "outputs") == before
    assert all(map(store.is_whole, [training, *trials, newest]))
    assert pruned(capsys, store.uri, trials=True)[0].keys() == set(trials[1:])
    assert store.is_whole(training)
    assert pruned(capsys, store.uri)[0].keys() == {training}
    assert all(map(store.is_gone, [training, *trials[1:]]))
    assert store.client.get_run(evaluation).info.lifecycle_stage == "deleted"
    assert not Path(store.output, evaluation).exists()
    assert store.is_whole(trials[0])
    assert store.is_whole(newest)
    assert pruned(capsys, store.uri)[0] == {}


def test_versions_that_a_user_may_need_stay(store, capsys):
    named = {word: store.train(word) for word in ("alias", "description", "stage", "tag", "again", "plain", "newest")}
    number = {word: store.version(run) for word, run in named.items()}
    store.client.set_registered_model_alias(NAME, "champion", number["alias"])
    store.client.update_model_version(NAME, number["description"], "the good one")
    with pytest.warns(FutureWarning, match="stage"):
        store.client.transition_model_version_stage(NAME, number["stage"], "Staging")
    store.client.set_model_version_tag(NAME, number["tag"], "owner", "me")
    store.client.copy_model_version(f"models:/{NAME}/{number['again']}", "production")
    done, stay = pruned(capsys, store.uri)
    assert set(done) == {named["plain"]}
    assert "champion" in stay[named["alias"]]
    assert "owner" in stay[named["tag"]]
    assert "newest" in stay[named["newest"]]
    assert [word for word, run in named.items() if store.is_gone(run)] == ["plain"]
    assert [word for word, run in named.items() if not store.is_whole(run)] == ["plain"]


def test_a_folder_in_which_a_command_works_stays(store, capsys):
    training, parent_and_trials = store.train("at work"), store.ablate(2)
    store.train("newest")
    parent, trials = parent_and_trials
    with (
        claimed(f"{store.output}/{training}", training, "train"),
        claimed(f"{store.output}/{parent}", parent, "ablate"),
    ):
        done, stay = pruned(capsys, store.uri)
        assert done == {}
        assert stay[training] == stay[trials[1]] == LOCKED
    assert all(map(store.is_whole, [training, *trials]))
    assert pruned(capsys, store.uri)[0].keys() == {training, trials[1]}


def test_what_is_used_after_it_was_listed_stays(store):
    training = store.train("old")
    store.train("newest")
    run = store.client.get_run(training)
    assert registrations(store.uri)[training].use is None
    young = store.evaluate(training, age_d=0)
    assert begin_removal(store.uri, run, {training}) is not None
    store.client.set_registered_model_alias(NAME, "production", "1")
    assert "production" in str(begin_removal(store.uri, run, {training, young}))
    assert store.is_whole(training)
    store.client.update_run(training, status="RUNNING")
    store.client.delete_registered_model_alias(NAME, "production")
    assert begin_removal(store.uri, run, {training, young}) is not None
    assert store.is_whole(training)


def test_a_folder_that_belongs_to_another_run_is_not_deleted(store, capsys):
    training = store.train("old")
    store.train("newest")
    place = Path(store.output, training)
    remember(str(place), KeptRun(job="train", run_id="another", run_name="synced", spec={}, images={}))
    before = files_in(place)
    done, _ = pruned(capsys, store.uri)
    assert done[training]["folder"] is None
    assert files_in(place) == before


def test_an_ablation_is_compared_with_its_pruned_trials(store, capsys):
    parent, trials = store.ablate(3)
    assert len(pruned(capsys, store.uri, trials=True)[0]) == 1  # the last one is the newest version
    run = store.client.get_run(parent)
    assert [child.info.run_id for child in child_runs(store.uri, run)] == [trials[0], trials[2]]
    children = child_runs(store.uri, run, pruned=True)
    assert [child.info.run_id for child in children] == trials
    store.client.delete_run(trials[2])  # by the user
    assert [child.info.run_id for child in child_runs(store.uri, run, pruned=True)] == trials[:2]
    for child in children:
        child.data.tags[tag_names.SPEC] = json.dumps({"permutation": "1x1", "seed": 0})
    table = trial_table(children, AblateSpec(train=TrainSpec(dataset="digits")), ["permutation"])
    assert sorted(table["validation_bits_per_dim"].dropna()) == [3.0, 4.0, 5.0]


@pytest.mark.slow
def test_checkpoints_in_a_bucket_are_deleted(tmp_path, uri, bucket, capsys):
    store = Recorded(tmp_path, uri, bucket.uri("glow"))
    training = store.train("old")
    parent, trials = store.ablate(2)
    store.train("newest")
    done, _ = pruned(capsys, store.uri)
    assert done.keys() == {training, trials[1]}
    assert done[training]["folder_bytes"] > 2000
    left = bucket.keys()
    assert not [key for key in left if training in key or "/s1/" in key or f"{parent}/tune-1/1/checkpoint" in key]
    assert [key for key in left if f"{parent}/tune-1/0/checkpoint_000001/weights" in key]


@pytest.mark.slow
def test_files_on_an_mlflow_server_are_deleted(tmp_path, capsys):
    with mlflow_server(tmp_path) as server:
        store = Recorded(tmp_path, server.uri)
        training, newest = store.train("old"), store.train("newest")
        done, stay = pruned(capsys, server.uri)
        assert (set(done), set(stay)) == ({training}, {newest})
        assert done[training]["mlflow_bytes"] > 1500
        left = [path.read_text() for path in (tmp_path / "artifacts").rglob("MLmodel")]
        assert len(left) == 1
        assert newest in left[0]
        assert [path.parts[-4] for path in (tmp_path / "artifacts").rglob("scores.parquet")] == [newest]
        assert pruned(capsys, server.uri)[0] == {}


def test_the_command_says_what_is_wrong(tmp_path, one_process, empty_store):
    assert "30 days" in sentence_of(one_process(tmp_path, "prune", "--older", "30 days"), 2)
    assert "--older" in sentence_of(one_process(tmp_path, "prune"), 2)
    assert "--keep-best" in sentence_of(one_process(tmp_path, "prune", "--older", "1d", "--keep-best", "0"), 2)
    assert "mlflow.db" in sentence_of(one_process(tmp_path, "prune", "--older", "1d"))
    store = ("--tracking-uri", f"sqlite:///{empty_store}")
    assert "'glow'" in sentence_of(one_process(tmp_path, "prune", "--older", "1d", *store))


WRITES = [
    (MlflowClient, ("set_tag", "delete_model_version", "delete_logged_model", "delete_run")),
    (LocalArtifactRepository, ("delete_artifacts",)),
    (glowctl.pruning.folders, ("remove_checkpoints", "remove_folder")),
    (glowctl.pruning.run, ("remove_folder",)),
]
"""All functions by which `prune` changes anything."""


def prune_until(uri: str, last: int, is_done: bool) -> None:
    """Prune trials in this process, which kills itself at its `last` write: after the write, or before it."""
    seen = 0

    def counted(write):
        def call(*arguments, **named):
            nonlocal seen
            seen += 1
            if seen == last and not is_done:
                os.kill(os.getpid(), signal.SIGKILL)
            result = write(*arguments, **named)
            if seen == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for owner, names in WRITES:
        for name in names:
            setattr(owner, name, counted(getattr(owner, name)))
    prune(uri, "glow", "30d", True, 1, True, True)


def begun(target, *arguments):
    """Start a process that has imported all it needs, and that shares no connection with this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.jobs.pruning.test_prune"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


@pytest.mark.parametrize(
    ("steps", "is_done"),
    [
        ((2, 3, 6), False),
        (range(1, 20), False),
        (range(1, 20), True),
    ],
)
@pytest.mark.slow
def test_a_kill_at_any_step_loses_nothing_and_the_next_call_finishes(store, capsys, steps, is_done):
    parent, trials = store.ablate(3)
    other, newest = store.train("other"), store.train("newest")
    evaluation = store.evaluate(trials[1])
    kept = files_in(store.folder / "outputs" / other) | files_in(store.folder / "outputs" / parent / "tune-1" / "0")
    for step in steps:
        process = begun(prune_until, store.uri, step, is_done)
        process.join(120)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        assert all(map(store.is_whole, [trials[0], other, newest]))
    assert step > 5  # the writes for one run are more than that
    pruned(capsys, store.uri, trials=True)
    assert all(map(store.is_gone, trials[1:]))
    assert store.client.get_run(evaluation).info.lifecycle_stage == "deleted"
    assert all(map(store.is_whole, [trials[0], other, newest]))
    assert {path: path.read_bytes() for path in kept} == kept
    assert pruned(capsys, store.uri, trials=True)[0] == {}


@pytest.mark.slow
def test_ten_kills_at_random_moments_lose_nothing_and_the_next_call_finishes(store, capsys):
    number = 14
    _, trials = store.ablate(number)
    for trial in trials[1:4]:
        store.evaluate(trial)
    newest = store.train("newest")
    start = time.monotonic()
    pruned(capsys, store.uri, delete=False, trials=True)
    listing, chance, killed = time.monotonic() - start, random.Random(0), 0
    for _ in range(10):
        process = begun(prune_until, store.uri, 0, False)
        time.sleep(chance.uniform(0, 1.5 * listing + 1))
        process.kill()
        process.join(60)
        killed += process.exitcode == -signal.SIGKILL
        assert all(map(store.is_whole, [trials[0], newest]))
    assert killed >= 5
    pruned(capsys, store.uri, trials=True)
    assert all(map(store.is_gone, trials[1:]))
    assert all(map(store.is_whole, [trials[0], newest]))
