"""Runs whose driver was killed: its helper, or the next command that opens the store, sets them to FAILED."""

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import cast

import psutil
import pytest
from mlflow import MlflowClient

from glowctl.ray_runtime import embedded
from glowctl.system.process_identity import this_process
from glowctl.tracking import liveness as liveness_module
from glowctl.tracking.liveness import DEAD_AFTER_S, GONE, SILENT, beating
from glowctl.tracking.record import Record
from glowctl.tracking.store import client_of, open_store
from glowctl.tracking.tag_names import ALIVE, DRIVER
from tests.jobs.command_line import wait_until

DRIVING = """
import sys, time
from glowctl.tracking.record import Record
uri = sys.argv[1]
parent = Record.start(uri, "study", "parent", {}, {})
for name in ("child", "done"):
    child = Record.start(uri, "study", name, {"mlflow.parentRunId": parent.run_id}, {})
    child.begin()
child.finish("FINISHED")
with parent.running(system_metrics=False):
    print("running", flush=True)
    time.sleep(600)
"""

SILENCE_S = DEAD_AFTER_S + 60


@contextmanager
def driving(uri):
    """Run a process that drives the runs "parent" and "child", and kill it."""
    with subprocess.Popen([sys.executable, "-c", DRIVING, uri], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n"
            yield process
        finally:
            process.kill()


def runs_of(uri):
    """Return the runs by name as the store has them, without looking for dead ones."""
    return {run.info.run_name: run for run in client_of(uri).search_runs(["0", "1"])}


def statuses_of(uri):
    return {name: run.info.status for name, run in runs_of(uri).items()}


def looked(uri):
    open_store(uri, "study")
    return runs_of(uri)


def made(uri, name="other", tags=None, age_s=0.0):
    """Create a RUNNING run with these tags that began `age_s` seconds ago. Return its id."""
    client, experiment = open_store(uri, "study")
    began = int((time.time() - age_s) * 1000)
    return client.create_run(experiment, start_time=began, run_name=name, tags=tags or {}).info.run_id


def elsewhere(heard_s_ago, who="other-host/boot/pid 7 100"):
    return {DRIVER: who, ALIVE: str(int(time.time() - heard_s_ago))}


@pytest.mark.slow
def test_the_next_command_marks_the_runs_of_a_driver_that_was_killed(uri):
    with driving(uri):
        assert {name: run.info.status for name, run in looked(uri).items()} == {
            "parent": "RUNNING",
            "child": "RUNNING",
            "done": "FINISHED",
        }
    runs = looked(uri)
    assert statuses_of(uri) == {"parent": "FAILED", "child": "FAILED", "done": "FINISHED"}
    assert runs["parent"].data.tags["glow.error"] == runs["child"].data.tags["glow.error"] == GONE
    assert "glow.error" not in runs["done"].data.tags
    assert abs(runs["parent"].info.end_time / 1000 - int(runs["parent"].data.tags[ALIVE])) < 1


HELPED = '''
import subprocess, sys, time
from glowctl.system.helper_processes import start
from glowctl.tracking.record import Record
helper = """
import sys
from glowctl.ray_runtime import embedded
embedded._start_ray = lambda *_: ""
embedded.main(sys.argv[1], 0, False, 1, 0)
"""
record = Record.start(sys.argv[1], "study", "parent", {}, {})
import glowctl.system.helper_processes as helpers
popen = subprocess.Popen
helpers.subprocess.Popen = lambda command, **named: popen([sys.executable, "-c", helper, *command[4:]], **named)
started = start("glowctl.ray_runtime.embedded", sys.argv[2], stdout=subprocess.PIPE, listens=True)
started.stdout.readline()
with record.running(system_metrics=False):
    print("running", flush=True)
    sys.stdin.readline()
print("ended", flush=True)
sys.stdin.readline()
'''


@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.slow
def test_the_helper_of_a_driver_that_was_killed_marks_its_runs(uri, tmp_path, killed):
    (tmp_path / "ray").mkdir()
    command = [sys.executable, "-c", HELPED, uri, str(tmp_path / "ray")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        (helper,) = psutil.Process(process.pid).children()
        if not killed:  # the run ends, so that the helper has nothing to write
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "ended\n"
        process.kill()
    wait_until(lambda: not psutil.pid_exists(helper.pid), timeout=30)
    assert statuses_of(uri)["parent"] == ("FAILED" if killed else "FINISHED")
    assert not (tmp_path / "ray").exists()


def test_a_helper_whose_store_is_gone_goes_on(tmp_path):
    embedded._mark_runs(f"sqlite:///{tmp_path}/none/mlflow.db", "1")


def test_the_helpers_get_the_store_of_a_run_while_it_runs(uri, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr("glowctl.tracking.record.tell_helpers", told.append)
    with Record.start(uri, "study", "run", {}, {}).running(system_metrics=False):
        assert [json.loads(line) for line in told] == [[uri, "1"]]
    assert told[1:] == [""]


def test_a_cause_that_the_driver_recorded_is_kept_if_its_status_could_not_be_written(uri):
    """The disk of the store was full just after the driver wrote the cause."""
    place, pid, began = this_process().split(" ")
    made(uri, "run", {DRIVER: f"{place} {pid} {int(began) - 1}", "glow.error": "the output folder is full"})
    run = looked(uri)["run"]
    assert run.info.status == "FAILED"
    assert run.data.tags["glow.error"] == "the output folder is full"


def test_a_process_of_the_same_id_is_not_the_driver(uri):
    place, pid, began = this_process().split(" ")
    made(uri, "before", {DRIVER: f"{place} {pid} {int(began) - 1}"})
    made(uri, "this", {DRIVER: this_process()}, age_s=SILENCE_S)
    runs = looked(uri)
    assert runs["before"].info.status == "FAILED"
    assert runs["this"].info.status == "RUNNING"


def test_another_machine_is_believed_until_it_is_silent(uri):
    place, pid, began = this_process().split(" ")
    host, _, rest = place.split("/", 2)
    rebooted = f"{host}/another-boot/{rest} {pid} {began}"  # a machine of this name before a reboot is another
    for who, where in (("other-host/boot/pid 7 100", "elsewhere"), (rebooted, "before")):
        made(uri, f"heard {where}", elsewhere(20, f"{who}1"), SILENCE_S)
        made(uri, f"silent {where}", elsewhere(SILENCE_S, f"{who}2"), 2 * SILENCE_S)
    made(uri, "just begun", {DRIVER: "other-host/boot/pid 8 100"})
    made(uri, "foreign", {"mlflow.user": "somebody"}, 100 * SILENCE_S)
    runs = looked(uri)
    assert statuses_of(uri) == {
        "heard elsewhere": "RUNNING",
        "silent elsewhere": "FAILED",
        "heard before": "RUNNING",
        "silent before": "FAILED",
        "just begun": "RUNNING",
        "foreign": "RUNNING",
    }
    assert runs["silent elsewhere"].data.tags["glow.error"] == SILENT


def test_trials_elsewhere_live_as_long_as_their_ablation(uri):
    for name, heard in (("heard", 20.0), ("silent", SILENCE_S)):
        tags = elsewhere(heard, f"other-host/boot/pid 7 {name}")
        parent = made(uri, f"ablation {name}", tags, 2 * SILENCE_S)
        beneath = {DRIVER: tags[DRIVER], "mlflow.parentRunId": parent}
        made(uri, f"trial {name}", beneath, 2 * SILENCE_S)
        # An evaluation is another process than its parent's driver, and so is one that resumed an ablation later.
        made(uri, f"stranger {name}", beneath | {DRIVER: "third-host/boot/pid 9 100"}, 2 * SILENCE_S)
    looked(uri)
    assert statuses_of(uri) == {
        "ablation heard": "RUNNING",
        "trial heard": "RUNNING",
        "stranger heard": "FAILED",
        "ablation silent": "FAILED",
        "trial silent": "FAILED",
        "stranger silent": "FAILED",
    }


@pytest.mark.parametrize("status", ["FINISHED", "KILLED"])
def test_a_run_that_was_taken_for_dead_gets_its_true_end(uri, status):
    record = Record.start(uri, "study", "run", elsewhere(SILENCE_S), {})
    client = client_of(uri)
    client.set_tag(record.run_id, "glow.error", SILENT)
    client.set_terminated(record.run_id, "FAILED")
    record.finish(status)
    run = runs_of(uri)["run"]
    assert run.info.status == status
    assert "glow.error" not in run.data.tags


def test_an_error_of_its_own_stays(uri):
    record = Record.start(uri, "study", "run", {}, {})
    record.tag("glow.error", "the loss is NaN")
    record.finish("FAILED")
    assert runs_of(uri)["run"].data.tags["glow.error"] == "the loss is NaN"


def test_a_heartbeat_goes_on_though_the_store_fails(monkeypatch):
    monkeypatch.setattr(liveness_module, "BEAT_S", 0.05)
    calls = []

    class Failing:
        def set_tag(self, *arguments):
            calls.append(arguments)
            if len(calls) < 3:
                raise ConnectionError("no answer")

    with beating(cast(MlflowClient, Failing()), "some-run", lambda: None):
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

    with beating(cast(MlflowClient, Hanging()), "some-run", lambda: None):
        assert begun.wait(60)
    assert not written  # the heartbeat still hangs
    hangs.set()
