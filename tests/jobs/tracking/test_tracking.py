"""Stores, runs and the writing of runs: what a Record does while a store fails or its process is killed."""

import math
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import cast

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from glowctl.tracking import record as record_module
from glowctl.tracking.record import Record
from glowctl.tracking.runs import experiment_runs, find_run, json_table, read_artifact, read_table
from glowctl.tracking.store import check_store, open_store, server_command
from glowctl.tracking.uris import NoSuchRun, TrackingError, tracking_uri
from tests.jobs.command_line import wait_until


def test_the_default_is_sqlite_here_and_the_environment_goes_before_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://example:5000")
    assert tracking_uri() == "http://example:5000"
    assert tracking_uri("sqlite:///x.db") == f"sqlite:///{tmp_path}/x.db"


@pytest.mark.timing
def test_a_server_that_does_not_answer_is_said_within_seconds():
    with socket.socket() as silent:  # accepts a connection and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(TrackingError) as raised:
            check_store(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert raised.value.code == "store-unreachable"
        assert time.monotonic() - started < 5
    with pytest.raises(TrackingError) as raised:
        check_store("http://127.0.0.1:1")
    assert raised.value.code == "store-unreachable"


def test_a_server_that_refuses_the_host_name_is_named():
    class Forbidden(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(403)

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Forbidden) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(TrackingError, match="403") as raised:
            check_store(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert raised.value.code == "store-refuses"
    assert "--allowed-hosts" in raised.value.remedy


def test_a_run_is_written_found_and_resumed(uri):
    record = Record.start(uri, "study", "first", {"glow.job": "train"}, {"depth": 8})
    record.metrics({"loss": 1.0}, 1)
    record.metrics({"loss": 0.5}, 2)
    record.image(np.zeros((8, 8, 3), np.uint8), "samples", 1)
    record.dataset((4, 1, 8, 8), "digits train", "abc", "training", "digits")
    record.describe("what it is")
    record.finish("KILLED")
    assert record.metric_steps("loss") == {1: 1.0, 2: 0.5}

    run = find_run(uri, "study", "first")
    assert run.info.run_id == record.run_id == find_run(uri, "study", record.run_id).info.run_id
    assert run.info.status == "KILLED"
    assert run.data.params == {"depth": "8"}
    assert run.data.tags["mlflow.note.content"] == "what it is"
    assert run.inputs is not None
    assert run.inputs.dataset_inputs[0].dataset.name == "digits train"

    again = Record.existing(uri, run)
    again.begin()
    assert find_run(uri, "study", "first").info.status == "RUNNING"
    again.finish("FINISHED")
    assert find_run(uri, "study", "first").info.status == "FINISHED"
    with pytest.raises(NoSuchRun, match="'second'") as raised:
        find_run(uri, "study", "second")
    assert raised.value.code == "run-not-found"


@pytest.mark.parametrize("name", ["it's", """it's "it\"""", "it's 100 % \\"])
def test_a_run_whose_name_has_an_apostrophe_is_found(uri, name):
    wanted = Record.start(uri, "study", name, {}, {})
    for other in (name.replace("'", ""), name.replace("'", "-")):
        Record.start(uri, "study", other, {}, {})
    assert find_run(uri, "study", name).info.run_id == wanted.run_id
    with pytest.raises(NoSuchRun):
        find_run(uri, "study", f"{name}'")


def test_metrics_that_are_infinite_are_read_as_infinite(uri):
    record = Record.start(uri, "study", "first", {}, {})
    values = {"high": math.inf, "low": -math.inf, "large": 1e300}
    record.metrics(values, 1)
    assert record.metric_steps("low") == {1: -math.inf}
    found = find_run(uri, "study", "first"), find_run(uri, "study", record.run_id), *experiment_runs(uri, "study")
    assert [run.data.metrics for run in found] == [values] * 3


def refused(*_, **__):
    raise RuntimeError("Unable to locate credentials")


def test_an_artifact_that_cannot_be_reached_is_not_said_to_be_gone(uri, tmp_path, monkeypatch):
    record = Record.start(uri, "study", "first", {}, {})
    (tmp_path / "spec.json").write_text("{}")
    record.file(tmp_path / "spec.json", "settings")
    assert read_artifact(uri, record.run_id, "settings/spec.json") == b"{}"
    for run_id, path in ((record.run_id, "settings/none"), (record.run_id, "settings"), ("0" * 32, "spec.json")):
        assert read_artifact(uri, run_id, path) is None
    monkeypatch.setattr(MlflowClient, "download_artifacts", refused)
    assert read_artifact(uri, record.run_id, "settings/none") is None
    for read in (read_artifact, read_table):
        with pytest.raises(TrackingError, match="credentials"):
            read(uri, record.run_id, "settings/spec.json")
    monkeypatch.setattr(MlflowClient, "list_artifacts", refused)
    with pytest.raises(TrackingError, match="credentials"):
        read_artifact(uri, record.run_id, "settings/none")
    assert json_table(uri, record.run_id, "settings/spec.json") is None  # so that `show` shows the rest


def test_artifacts_lie_beside_the_database(uri, tmp_path):
    record = Record.start(uri, "study", "first", {}, {})
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "table.csv").write_text("a\n1\n")
    record.folder(tmp_path / "results")
    assert (tmp_path / "mlartifacts" / record.run_id / "artifacts" / "table.csv").read_text() == "a\n1\n"


def test_a_deleted_experiment_is_named(uri):
    client, experiment = open_store(uri, "study")
    client.delete_experiment(experiment)
    with pytest.raises(TrackingError, match="'study'") as raised:
        open_store(uri, "study")
    assert raised.value.code == "experiment-deleted"
    assert experiment in raised.value.remedy


class Failing:
    """A client whose first `times` calls fail; `made` counts all calls."""

    def __init__(self, times: int) -> None:
        self.left, self.made = times, 0

    def set_tag(self, *_: str) -> None:
        self.made += 1
        if self.left:
            self.left -= 1
            raise ConnectionError("no answer")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(record_module, "RETRY_S", 0.01)


def failing_record(uri, times, patience_s=180.0):
    client = Failing(times)
    made = Record.start(uri, "study", "first", {}, {})
    return Record(uri, cast(MlflowClient, client), find_run(uri, "study", made.run_id), patience_s), client


def test_a_store_that_is_away_is_waited_for(uri, monkeypatch, quick):
    monkeypatch.setattr(record_module, "_answers", lambda uri: False)
    record, client = failing_record(uri, 5)
    record.tag("a", "b")
    assert client.made == 6


def test_a_store_that_stays_away_is_given_up(uri, monkeypatch, quick):
    monkeypatch.setattr(record_module, "_answers", lambda uri: False)
    record, client = failing_record(uri, 10**6, patience_s=0.1)
    with pytest.raises(TrackingError, match="no answer"):
        record.tag("a", "b")
    assert client.made > 1
    client.made = 0
    with pytest.raises(TrackingError, match="no answer"):
        record.impatient().tag("a", "b")
    assert client.made == 1


def test_what_a_store_refuses_is_not_asked_for_long(uri, quick):
    record, client = failing_record(uri, 10**6)
    with pytest.raises(TrackingError, match="no answer"):
        record.tag("a", "b")
    assert client.made == 2


def test_an_impatient_write_asks_once_what_the_run_has(uri, monkeypatch, quick):
    """The thread of system metrics would otherwise hold up a command that Ctrl-C ends."""
    Record.start(uri, "study", "first", {}, {})
    record = Record.existing(uri, find_run(uri, "study", "first"))
    asked = []

    def away(*of):
        asked.append(of)
        raise TrackingError("away")

    monkeypatch.setattr(record_module, "_answers", lambda uri: False)
    monkeypatch.setattr(record_module, "metric_history", away)
    monkeypatch.setattr(record, "_patience_s", 0.2)
    with pytest.raises(TrackingError, match="away"):
        record.impatient().metrics({"loss": 1.0}, 1)
    assert len(asked) == 1
    with pytest.raises(TrackingError, match="away"):
        record.metrics({"loss": 1.0}, 1)
    assert len(asked) > 2


@pytest.mark.parametrize(
    ("error", "status", "cause"),
    [(ValueError("the loss diverged"), "FAILED", "the loss diverged"), (KeyboardInterrupt(), "KILLED", None)],
)
def test_a_run_has_the_end_of_its_block(uri, error, status, cause):
    record = Record.start(uri, "study", "first", {}, {})
    with pytest.raises(type(error)), record.running(system_metrics=False):
        raise error
    run = find_run(uri, "study", "first")
    assert (run.info.status, run.data.tags.get("glow.error")) == (status, cause)


@pytest.mark.parametrize("error", [ValueError("the loss diverged"), KeyboardInterrupt()])
def test_the_error_of_a_block_is_raised_though_the_store_is_away_at_the_end(uri, monkeypatch, error):
    """The run stays RUNNING, until the next command finds that its driver has ended."""
    monkeypatch.setattr(record_module, "END_PATIENCE_S", 0.1)
    monkeypatch.setattr(record_module, "RETRY_S", 0.01)
    record = Record.start(uri, "study", "first", {}, {})

    def end_without_store(patch):
        with record.running(system_metrics=False):
            patch.setattr(MlflowClient, "set_terminated", refused)
            raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)) as raised:
        end_without_store(patch)
    assert raised.value is error
    assert find_run(uri, "study", "first").info.status == "RUNNING"  # this process, its driver, lives


