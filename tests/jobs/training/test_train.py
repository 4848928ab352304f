"""Tests of whole trainings with `glowctl`, on an embedded Ray with real worker processes and real faults."""

import itertools
import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from glow import Glow, load_checkpoint, load_dataset, score
from glow.checkpoint import digest_of
from glow.datasets import fingerprint
from glow.training.trainer import Trainer, mean_bits_per_dim
from glowctl.errors import JobError
from glowctl.evaluation.find_model import find_model
from glowctl.specs.training import make_train_spec
from glowctl.tracking.liveness import GONE
from glowctl.tracking.record import Record
from glowctl.tracking.registry import registered_versions
from glowctl.tracking.runs import find_run, read_table, recorded_images
from glowctl.tracking.scores import key_of
from glowctl.tracking.store import open_store
from glowctl.training.data import is_packed
from glowctl.training.prepare import prepare, prepare_resume
from tests.jobs.command_line import Running, alive, check_quiet, glowctl, sentence_of, wait_until
from tests.jobs.record_facts import check_epochs, damage_files_of_ray

pytestmark = pytest.mark.ray

SMOKE = ("train", "--preset", "smoke", "--cpus-per-worker", "1")

EVERY, UNSEEN = 20, 10
"""Steps between two checkpoints of a long epoch, and steps that it trains in half a second at most."""


def record_of(folder: Path, run_id: str):
    return find_run(f"sqlite:///{folder}/mlflow.db", "glow", run_id)


def epochs_of(folder: Path, run_id: str, metric: str) -> dict[int, float]:
    """Return the values of a metric by epoch, after a check that no epoch has two."""
    client, _ = open_store(f"sqlite:///{folder}/mlflow.db", "glow", look=False)
    points = client.get_metric_history(run_id, metric)
    assert len({point.step for point in points}) == len(points)
    return {point.step: point.value for point in points}


def run_id_of(lines: list[str]) -> str:
    return next(line for line in lines if line.startswith("training ")).split()[-1]


def results(folder: Path, run_id: str) -> Path:
    return folder / "outputs" / run_id / "results"


