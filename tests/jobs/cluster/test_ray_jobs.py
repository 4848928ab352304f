"""`glowctl --address` with a real Ray cluster on this machine: jobs, their output, their ends, and refused requests."""

import json
import time

import psutil
import pytest

from glowctl.tracking.liveness import GONE
from glowctl.tracking.runs import find_run
from tests.jobs.command_line import Running, check_quiet, glowctl, sentence_of, wait_until
from tests.jobs.local_cluster import local_cluster

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # the cluster takes a minute to start

SMOKE = ("train", "--preset", "smoke", "--sample-every", "0")
RESERVED_S = 180.0
"""Seconds for which Ray keeps what a training has reserved and not given back."""

LONG = (*SMOKE, "--epochs", "2000", "--checkpoint-every", "5")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with local_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="module")
def trained(cluster, tmp_path_factory):
    """The events of a training on the cluster that succeeded."""
    done = glowctl(tmp_path_factory.mktemp("client"), *SMOKE, "--json", **cluster.client)
    check_quiet(done)
    return [json.loads(line) for line in done.stdout.splitlines()]


def run_of(cluster, run_id):
    return find_run(cluster.uri, "glow", run_id)


def jobs_of(cluster, folder):
    done = glowctl(folder, "jobs", "--json", **cluster.client)
    assert done.returncode == 0, done.stderr
    return {job["job"]: job for job in map(json.loads, done.stdout.splitlines())}