def test_machines_bear_their_names_on_a_cluster_alone(uri, monkeypatch):
    record = Record.start(uri, "study", "first", {}, {})
    record.machine("node-1", {"cpu_utilization_percentage": 50.0})
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    record.machine("node-1", {"cpu_utilization_percentage": 60.0})
    assert list(record.metric_steps("system/cpu_utilization_percentage").values()) == [50.0]
    assert list(record.metric_steps("system/node-1/cpu_utilization_percentage").values()) == [60.0]


def test_system_metrics_are_recorded(uri):
    record = Record.start(uri, "study", "first", {}, {})
    with record.system_metrics(interval_s=0.2):
        time.sleep(1.5)
    assert record.metric_steps("system/cpu_utilization_percentage")


def test_system_metrics_go_on_after_a_store_that_did_not_answer_and_nothing_is_printed(uri, monkeypatch, caplog):
    record = Record.start(uri, "study", "first", {}, {})
    write, writes = MlflowClient.log_batch, []

    def log_batch(self, *arguments, **named):
        writes.append(named)
        if len(writes) == 1:
            raise MlflowException("database or disk is full [SQL: INSERT INTO metrics]")
        return write(self, *arguments, **named)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    with record.system_metrics(interval_s=0.2):
        wait_until(lambda: len(writes) > 2)
    assert record.metric_steps("system/cpu_utilization_percentage")
    assert not [said for said in caplog.records if said.name.startswith("mlflow")]


def test_the_ui_is_served_from_the_store(uri, tmp_path):
    command, environment = server_command(uri, 5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "5001"
    assert environment["MLFLOW_BACKEND_STORE_URI"] == uri
    assert environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"] == (tmp_path / "mlartifacts").as_uri()
    assert uri not in " ".join(command)
