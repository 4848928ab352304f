"""A command that is struck at a random moment, and what the record is once it has been resumed: as if nothing had
happened. The moments follow from a seed. `make test-nightly` has all of them. `make test-all`, which `.ci/run` runs,
has one test for most kinds of blow:

| kind of blow | its test in `make test-all` |
| --- | --- |
| a training is killed | `test_killed_glowctl_leaves_nothing_and_resumes_bit_for_bit` in `test_train.py` |
| a training receives a signal | seed 22 of `test_a_training_that_was_stopped`: Ctrl-C in the middle |
| an ablation is killed | `test_a_killed_ablation_continues_each_trial_from_its_checkpoint` in `test_ablate.py` |
| a worker is killed | `test_a_training_that_was_killed_inside_an_epoch_...` in `test_train.py` |
| another command is killed | seed 0 of `test_a_command_on_the_record_that_was_killed` |
| a disk becomes full | the cases of a full disk in `monitoring/test_faults.py`, as root |
"""

import json
import os
import random
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import pytest
from mlflow.entities import Run
from safetensors.torch import load_file

from glow.checkpoint import WEIGHTS_FILE
from glowctl.tracking.liveness import GONE
from glowctl.tracking.registry import registered_versions
from tests.jobs.command_line import Running, alive, free_port, glowctl, wait_until
from tests.jobs.disks import fill, small_disk
from tests.jobs.record_facts import (
    all_runs,
    check_epochs,
    damage_files_of_ray,
    doubled,
    facts_of,
    runs_of_job,
    trials_of,
    uri_of,
)
from tests.jobs.stores import mlflow_server

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

TOLD = ("--on-end", "sh -c 'cat >> told && echo >> told'")
SMALL = ("--preset", "smoke", "--per-class", "16", "--checkpoint-every", "2", "--sample-every", "3", *TOLD)
TRAIN = ("train", *SMALL, "--epochs", "9", "--test-every", "2", "--cpus-per-worker", "1")
ABLATE = ("ablate", *SMALL, "--epochs", "5", "--permutations", "1x1,reverse", "--seeds", "1")
WORKERS = {1: (), 2: ("--workers-per-trial", "2", "--cpus-per-trial", "0.5")}


ATTEMPTS = 4
"""How often a command is begun until it is struck before its end. The moment is halved each time."""


def seeds(count: int, *short: int) -> list:
    """So many seeds, of which the named ones are slow and all others nightly."""
    marks = dict.fromkeys(short, pytest.mark.slow)
    return [pytest.param(seed, marks=marks.get(seed, pytest.mark.nightly)) for seed in range(count)]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The folder for temporary files, in which nothing may stay. Its path is short, for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as folder:
        yield Path(folder)


class Whole:
    """A command that nothing struck: how long it took, how long its workers lived, and what is recorded."""

    def __init__(self, folder: Path, *command: str) -> None:
        started = time.monotonic()
        running = Running(folder, *command)
        with_workers = []
        while running.process.poll() is None:
            if workers_of(running):
                with_workers.append(time.monotonic())
            time.sleep(0.2)
        self.seconds = time.monotonic() - started
        self.worker_seconds = with_workers[-1] - with_workers[0] if with_workers else 0.0
        assert running.wait() == 0, running.lines()
        self.folder = folder
        (self.run,) = runs_of_job(uri_of(folder), command[0])
        self.facts = facts_of(uri_of(folder), self.run)


@pytest.fixture(scope="module")
def whole_training(tmp_path_factory):
    return Whole(tmp_path_factory.mktemp("whole"), *TRAIN)


@pytest.fixture(scope="module")
def whole_ablation(tmp_path_factory):
    """Gives the ablation whose trials have so many workers."""

    @cache
    def of(workers: int) -> Whole:
        return Whole(tmp_path_factory.mktemp("whole"), *ABLATE, *WORKERS[workers])

    return of


def strike(folder: Path, command: tuple[str, ...], after_s: float, blow: int, group: bool, **changes: str) -> Running:
    """Starts a command, strikes it, and waits until nothing of it is left; the command."""
    running = Running(folder, *command, **changes)
    deadline = time.monotonic() + after_s
    family: dict[int, psutil.Process] = {}
    while time.monotonic() < deadline and running.process.poll() is None:
        if psutil.pid_exists(running.process.pid):
            family |= {process.pid: process for process in running.family()}
        time.sleep(0.05)
    if running.process.poll() is None:
        (os.killpg if group else os.kill)(running.process.pid, blow)
    running.wait(120)
    wait_until(lambda: not alive(list(family.values())), timeout=60)
    if blow != signal.SIGKILL:
        assert "Traceback" not in running.output.read_text()
    return running


