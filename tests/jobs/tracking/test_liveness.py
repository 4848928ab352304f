"""Runs whose driver and watcher both died: the next process that opens the store finds them."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import cast

import psutil
import pytest
from mlflow import MlflowClient

from jobs.system.process_identity import this_process
from jobs.tracking import Record, open_store
from jobs.tracking import dead_runs as dead_runs_module
from jobs.tracking import liveness as liveness_module
from jobs.tracking.dead_runs import mark_dead
from jobs.tracking.liveness import ALIVE, DRIVER, GONE, SILENT, UNTOLD, beating
from jobs.tracking.store import client_of
from tests.jobs.command_line import glowctl, sentence_of, wait_until

DRIVING = """
import sys, time
from jobs.tracking import Record
uri = sys.argv[1]
parent = Record.start(uri, "study", "parent", {}, {})
if "trials" in sys.argv:
    for name in ("child", "done"):
        child = Record.start(uri, "study", name, {"mlflow.parentRunId": parent.run_id}, {})
        child.begin()
    child.finish("FINISHED")
with parent.running(system_metrics=False):
    print("running", flush=True)
    time.sleep(600)
"""

SILENCE_S = dead_runs_module.DEAD_AFTER_S + 60


@contextmanager
def driving(uri, *arguments):
    """Run a process that drives the run "parent". Yield the process and its watcher."""
    command = [sys.executable, "-c", DRIVING, uri, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n"
            family = psutil.Process(process.pid).children()
            yield process, next(child for child in family if "jobs.tracking.watch" in child.cmdline())
        finally:
            process.kill()


def killed(uri, *arguments):
    with driving(uri, *arguments) as (process, watcher):
        watcher.kill()
        process.kill()


def runs_of(uri):
    """Return the runs by name as the store has them, without looking for dead ones."""
    client = client_of(uri)
    return {run.info.run_name: run for run in client.search_runs(["0", "1"])}


def looked(uri):
    open_store(uri, "study")
    return runs_of(uri)


def made(uri, name="other", tags=None, age_s=0.0, **alive_tags):
    """Create a RUNNING run with these tags that began `age_s` seconds ago. Return its id."""
    client, experiment = open_store(uri, "study")
    began = int((time.time() - age_s) * 1000)
    return client.create_run(experiment, start_time=began, run_name=name, tags=tags or {}).info.run_id


def elsewhere(heard_s_ago, who="other-host/boot/pid 7 100"):
    return {DRIVER: who, ALIVE: str(int(time.time() - heard_s_ago))}


def test_a_driver_and_its_watcher_that_are_killed_leave_no_run_running(uri):
    killed(uri, "trials")
    assert runs_of(uri)["parent"].info.status == "RUNNING"
    runs = looked(uri)
    assert {name: run.info.status for name, run in runs.items()} == {
        "parent": "FAILED",
        "child": "FAILED",
        "done": "FINISHED",
    }
    assert runs["parent"].data.tags["glow.error"] == runs["child"].data.tags["glow.error"] == UNTOLD
    assert "glow.error" not in runs["done"].data.tags
    assert abs(runs["parent"].info.end_time / 1000 - int(runs["parent"].data.tags[ALIVE])) < 1


def test_a_cause_that_the_driver_recorded_is_kept_if_its_status_could_not_be_written(uri):
    """The disk of the store was full just after the driver wrote the cause."""
    place, pid, began = this_process().split(" ")
    made(uri, "run", {DRIVER: f"{place} {pid} {int(began) - 1}", "glow.error": "the output folder is full"})
    run = looked(uri)["run"]
    assert run.info.status == "FAILED"
    assert run.data.tags["glow.error"] == "the output folder is full"


@pytest.mark.slow
def test_any_command_finds_it(uri, tmp_path):
    with driving(uri) as (_, watcher):
        before = glowctl(tmp_path, "train", "--resume", "nobody", "--tracking-uri", uri, "--experiment", "study")
        assert "'nobody'" in sentence_of(before)
        assert runs_of(uri)["parent"].info.status == "RUNNING"
        watcher.kill()
    glowctl(tmp_path, "train", "--resume", "nobody", "--tracking-uri", uri, "--experiment", "study")
    assert runs_of(uri)["parent"].info.status == "FAILED"


@pytest.mark.slow
def test_the_watcher_alone_marks_it_at_once(uri):
    with driving(uri, "trials") as (process, _):
        process.kill()
    wait_until(lambda: runs_of(uri)["parent"].info.status == "FAILED")
    assert runs_of(uri)["child"].info.status == "FAILED"
    assert runs_of(uri)["parent"].data.tags["glow.error"] == GONE


@pytest.mark.slow
def test_a_run_that_another_goes_on_with_is_not_the_watchers(uri):
    """By the time that the store answers again, another process drives the run."""
    with driving(uri) as (process, watcher):
        watcher.suspend()
        process.kill()
        process.wait()
        client_of(uri).set_tag(runs_of(uri)["parent"].info.run_id, DRIVER, this_process())
        watcher.resume()
        wait_until(lambda: not psutil.pid_exists(watcher.pid))
    assert runs_of(uri)["parent"].info.status == "RUNNING"


@pytest.mark.slow
def test_a_driver_that_is_not_collected_yet_is_dead(uri):
    with driving(uri) as (process, watcher):
        watcher.kill()
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        assert looked(uri)["parent"].info.status == "FAILED"


def test_a_process_of_the_same_id_is_not_the_driver(uri):
    place, pid, began = this_process().split(" ")
    made(uri, "before", {DRIVER: f"{place} {pid} {int(began) - 1}"})
    made(uri, "this", {DRIVER: this_process()}, age_s=SILENCE_S)
    runs = looked(uri)
    assert runs["before"].info.status == "FAILED"
    assert runs["this"].info.status == "RUNNING"


def test_another_machine_is_believed_until_it_is_silent(uri):
    made(uri, "heard", elsewhere(20), SILENCE_S)
    made(uri, "silent", elsewhere(SILENCE_S), 2 * SILENCE_S)
    made(uri, "just begun", {DRIVER: "other-host/boot/pid 8 100"})
    runs = looked(uri)
    assert runs["heard"].info.status == runs["just begun"].info.status == "RUNNING"
    assert runs["silent"].info.status == "FAILED"
    assert runs["silent"].data.tags["glow.error"] == SILENT


def test_a_machine_of_this_name_before_a_reboot_is_another(uri):
    place, pid, began = this_process().split(" ")
    host, _, rest = place.split("/", 2)
    who = f"{host}/another-boot/{rest} {pid} {began}"
    made(uri, "heard", elsewhere(20, who))
    made(uri, "silent", elsewhere(SILENCE_S, who), 2 * SILENCE_S)
    runs = looked(uri)
    assert runs["heard"].info.status == "RUNNING"
    assert runs["silent"].info.status == "FAILED"


def test_trials_elsewhere_live_as_long_as_their_ablation(uri):
    for name, heard in (("heard", 20.0), ("silent", SILENCE_S)):
        tags = elsewhere(heard)
        parent = made(uri, f"ablation {name}", tags, 2 * SILENCE_S)
        beneath = {DRIVER: tags[DRIVER], "mlflow.parentRunId": parent}
        made(uri, f"trial {name}", beneath, 2 * SILENCE_S)
        # An evaluation is another process than its parent's driver, and so is one that resumed an ablation later.
        made(uri, f"stranger {name}", beneath | {DRIVER: "third-host/boot/pid 9 100"}, 2 * SILENCE_S)
    runs = looked(uri)
    assert {name: run.info.status for name, run in runs.items()} == {
        "ablation heard": "RUNNING",
        "trial heard": "RUNNING",
        "stranger heard": "FAILED",
        "ablation silent": "FAILED",
        "trial silent": "FAILED",
        "stranger silent": "FAILED",
    }


def test_a_trial_whose_ablation_was_marked_or_deleted_is_found_too(uri):
    tags = elsewhere(SILENCE_S)
    client = client_of(uri)
    parents = [made(uri, f"ablation {end}", tags, 2 * SILENCE_S) for end in ("marked", "deleted")]
    for parent in parents:
        made(uri, f"trial of {parent}", {DRIVER: tags[DRIVER], "mlflow.parentRunId": parent}, 2 * SILENCE_S)
    client.set_terminated(parents[0], "FAILED")
    client.delete_run(parents[1])
    runs = looked(uri)
    assert [runs[f"trial of {parent}"].info.status for parent in parents] == ["FAILED", "FAILED"]


def test_runs_of_others_are_not_touched(uri):
    made(uri, "foreign", {"mlflow.user": "somebody"}, 100 * SILENCE_S)
    assert looked(uri)["foreign"].info.status == "RUNNING"


def test_a_run_that_was_resumed_meanwhile_is_not_spoiled(uri):
    """The run changes between reading and marking."""
    run_id = made(uri, "run", elsewhere(SILENCE_S), 2 * SILENCE_S)
    client = client_of(uri)
    seen = client.get_run(run_id)
    Record.existing(uri, seen).begin()
    dead_runs_module._mark(client, seen, SILENT, time.time())
    assert client.get_run(run_id).info.status == "RUNNING"
    assert "glow.error" not in client.get_run(run_id).data.tags


def test_a_run_that_is_resumed_while_it_is_marked_runs(uri):
    """The run is resumed between the last reading and the writing of the mark."""
    run_id = made(uri, "run", elsewhere(SILENCE_S), 2 * SILENCE_S)
    client = client_of(uri)
    seen = client.get_run(run_id)

    class Slow(MlflowClient):
        def set_tag(self, *arguments, **more):
            Record.existing(uri, seen).begin()
            super().set_tag(*arguments, **more)

    dead_runs_module._mark(Slow(uri), seen, SILENT, time.time())
    run = client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert "glow.error" not in run.data.tags


@pytest.mark.parametrize("status", ["FINISHED", "KILLED"])
def test_a_run_that_was_taken_for_dead_tells_its_true_end(uri, status):
    record = Record.start(uri, "study", "run", {}, {})
    record.tag(DRIVER, elsewhere(0)[DRIVER])
    record.tag(ALIVE, "0")
    client_of(uri).update_run(record.run_id)
    run = client_of(uri).get_run(record.run_id)
    dead_runs_module._mark(client_of(uri), run, SILENT, 0.0)
    assert runs_of(uri)["run"].info.status == "FAILED"
    record.finish(status)
    run = runs_of(uri)["run"]
    assert run.info.status == status
    assert "glow.error" not in run.data.tags


def test_an_error_of_its_own_stays(uri):
    record = Record.start(uri, "study", "run", {}, {})
    record.tag("glow.error", "the loss is NaN")
    record.finish("FAILED")
    assert runs_of(uri)["run"].data.tags["glow.error"] == "the loss is NaN"


LEAVING = """
import sys
from jobs.tracking import Record, TrackingError
def away(self, status):
    raise TrackingError("away")