def best_weights(settings: dict) -> dict[str, np.ndarray]:
    """Train with the library alone, without interruption; return the best weights of the epochs with a checkpoint."""
    work = prepare(make_train_spec("smoke", settings))
    packed = is_packed(work.spec.dataset)  # then the data set knows the order of its images
    images = {split: each if packed else each.images() for split, each in work.splits.items()}
    trainer = Trainer(
        Glow(work.config),
        images["train"],
        work.splits["train"].labels,
        validation=images["validation"],
        config=work.spec.fit_config(),
    )
    best = float("inf")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the worker
    try:
        for result in trainer.epochs():
            if result.epoch % int(work.spec.checkpoint_every) == 0 and result.validation_bits_per_dim < best:
                best = result.validation_bits_per_dim
                weights = {name: tensor.numpy().copy() for name, tensor in trainer.evaluated_model.state_dict().items()}
    finally:
        torch.set_num_threads(threads)
    return weights


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run an elastic training of all workers that fit; return its folder and its events.

    The learning rate ruins the model after its first epochs, so that the best model is not the last.
    """
    folder = tmp_path_factory.mktemp("finished")
    ruinous = ("--epochs", "5", "--learning-rate", "0.05", "--schedule", "constant", "--clip-norm", "0")
    workers = ("--workers", "1:99", "--batch-size", "128")
    done = glowctl(folder, *SMOKE, *workers, *ruinous, "--class-conditional", "--json")
    check_quiet(done)
    return folder, [json.loads(line) for line in done.stdout.splitlines()]


def test_events_are_json_lines_from_start_to_end(finished):
    _, events = finished
    kinds = [event["event"] for event in events if event["event"] != "step"]
    assert kinds == ["started", *["epoch"] * 5, "finished"]
    assert events[0]["workers"] == os.cpu_count()
    assert 0 < events[0]["startup_seconds"] < 120
    assert events[-1]["test_bits_per_dim"] < 8


def test_the_last_checkpoint_is_kept_with_the_best_model(finished):
    folder, events = finished
    scores = {e["epoch"]: e["validation_bits_per_dim"] or float("inf") for e in events if e["event"] == "epoch"}
    end = events[-1]
    assert end["best_epoch"] == min(scores, key=lambda epoch: scores[epoch])
    (kept,) = (folder / "outputs" / end["run_id"]).glob("attempt-*/checkpoint_*/")
    assert digest_of(kept / "best") == digest_of(Path(end["checkpoint"]))
    assert (digest_of(kept) == digest_of(kept / "best")) == (end["best_epoch"] == 5)


def test_mlflow_has_the_whole_record(finished):
    folder, events = finished
    end = events[-1]
    run = record_of(folder, end["run_id"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "train digits 1x1 K2 L2 w16 s0"
    assert run.data.params["depth"] == "2"
    assert run.data.params["class_conditional"] == "True"
    assert run.data.tags["glow.job"] == "train"
    assert run.data.tags["glow.dataset"] == "digits"
    assert json.loads(run.data.tags["glow.spec"])["workers"] == "1:99"
    assert "bits/dim at 8x8" in run.data.tags["mlflow.note.content"]
    assert {entry.tags[0].value for entry in run.inputs.dataset_inputs} == {"training", "validation", "test"}
    client, _ = open_store(f"sqlite:///{folder}/mlflow.db", "glow")
    for name in (
        "train/bits_per_dim",
        "validation/bits_per_dim",
        "images_per_second",
        "gradient_norm",
        "learning_rate",
        "skipped_steps",
    ):
        assert [point.step for point in client.get_metric_history(run.info.run_id, name)] == [1, 2, 3, 4, 5], name
    assert run.data.metrics["test/bits_per_dim"] == pytest.approx(end["test_bits_per_dim"])
    assert run.data.metrics["test/bits_per_dim_original"] == pytest.approx(end["test_bits_per_dim_original"])
    assert run.data.metrics["restarts"] == 0
    assert run.data.metrics["startup_seconds"] == pytest.approx(events[0]["startup_seconds"])
    assert any(name.startswith("system/") for name in run.data.metrics)
    top = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    expected = {"spec.json", "environment.json", "history.csv", "nll.png", "samples.png", "samples.npy", "scores"}
    assert expected <= top
    assert "checkpoint" not in top  # the logged model contains it
    grids = [artifact.path for artifact in client.list_artifacts(run.info.run_id, "images")]
    assert {"step+1+" in path or "step%1%" in path for path in grids} == {True, False}
    here = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    if head.returncode == 0:  # a git checkout
        assert run.data.tags["mlflow.source.git.commit"] == head.stdout.strip()


def test_the_model_is_registered_with_the_scores_of_every_image_and_is_the_checkpoint(finished):
    folder, events = finished
    end = events[-1]
    uri = f"sqlite:///{folder}/mlflow.db"
    assert end["model"] == "models:/glow-digits/1"
    (version,) = registered_versions(uri)
    assert (version.uri, version.run_id, version.aliases) == (end["model"], end["run_id"], ())
    assert version.test_bits_per_dim == pytest.approx(end["test_bits_per_dim"])
    found = find_model(end["model"], uri, "glow")
    assert found.digest == digest_of(Path(end["checkpoint"]))
    model = load_checkpoint(end["checkpoint"])
    for split in ("train", "validation", "test"):
        images, labels = load_dataset("digits", split)
        key = key_of(found.digest, fingerprint(images), 8, split, 0, "float32")
        recorded = read_table(uri, end["run_id"], f"scores/{key}.parquet")
        assert recorded is not None
        assert (recorded["label"].to_numpy() == labels.numpy()).all()
        np.testing.assert_allclose(recorded["nll"], score(model, images).nll, rtol=1e-5)
    assert model.config.num_classes == 10
    images, _ = load_dataset("digits", "test")
    assert mean_bits_per_dim(model, images) == pytest.approx(end["test_bits_per_dim"], abs=1e-3)
    samples = np.load(results(folder, end["run_id"]) / "samples.npy")
    assert (samples.shape, samples.dtype) == ((100, 1, 8, 8), np.uint8)
    with Image.open(end["sample_grid"]) as grid:  # ten by ten
        assert grid.width == grid.height >= 640


@pytest.mark.slow
def test_killed_glowctl_leaves_nothing_and_resumes_bit_for_bit(tmp_path):
    # The kill must come well after a checkpoint, even if an epoch takes 0.1 s.
    long = (*SMOKE, "--per-class", "16", "--epochs", "40", "--checkpoint-every", "10", "--sample-every", "0")
    running = Running(tmp_path, *long)
    running.wait_for("epoch 14/40")
    (worker,) = running.train_workers()
    worker.suspend()  # so that the record has all the time that it needs for the epochs that were shown
    run_id = run_id_of(running.lines())
    wait_until(lambda: 10 in epochs_of(tmp_path, run_id, "validation/bits_per_dim"))
    other = glowctl(tmp_path, "train", "--resume", run_id)
    assert run_id in sentence_of(other)
    assert record_of(tmp_path, run_id).info.status == "RUNNING"
    family = running.family()
    running.process.kill()
    running.wait()
    wait_until(lambda: not alive(family), timeout=60)
    wait_until(lambda: record_of(tmp_path, run_id).info.status == "FAILED")
    assert record_of(tmp_path, run_id).data.tags["glow.error"] == GONE
    # MLflow has no epoch that will be trained again, such as 11 to 14, which were shown.
    assert max(epochs_of(tmp_path, run_id, "validation/bits_per_dim")) % 10 == 0
    with sqlite3.connect(tmp_path / "mlflow.db") as database:  # as if it had ended before these were recorded
        database.execute("DELETE FROM inputs")
    damage_files_of_ray(tmp_path, "emptied")

    resumed = glowctl(tmp_path, "train", "--resume", run_id)
    assert resumed.returncode == 0, resumed.stderr
    assert run_id_of(resumed.stdout.splitlines()) == run_id
    assert "epoch 40/40" in resumed.stdout
    assert "epoch 10/40" not in resumed.stdout
    run = record_of(tmp_path, run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["restarts"] == 1
    assert recorded_images(run).keys() == {"digits train", "digits validation", "digits test"}
    history = pd.read_csv(results(tmp_path, run_id) / "history.csv", index_col="epoch")
    assert history.index.tolist() == list(range(1, 41))
    check_epochs(f"sqlite:///{tmp_path}/mlflow.db", run)

    interrupted = load_file(results(tmp_path, run_id) / "checkpoint/model.safetensors")
    expected = best_weights({"per_class": 16, "epochs": 40, "checkpoint_every": 10})
    assert interrupted.keys() == expected.keys()
    assert all(np.array_equal(interrupted[name], expected[name]) for name in expected)

    with pytest.raises(JobError, match=run_id) as error:
        prepare_resume(run_id, {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"})
    assert error.value.code == "run-finished"


@pytest.mark.nightly
def test_a_killed_worker_costs_a_restart_and_no_more(tmp_path):
    running = Running(tmp_path, *SMOKE, "--epochs", "14", "--workers", "2", "--sample-every", "0")
    running.wait_for("epoch 5/14")
    workers = running.train_workers()
    assert len(workers) == 2
    workers[1].kill()
    running.wait_for("training restarted")
    restarted_after = int(running.line_with("training restarted").split("after epoch ")[1].split()[0])
    assert restarted_after >= 3  # at worst, the checkpoint of epoch 4 was not registered yet
    assert running.wait() == 0
    run = record_of(tmp_path, run_id_of(running.lines()))
    assert run.info.status == "FINISHED"
    assert run.data.metrics["restarts"] == 1
    assert epochs_of(tmp_path, run.info.run_id, "validation/bits_per_dim").keys() == set(range(1, 15))
    check_epochs(f"sqlite:///{tmp_path}/mlflow.db", run)


@pytest.mark.slow
def test_a_training_that_was_killed_inside_an_epoch_loses_no_more_than_the_steps_since_its_checkpoint(tmp_path):
    """Train one epoch of 158 steps; the result is that of an uninterrupted training with the library."""
    settings = {"epochs": 1, "batch_size": 8}
    flags = ("--epochs", "1", "--batch-size", "8", "--sample-every", "0")
    running = Running(tmp_path, *SMOKE, *flags, "--checkpoint-every", "10steps")
    seen: set[str] = set()

    def third() -> bool:
        """Ray deletes the first when it has registered the second, which it has done when there is a third."""
        seen.update(path.name for path in tmp_path.glob("outputs/*/attempt-*/checkpoint_*/"))
        return len(seen) >= 3

    wait_until(third, every=0.02)
    (worker,) = running.train_workers()
    worker.kill()
    running.wait_for("training restarted")
    family = running.family()
    time.sleep(1)
    running.process.kill()
    running.wait()
    wait_until(lambda: not alive(family), timeout=60)
    run_id = run_id_of(running.lines())
    resumed = glowctl(tmp_path, "train", "--resume", run_id)
    assert resumed.returncode == 0, resumed.stderr
    restart = next(line for line in running.lines() if "training restarted" in line)
    assert "epoch 0" in restart
    assert re.search(r" \d+0 steps", restart)
    found = load_file(results(tmp_path, run_id) / "checkpoint" / "model.safetensors")
    expected = best_weights(settings)
    assert all(np.array_equal(found[name].numpy(), expected[name]) for name in expected)
    run = record_of(tmp_path, run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["restarts"] == 2


@pytest.mark.nightly
def test_ten_kills_inside_a_long_epoch_lose_no_more_than_the_steps_since_a_checkpoint(tmp_path):
    """A checkpoint counts when Ray Train's controller has seen it, which looks every 0.2 s: up to `UNSEEN` steps."""
    settings = {"epochs": 1, "batch_size": 2, "depth": 16, "width": 256}
    flags = ("--epochs", "1", "--batch-size", "2", "--depth", "16", "--width", "256", "--sample-every", "0")
    often = ("--checkpoint-every", f"{EVERY}steps", "--max-failures", "10", "--json")
    running = Running(tmp_path, *SMOKE, *flags, *often)
    random = np.random.default_rng(0)

    def told(kind: str) -> list[dict]:
        lines = [line for line in running.lines() if line.startswith("{")]
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def has_told(kind: str, count: int) -> bool:
        return len(told(kind)) >= count

    for kill in range(10):
        known = len(told("step"))
        wait_until(partial(has_told, "step", known + 2))  # training goes on after the last kill
        time.sleep(random.uniform(0, 3))
        (worker,) = running.train_workers()
        worker.kill()
        wait_until(partial(has_told, "restart", kill + 1))
    assert running.wait() == 0, running.lines()[-20:]
    events = [event for event in map(json.loads, running.lines()) if event["event"] in ("step", "restart")]
    lost = []
    for before, event in itertools.pairwise(events):
        if event["event"] == "restart":
            assert event["step"] % EVERY == 0
            lost.append(before["step"] - event["step"])
    print(f"\nsteps that were trained again after each kill, as far as they were shown: {lost}")
    assert len(lost) == 10
    assert max(lost) <= EVERY + UNSEEN
    [weights] = tmp_path.glob("outputs/*/results/checkpoint/model.safetensors")
    found, expected = load_file(weights), best_weights(settings)
    assert all(np.array_equal(found[name].numpy(), expected[name]) for name in expected)