def brought_to_its_end(folder: Path, command: tuple[str, ...], **changes: str) -> Run:
    """Resumes what was struck, or begins again where nothing was recorded yet; its run."""
    runs = runs_of_job(uri_of(folder), command[0])
    assert len(runs) <= 1
    if not runs or runs[0].info.status != "FINISHED":
        again = (command[0], "--resume", runs[0].info.run_id) if runs else command
        done = glowctl(folder, *again, **changes)  # type: ignore[arg-type]
        assert done.returncode == 0, done.stdout + done.stderr
    (run,) = runs_of_job(uri_of(folder), command[0])
    return run


def check_told(folder: Path) -> None:
    """Checks that each end of the command and of its resumption was told once, and a kill with its cause."""
    told = [json.loads(line) for line in (folder / "told").read_text().splitlines()]
    *killed, finished = told
    assert finished["state"] == "finished"
    assert [(end["state"], end["cause"]) for end in killed] in ([], [("failed", GONE)])


def check_logged(folder: Path, run: Run) -> None:
    """Checks that the log of a run has every epoch that the command had shown when it was struck."""
    log = (folder / "outputs" / run.info.run_id / "log.txt").read_text()
    shown = [
        line for output in folder.glob("output-*.txt") for line in output.read_text().splitlines() if "epoch " in line
    ]
    assert [line for line in shown if line not in log] == []


def check_nothing_stays(temporary: Path) -> None:
    assert [path.name for path in temporary.iterdir()] == []


def weights_of(folder: Path, run: Run) -> dict[str, np.ndarray]:
    file = folder / "outputs" / run.info.run_id / "results" / "checkpoint" / WEIGHTS_FILE
    return {name: tensor.numpy() for name, tensor in load_file(file).items()}


def check_training(whole: Whole, folder: Path, run: Run) -> None:
    assert facts_of(uri_of(folder), run) == whole.facts
    check_epochs(uri_of(folder), run)
    expected, found = weights_of(whole.folder, whole.run), weights_of(folder, run)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("seed", seeds(40))
def test_a_training_that_was_killed(whole_training, tmp_path, temporary, seed):
    moment = random.Random(seed).uniform(0, whole_training.seconds)
    strike(tmp_path, TRAIN, moment, signal.SIGKILL, group=False, TMPDIR=str(temporary))
    run = brought_to_its_end(tmp_path, TRAIN, TMPDIR=str(temporary))
    check_training(whole_training, tmp_path, run)
    check_told(tmp_path)
    check_logged(tmp_path, run)
    check_nothing_stays(temporary)


@pytest.mark.parametrize("seed", seeds(40, 22))
def test_a_training_that_was_stopped(whole_training, tmp_path, temporary, seed):
    draw = random.Random(1000 + seed)
    blow, group = draw.choice([signal.SIGINT, signal.SIGTERM]), draw.random() < 0.5
    moment = draw.uniform(1.0, whole_training.seconds)  # Python itself is struck before
    struck = strike(tmp_path, TRAIN, moment, blow, group, TMPDIR=str(temporary))
    check_nothing_stays(temporary)
    if struck.wait() != 0:
        assert struck.wait() == 128 + blow
        assert "glowctl: stopped" in struck.lines()
        runs = all_runs(uri_of(tmp_path))
        assert all(run.info.status == "KILLED" for run in runs)
        if any("epoch 1/" in line for line in struck.lines()):
            assert struck.line_with(f"glowctl train --resume {runs[0].info.run_id}")
    run = brought_to_its_end(tmp_path, TRAIN, TMPDIR=str(temporary))
    check_training(whole_training, tmp_path, run)
    check_nothing_stays(temporary)


