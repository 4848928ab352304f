"""A command that is struck at a random moment, and what the record is once it has been resumed: as if nothing had
happened. The moments follow from a seed. `make test-all` has a few of them, `make test-nightly` all."""

import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from mlflow.entities import Run
from safetensors.torch import load_file

from tests.jobs.command_line import Running, alive, glowctl, wait_until
from tests.jobs.record_facts import all_runs, doubled, facts_of, runs_of_job, trials_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

SMALL = ("--preset", "smoke", "--per-class", "16", "--checkpoint-every", "2", "--sample-every", "3")
TRAIN = ("train", *SMALL, "--epochs", "9", "--test-every", "2", "--cpus-per-worker", "1")
ABLATE = ("ablate", *SMALL, "--epochs", "5", "--permutations", "1x1,reverse", "--seeds", "1")
WORKERS = {1: (), 2: ("--workers-per-trial", "2", "--cpus-per-trial", "0.5")}


def seeds(short: int, long: int) -> list:
    """The first few are slow, all others nightly."""
    return [pytest.param(seed, marks=pytest.mark.slow if seed < short else pytest.mark.nightly) for seed in range(long)]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The folder for temporary files, in which nothing may stay. Its path is short, for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="blow", dir="/tmp") as folder:
        yield Path(folder)


class Whole:
    """A command that nothing struck: how long it took, and what is recorded."""

    def __init__(self, folder: Path, *command: str) -> None:
        started = time.monotonic()
        done = glowctl(folder, *command)
        self.seconds = time.monotonic() - started
        assert done.returncode == 0, done.stderr
        self.folder = folder
        (self.run,) = runs_of_job(folder, command[0])
        self.facts = facts_of(folder, self.run)


@pytest.fixture(scope="module")
def whole_training(tmp_path_factory):
    return Whole(tmp_path_factory.mktemp("whole"), *TRAIN)


@pytest.fixture(scope="module")
def whole_ablations(tmp_path_factory):
    return {workers: Whole(tmp_path_factory.mktemp("whole"), *ABLATE, *flags) for workers, flags in WORKERS.items()}


def strike(folder: Path, command: tuple[str, ...], after_s: float, blow: int, group: bool, **changes: str) -> int:
    """Starts a command, strikes it, and waits until nothing of it is left; its exit code."""
    running = Running(folder, *command, **changes)
    deadline = time.monotonic() + after_s
    family: dict[int, psutil.Process] = {}
    while time.monotonic() < deadline and running.process.poll() is None:
        if psutil.pid_exists(running.process.pid):
            family |= {process.pid: process for process in running.family()}
        time.sleep(0.05)
    if running.process.poll() is None:
        (os.killpg if group else os.kill)(running.process.pid, blow)
    code = running.wait(120)
    wait_until(lambda: not alive(list(family.values())), timeout=60)
    if blow != signal.SIGKILL:
        assert "Traceback" not in running.output.read_text()
    return code


def brought_to_its_end(folder: Path, command: tuple[str, ...], **changes: str) -> Run:
    """Resumes what was struck, or begins again where nothing was recorded yet; its run."""
    runs = runs_of_job(folder, command[0])
    assert len(runs) <= 1
    if not runs or runs[0].info.status != "FINISHED":
        again = (command[0], "--resume", runs[0].info.run_id) if runs else command
        done = glowctl(folder, *again, **changes)  # type: ignore[arg-type]
        assert done.returncode == 0, done.stdout + done.stderr
    (run,) = runs_of_job(folder, command[0])
    return run


def check_nothing_stays(temporary: Path) -> None:
    assert [path.name for path in temporary.iterdir()] == []


def weights_of(folder: Path, run: Run) -> dict[str, np.ndarray]:
    (file,) = (folder / "outputs" / run.info.run_id / "results").glob("checkpoint/*.safetensors")
    return {name: tensor.numpy() for name, tensor in load_file(file).items()}


def check_training(whole: Whole, folder: Path, run: Run) -> None:
    assert facts_of(folder, run) == whole.facts
    assert doubled(folder, run) == {}
    expected, found = weights_of(whole.folder, whole.run), weights_of(folder, run)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("seed", seeds(2, 40))
def test_a_training_that_was_killed(whole_training, tmp_path, temporary, seed):
    moment = random.Random(seed).uniform(0, whole_training.seconds)
    strike(tmp_path, TRAIN, moment, signal.SIGKILL, group=False, TMPDIR=str(temporary))
    run = brought_to_its_end(tmp_path, TRAIN, TMPDIR=str(temporary))
    check_training(whole_training, tmp_path, run)
    check_nothing_stays(temporary)


@pytest.mark.parametrize("seed", seeds(2, 40))
def test_a_training_that_was_stopped(whole_training, tmp_path, temporary, seed):
    draw = random.Random(1000 + seed)
    blow, group = draw.choice([signal.SIGINT, signal.SIGTERM]), draw.random() < 0.5
    moment = draw.uniform(1.0, whole_training.seconds)  # Python itself is struck before
    code = strike(tmp_path, TRAIN, moment, blow, group, TMPDIR=str(temporary))
    check_nothing_stays(temporary)
    if code != 0:
        assert code == 128 + blow
        assert all(run.info.status == "KILLED" for run in all_runs(tmp_path))
    run = brought_to_its_end(tmp_path, TRAIN, TMPDIR=str(temporary))
    check_training(whole_training, tmp_path, run)
    check_nothing_stays(temporary)


@pytest.mark.parametrize("seed", seeds(3, 40))
def test_an_ablation_that_was_killed(whole_ablations, tmp_path, temporary, seed):
    workers = 1 + seed % 2
    whole, command = whole_ablations[workers], (*ABLATE, *WORKERS[workers])
    moment = random.Random(2000 + seed).uniform(0, whole.seconds)
    strike(tmp_path, command, moment, signal.SIGKILL, group=False, TMPDIR=str(temporary))
    run = brought_to_its_end(tmp_path, command, TMPDIR=str(temporary))
    expected, found = trials_of(whole.folder, whole.run), trials_of(tmp_path, run)
    assert found.keys() == expected.keys()
    for label in expected:
        assert facts_of(tmp_path, found[label]) == facts_of(whole.folder, expected[label]), label
        assert doubled(tmp_path, found[label]) == {}, label
    assert facts_of(tmp_path, run) == whole.facts
    check_nothing_stays(temporary)