@pytest.mark.slow
def test_what_the_machine_does_not_have_is_refused(tmp_path):
    done = glowctl(tmp_path, *SMOKE, "--workers", "99", "--batch-size", "128")
    assert "99 workers" in sentence_of(done)


@pytest.mark.slow
def test_a_diverged_run_fails_once_with_a_sentence(tmp_path):
    flags = ("--epochs", "40", "--learning-rate", "1e6", "--schedule", "constant", "--clip-norm", "0")
    done = glowctl(tmp_path, *SMOKE, *flags)
    assert sentence_of(done).startswith("glowctl: training diverged")
    assert "training restarted" not in done.stdout
    assert record_of(tmp_path, run_id_of(done.stdout.splitlines())).info.status == "FAILED"


@pytest.mark.nightly
@pytest.mark.parametrize("damage", ["cut", "garbled"])
def test_sigterm_ends_as_ctrl_c_does_and_a_damaged_checkpoint_is_named_when_the_run_is_resumed(tmp_path, damage):
    running = Running(tmp_path, *SMOKE, "--epochs", "500", "--sample-every", "0", "--checkpoint-every", "30")
    running.wait_for("epoch 35/500")  # not while a checkpoint is written
    family = running.family()
    os.kill(running.process.pid, signal.SIGTERM)
    assert running.wait(30) == 143
    wait_until(lambda: not alive(family), timeout=60)
    run_id = run_id_of(running.lines())
    assert record_of(tmp_path, run_id).info.status == "KILLED"
    for state in (tmp_path / "outputs" / run_id).glob("attempt-*/checkpoint_*/training_state.pt"):
        content = state.read_bytes()
        state.write_bytes(content[:200] if damage == "cut" else content[:200].ljust(len(content), b"x"))
    resumed = glowctl(tmp_path, "train", "--resume", run_id)
    expected = "the checkpoints" if damage == "cut" else "training_state.pt is damaged"
    assert expected in sentence_of(resumed)


def test_a_run_is_not_resumed_on_other_images(tmp_path):
    """The run is that of a training that was killed before its first checkpoint, so that nothing must be trained."""
    images = tmp_path / "images"
    images.mkdir()
    for index in range(40):
        Image.fromarray(np.full((8, 8), index * 6, np.uint8)).save(images / f"{index:02}.png")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    where = {"dataset": f"folder:{images}", "output": str(tmp_path), "tracking_uri": uri, "batch_size": 8}
    work = prepare(make_train_spec("smoke", where))
    record = Record.start(uri, "glow", "killed", work.tags(), work.params())
    work.record_datasets(record)
    record.finish("KILLED")
    assert prepare_resume("killed", {"tracking_uri": uri}).digests() == work.digests()
    for path in images.iterdir():
        Image.fromarray(np.full((8, 8), 7, np.uint8)).save(path)
    with pytest.raises(JobError) as error:
        prepare_resume("killed", {"tracking_uri": uri})
    assert error.value.code == "images-changed"