@pytest.mark.parametrize("seed", seeds(40))
def test_an_ablation_that_was_killed(whole_ablation, tmp_path, temporary, seed):
    workers = 1 + seed % 2
    whole, command = whole_ablation(workers), (*ABLATE, *WORKERS[workers])
    moment = random.Random(2000 + seed).uniform(0, whole.seconds)
    strike(tmp_path, command, moment, signal.SIGKILL, group=False, TMPDIR=str(temporary))
    run = brought_to_its_end(tmp_path, command, TMPDIR=str(temporary))
    expected, found = trials_of(uri_of(whole.folder), whole.run), trials_of(uri_of(tmp_path), run)
    assert found.keys() == expected.keys()
    for label in expected:
        assert facts_of(uri_of(tmp_path), found[label]) == facts_of(uri_of(whole.folder), expected[label]), label
        check_epochs(uri_of(tmp_path), found[label])
    assert facts_of(uri_of(tmp_path), run) == whole.facts
    check_told(tmp_path)
    check_logged(tmp_path, run)
    check_nothing_stays(temporary)


@pytest.fixture(scope="module")
def stopped_training(tmp_path_factory):
    """The folder of a training that was killed in the middle, and its run."""
    folder = tmp_path_factory.mktemp("stopped")
    running = Running(folder, *TRAIN)
    running.wait_for("epoch 5/")
    family = running.family()
    running.process.kill()
    running.wait()
    wait_until(lambda: not alive(family), timeout=60)
    (run,) = runs_of_job(uri_of(folder), "train")
    return folder, run


@pytest.mark.nightly
@pytest.mark.parametrize("how", ["emptied", "cut", "removed"])
def test_a_training_is_resumed_exactly_without_the_state_of_ray(whole_training, stopped_training, tmp_path, how):
    """After all of Ray Train's state files were emptied, cut in half or removed; the checkpoints are whole."""
    folder, run = stopped_training
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage_files_of_ray(copy / "outputs" / run.info.run_id, how)
    done = glowctl(copy, "train", "--resume", str(copy / "outputs" / run.info.run_id))
    assert done.returncode == 0, done.stdout + done.stderr
    (again,) = runs_of_job(uri_of(copy), "train")
    assert "epoch 1/" not in done.stdout
    check_training(whole_training, copy, again)


def workers_of(running: Running) -> list[psutil.Process]:
    return running.train_workers() if running.process.poll() is None else []


def kill_workers(running: Running, after_s: float) -> int:
    """Kills the workers of a training some time after they began; how many these were."""
    wait_until(lambda: bool(workers_of(running)) or running.process.poll() is not None, every=0.05)
    time.sleep(after_s)
    killed = 0
    for worker in workers_of(running):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            worker.kill()
            killed += 1
    return killed


@pytest.mark.parametrize("seed", seeds(20))
def test_a_worker_that_was_killed(whole_training, tmp_path, temporary, seed):
    """At any moment, also while the test set is scored or the model is registered."""
    moment = random.Random(3000 + seed).uniform(0, whole_training.worker_seconds)
    for attempt in range(ATTEMPTS):
        folder = tmp_path / f"attempt-{attempt}"
        folder.mkdir()
        running = Running(folder, *TRAIN, TMPDIR=str(temporary))
        killed = kill_workers(running, moment)
        assert running.wait() == 0, running.lines()
        (run,) = runs_of_job(uri_of(folder), "train")
        assert run.data.metrics["restarts"] == sum("(restart " in line for line in running.lines())
        check_training(whole_training, folder, run)
        check_nothing_stays(temporary)
        if killed:
            return
        moment /= 2  # this time the training was faster
    pytest.fail("no worker was killed")


EVALUATIONS = {
    "nll": ("nll",),
    "ood": ("ood", "--batch-sizes", "2,5"),
    "report": ("report",),
    "promote": ("promote", "glow-digits/1", "production"),
}


@pytest.fixture(scope="module")
def seconds_of(whole_training, tmp_path_factory):
    """Gives the time that such a command takes if nothing strikes it."""

    @cache
    def of(kind: str) -> float:
        folder = tmp_path_factory.mktemp("undisturbed") / "copy"
        shutil.copytree(whole_training.folder, folder)
        started = time.monotonic()
        done = glowctl(folder, *EVALUATIONS[kind])
        assert done.returncode == 0, done.stderr
        return time.monotonic() - started

    return of