def drivers_of(job):
    """Return the processes of a job, which Ray gives its name in the environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.cmdline()[1:] == ["-m", "glowctl.cluster.entry"]
                and job in process.environ()["RAY_JOB_CONFIG_JSON_ENV_VAR"]
            ):
                found.append(process)
        except (psutil.Error, KeyError):
            continue
    return found


def test_a_job_is_shown_and_recorded_as_if_it_ran_here(cluster, trained, tmp_path):
    kinds = [event["event"] for event in trained if event["event"] != "step"]
    assert kinds == ["submitted", "started", "epoch", "epoch", "finished"]
    job, result = trained[0]["job"], trained[-1]
    run = run_of(cluster, result["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["glow.ray_job"] == job
    assert run.data.tags["mlflow.user"]
    assert run.data.metrics["test/bits_per_dim"] == pytest.approx(result["test_bits_per_dim"])
    assert result["checkpoint"].startswith(str(cluster.storage / "outputs"))
    assert result["open_with"] == f"glowctl ui --tracking-uri {cluster.uri}"
    listed = jobs_of(cluster, tmp_path)
    assert (listed[job]["status"], listed[job]["what"]) == ("succeeded", "train digits")
    assert not any(name.startswith("check-") for name in listed)


def test_what_a_job_wrote_can_be_read_again(cluster, trained, tmp_path):
    job = trained[0]["job"]
    again = glowctl(tmp_path, "logs", "-f", job, "--json", **cluster.client)
    assert again.returncode == 0
    assert [json.loads(line) for line in again.stdout.splitlines()] == trained[1:]
    lines = glowctl(tmp_path, "logs", job, **cluster.client).stdout.splitlines()
    assert lines[0].startswith("training ")
    assert "train digits" in lines[0]
    assert any(line.startswith("epoch 2/2") for line in lines)


@pytest.mark.nightly
def test_a_job_outlives_its_client_and_leaves_its_machines_and_its_run_fails_with_its_driver(cluster, tmp_path):
    """One training loses its client and is stopped; the next one continues its run, and loses its driver.

    They are elastic: a machine that the first one had reserved and not given back, the second one would wait for. What
    the second one had reserved stays so after the test, because nobody gives it back: a later test must not need it.
    """
    client = Running(tmp_path, *LONG, "--workers", "1:2", "--cpus-per-worker", "1", **cluster.client)
    client.wait_for("epoch 2/2000", timeout=150)
    job = next(line for line in client.lines() if line.startswith("submitted")).split()[2]
    run_id = next(line for line in client.lines() if line.startswith("training ")).split()[-1]
    client.process.kill()
    client.wait()
    follower = Running(tmp_path, "logs", "-f", job, **cluster.client)
    follower.wait_for("epoch 12/2000")
    assert run_of(cluster, run_id).info.status == "RUNNING"
    assert cluster.training_workers()
    stopped_at = time.monotonic()
    stopped = glowctl(tmp_path, "stop", job, **cluster.client)
    assert (stopped.returncode, stopped.stdout) == (0, f"job {job} stopped\n")
    assert follower.wait(60) == 143
    assert run_of(cluster, run_id).info.status == "KILLED"
    wait_until(lambda: not cluster.training_workers(), timeout=30)
    resumed = glowctl(tmp_path, "train", "--resume", run_id, "--detach", **cluster.client)
    assert resumed.returncode == 0, resumed.stderr
    again = resumed.stdout.split()[2]
    follower = Running(tmp_path, "logs", "-f", again, **cluster.client)
    follower.wait_for("epoch ", timeout=RESERVED_S - 10 - (time.monotonic() - stopped_at))
    first = next(line for line in follower.lines() if line.startswith("epoch "))
    assert int(first.split()[1].split("/")[0]) > 10
    follower.interrupt()
    assert follower.wait(30) == 130
    assert any(line.startswith(f"glowctl: job {again} ") for line in follower.lines())
    waited = glowctl(tmp_path, "wait", job, **cluster.client)
    assert (waited.returncode, waited.stdout) == (143, f"job {job} stopped\n")
    assert glowctl(tmp_path, "stop", job, **cluster.client).stdout == f"job {job} stopped already\n"

    [driver] = drivers_of(again)
    driver.kill()
    waited = glowctl(tmp_path, "wait", again, **cluster.client)
    assert [fact for fact in (again, "-9", f"glowctl logs {again}") if fact not in sentence_of(waited)] == []
    wait_until(lambda: run_of(cluster, run_id).info.status == "FAILED")
    assert run_of(cluster, run_id).data.tags["glow.error"] == GONE


def test_a_jobs_own_error_is_the_commands_error(cluster, tmp_path):
    done = glowctl(tmp_path, *SMOKE, "--levels", "4", "--json", **cluster.client)  # the data must be loaded to see it
    said = sentence_of(done, 2)
    submitted, *others = [json.loads(line) for line in done.stdout.splitlines()]
    [error] = [event for event in others if event["event"] == "error"]
    assert said.startswith(f"glowctl: {error['problem']}")
    assert (error["code"], error["exit_code"]) == ("settings-unfit-for-data", 2)
    shown = glowctl(tmp_path, "logs", submitted["job"], "--json", **cluster.client)
    assert error in [json.loads(line) for line in shown.stdout.splitlines()]


@pytest.mark.parametrize(
    ("flags", "changes", "says"),
    [
        (("--output", "/proc/nothing"), {}, "/proc/nothing"),
        (("--tracking-uri", "http://127.0.0.1:9"), {}, "http://127.0.0.1:9"),
        ((), {"RAY_AUTH_TOKEN": "of-another-cluster"}, "$RAY_AUTH_TOKEN"),
        ((), {"RAY_ADDRESS": "http://127.0.0.1:9"}, "http://127.0.0.1:9"),
    ],
)
def test_what_is_wrong_with_a_cluster_is_said_before_there_is_a_job(cluster, tmp_path, flags, changes, says):
    known = jobs_of(cluster, tmp_path)
    done = glowctl(tmp_path, *SMOKE, *flags, **{**cluster.client, **changes})
    assert says in sentence_of(done)
    assert jobs_of(cluster, tmp_path).keys() == known.keys()


def test_an_unknown_job_is_one_sentence(cluster, tmp_path):
    for command in (("logs",), ("logs", "-f"), ("wait",), ("stop",)):
        done = glowctl(tmp_path, *command, "nothing-of-the-kind", **cluster.client)
        said = sentence_of(done)
        assert [fact for fact in (cluster.address, "'nothing-of-the-kind'", "glowctl jobs") if fact not in said] == []


def test_status_says_what_there_is_and_what_is_wrong(cluster, tmp_path):
    done = glowctl(tmp_path, "cluster", "status", **cluster.client)
    assert done.returncode == 0, done.stdout
    for thing in (cluster.address, "2 cores, 0 GPUs", cluster.uri, f"{cluster.storage}/outputs", "no problem found"):
        assert thing in done.stdout
    done = glowctl(tmp_path, "cluster", "status", "--json", "--output", "/proc/nothing", **cluster.client)
    assert done.returncode == 1
    assert "/proc/nothing" in json.loads(done.stdout)["problems"][0]