record = Record.start(sys.argv[1], "study", "parent", {}, {})
Record.finish = away
with record.running(system_metrics=False):
    print("running", flush=True)
    sys.stdin.readline()
    raise KeyboardInterrupt
"""


@pytest.mark.parametrize("reason", [UNTOLD, *(pytest.param(old, marks=pytest.mark.nightly) for old in (GONE, SILENT))])
@pytest.mark.slow
def test_a_drivers_last_word_is_written_though_another_has_marked_the_run(uri, reason):
    command = [sys.executable, "-c", LEAVING, uri]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        (watcher,) = psutil.Process(process.pid).children()
        watcher.suspend()
        process.communicate("\n")
    dead_runs_module._mark(client_of(uri), runs_of(uri)["parent"], reason, time.time())
    assert runs_of(uri)["parent"].info.status == "FAILED"
    watcher.resume()
    wait_until(lambda: runs_of(uri)["parent"].info.status == "KILLED")
    assert "glow.error" not in runs_of(uri)["parent"].data.tags


def test_a_run_tells_that_it_lives_though_the_store_fails(uri, monkeypatch):
    monkeypatch.setattr(liveness_module, "BEAT_S", 0.05)
    calls = []

    class Failing:
        def set_tag(self, *arguments):
            calls.append(arguments)
            if len(calls) < 3:
                raise ConnectionError("no answer")

    with beating(cast(MlflowClient, Failing()), "some-run"):
        wait_until(lambda: len(calls) > 3, every=0.01)
    after = len(calls)
    time.sleep(0.2)
    assert len(calls) == after
    assert calls[0][:2] == ("some-run", ALIVE)
    assert abs(int(calls[0][2]) - time.time()) < 5


def test_a_beat_that_hangs_holds_nothing_up(monkeypatch):
    monkeypatch.setattr(liveness_module, "BEAT_S", 0.01)
    begun, hangs, written = threading.Event(), threading.Event(), []

    class Hanging:
        def set_tag(self, *arguments):
            begun.set()
            hangs.wait(200)
            written.append(arguments)

    with beating(cast(MlflowClient, Hanging()), "some-run"):
        assert begun.wait(60)
    assert not written  # the heartbeat still hangs
    hangs.set()


def marked(uri, record, reason=SILENT):
    """Set the run FAILED as `mark_dead` does, but without checking whether it has changed."""
    client = client_of(uri)
    client.set_tag(record.run_id, "glow.error", reason)
    client.set_terminated(record.run_id, "FAILED")


def is_revived(uri, name):
    run = runs_of(uri)[name]
    return run.info.status == "RUNNING" and "glow.error" not in run.data.tags


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(liveness_module, "BEAT_S", 0.1)


@pytest.mark.parametrize("reason", [GONE, UNTOLD, SILENT])
def test_a_run_that_lives_is_running_again_whenever_it_is_marked(uri, quick, reason):
    """The heartbeats are regular; the clock of the machine that marked the run is ahead."""
    record = Record.start(uri, "study", "run", {}, {})
    with record.running(system_metrics=False):
        for _ in range(2):
            marked(uri, record, reason)
            wait_until(lambda: is_revived(uri, "run"))
    assert runs_of(uri)["run"].info.status == "FINISHED"


@pytest.mark.parametrize("with_parent", [False, True])
def test_trials_that_live_are_running_again(uri, quick, with_parent):
    parent = Record.start(uri, "study", "parent", {}, {})
    beneath = {"mlflow.parentRunId": parent.run_id}
    trials = {name: Record.start(uri, "study", name, beneath, {}) for name in ("trial", "another's", "diverged")}
    client = client_of(uri)
    with parent.running(system_metrics=False):
        client.set_tag(trials["another's"].run_id, DRIVER, elsewhere(0)[DRIVER])
        marked(uri, trials["another's"])
        marked(uri, trials["diverged"], "the loss is NaN")
        marked(uri, trials["trial"])
        if with_parent:
            marked(uri, parent)
            wait_until(lambda: is_revived(uri, "parent"))
        wait_until(lambda: is_revived(uri, "trial"))
        time.sleep(0.5)
    runs = runs_of(uri)
    assert {name: runs[name].info.status for name in runs} == {
        "parent": "FINISHED",
        "trial": "RUNNING",
        "another's": "FAILED",
        "diverged": "FAILED",
    }
    assert runs["another's"].data.tags["glow.error"] == SILENT
    assert runs["diverged"].data.tags["glow.error"] == "the loss is NaN"


def test_a_trial_that_has_ended_since_it_was_seen_is_not_set_running(uri):
    record = Record.start(uri, "study", "trial", {}, {})
    marked(uri, record)
    seen = runs_of(uri)["trial"]
    record.finish("FINISHED")
    liveness_module._revive(client_of(uri), seen)
    assert runs_of(uri)["trial"].info.status == "FINISHED"


def test_a_trial_that_ends_while_it_is_set_running_has_ended(uri):
    record = Record.start(uri, "study", "trial", {}, {})
    marked(uri, record)
    finishing = threading.Thread(target=record.finish, args=("FINISHED",))

    class Slow(MlflowClient):
        def update_run(self, *arguments, **more):
            finishing.start()
            finishing.join(1.0)
            super().update_run(*arguments, **more)

    liveness_module._revive(Slow(uri), runs_of(uri)["trial"])
    finishing.join(10)
    run = runs_of(uri)["trial"]
    assert run.info.status == "FINISHED"
    assert "glow.error" not in run.data.tags


def test_the_tags_hold_no_more_than_they_must(uri):
    record = Record.start(uri, "study", "run", {}, {})
    record.begin()
    tags = runs_of(uri)["run"].data.tags
    assert tags[DRIVER].split()[1] == str(os.getpid())
    assert len(tags[DRIVER]) < 150
    assert tags[ALIVE].isdecimal()


def test_a_store_that_cannot_be_marked_can_be_read(uri):
    class ReadOnly(MlflowClient):
        def search_runs(self, *arguments, **more):
            raise PermissionError("not yours")

    mark_dead(ReadOnly(uri), "1")