@pytest.mark.parametrize("seed", seeds(40, 0))
def test_a_command_on_the_record_that_was_killed(whole_training, seconds_of, tmp_path, temporary, seed):
    """The same command again ends well and complete, whatever the killed one has left."""
    draw = random.Random(4000 + seed)
    kind = draw.choice(list(EVALUATIONS))
    moment = draw.uniform(0, seconds_of(kind))
    for attempt in range(ATTEMPTS):
        folder = tmp_path / f"attempt-{attempt}"
        shutil.copytree(whole_training.folder, folder)
        struck = strike(folder, EVALUATIONS[kind], moment, signal.SIGKILL, group=False, TMPDIR=str(temporary))
        if struck.wait() != 0:
            break
        moment /= 2  # this time the command was faster
    assert struck.wait() == -signal.SIGKILL
    done = glowctl(folder, *EVALUATIONS[kind], TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    if kind == "promote":
        (version,) = registered_versions(uri_of(folder))
        assert "production" in version.aliases
    else:
        ended = [run for run in runs_of_job(uri_of(folder), kind) if run.info.status == "FINISHED"]
        assert ended
        assert all(run.info.status in ("FINISHED", "FAILED") for run in runs_of_job(uri_of(folder), kind))
    check_nothing_stays(temporary)


@pytest.mark.parametrize("seed", seeds(20))
def test_a_training_whose_mlflow_server_is_struck(whole_training, tmp_path, temporary, seed):
    """It is stopped for a while, or killed and replaced by another."""
    draw = random.Random(6000 + seed)
    served = tmp_path / "served"
    served.mkdir()
    port = free_port()
    with ExitStack() as ending:
        server = ending.enter_context(mlflow_server(served, port))
        command = (*TRAIN, "--tracking-uri", server.uri)
        running = Running(tmp_path, *command, TMPDIR=str(temporary))
        running.wait_for("epoch 1/")
        time.sleep(draw.uniform(0, 0.3 * whole_training.seconds))
        away_s = draw.uniform(1, 15)
        if draw.random() < 0.5:
            os.killpg(server.process.pid, signal.SIGSTOP)
            time.sleep(away_s)
            os.killpg(server.process.pid, signal.SIGCONT)
        else:
            os.killpg(server.process.pid, signal.SIGKILL)
            time.sleep(away_s)
            ending.enter_context(mlflow_server(served, port))
        assert running.wait() == 0, running.lines()
        (run,) = runs_of_job(server.uri, "train")
        assert facts_of(server.uri, run) == whole_training.facts
        check_epochs(server.uri, run)
    check_nothing_stays(temporary)


@pytest.mark.root
@pytest.mark.parametrize("seed", seeds(20))
def test_a_disk_that_became_full(whole_training, tmp_path, temporary, seed):
    """That of the output, of the store, or of both; one sentence and the true cause, and resuming succeeds."""
    draw = random.Random(5000 + seed)
    full = draw.choice(["both", "output", "store"]) if seed else "both"
    with small_disk(tmp_path, 16) as disk:
        store = tmp_path if full == "output" else disk
        output = tmp_path / "outputs" if full == "store" else disk / "outputs"
        where = ("--tracking-uri", uri_of(store), "--output", str(output))
        command = (*TRAIN, "--epochs", "60", *where)
        running = Running(tmp_path, *command, TMPDIR=str(temporary))
        running.wait_for("epoch 1/")
        time.sleep(draw.uniform(0, 5))
        ballast = fill(disk)
        code = running.wait()
        text = running.output.read_text()
        assert "Traceback" not in text
        listed = glowctl(tmp_path, "runs", "--tracking-uri", uri_of(store))
        assert "Traceback" not in listed.stdout + listed.stderr
        ballast.unlink()
        glowctl(tmp_path, "runs", "--tracking-uri", uri_of(store))  # writes what a full store did not take
        (run,) = runs_of_job(uri_of(store), "train")
        if code != 0:
            sentences = [line for line in text.splitlines() if line.startswith("glowctl: ")]
            assert len(sentences) == 1, text
            assert names_full_disk(sentences[0]), text
            assert "training restarted" not in text  # a restart would meet the full disk again
            assert names_full_disk(run.data.tags.get("glow.error", ""))
            emptied = [
                path for path in output.rglob("checkpoint_*/") if any(f.stat().st_size == 0 for f in path.iterdir())
            ]
            assert emptied == []
            done = glowctl(tmp_path, "train", "--resume", run.info.run_id, "--tracking-uri", uri_of(store))
            assert done.returncode == 0, done.stderr
        (run,) = runs_of_job(uri_of(store), "train")
        assert run.info.status == "FINISHED"
        assert doubled(uri_of(store), run) == {}


def names_full_disk(text: str) -> bool:
    """Whether it says that a disk is full, apart from the advice that every checkpoint that cannot be written gets."""
    return re.search(r"No space left|is full", text.replace("if the disk is full", "")) is not None
