"""Stores that do not exist yet, and processes that open one at the same moment, some of which are killed."""

import os
import shlex
import sqlite3
import time
from functools import partial

import pytest

from glowctl.tracking.runs import find_run, find_tagged, newest_run
from glowctl.tracking.store import FULL, check_existing, check_store, client_of, open_command, open_store, sentences
from glowctl.tracking.uris import NoSuchRun, TrackingError, without_password, without_secrets
from tests.jobs.command_line import Running, free_port, wait_until
from tests.jobs.stores import (
    OPENER,
    WRITER,
    begins,
    end_group,
    mlflow_server,
    wait_for_server,
    waiting,
    write_at_once,
    writes,
)

SERVERS = ("localhost:5000", "127.0.0.1:5000/", "[::1]:5000", "my-host.example.org:80/mlflow")
"""Addresses without a scheme, which are no folders."""

EXPERIMENTS = ("one", "one", "two", "three")


@pytest.mark.slow
def test_commands_at_once_share_a_store_that_was_not_there(tmp_path):
    write_at_once(tmp_path, f"sqlite:///{tmp_path}/mlflow.db", EXPERIMENTS)
    # MLflow 3.6 makes the folder mlruns wherever it opens a database
    assert {path.name for path in tmp_path.iterdir()} <= {"mlflow.db", "mlflow.db.lock", "mlruns"}


@pytest.mark.nightly
def test_commands_at_once_share_the_experiments_of_a_server(tmp_path):
    with mlflow_server(tmp_path) as (uri, _):
        write_at_once(tmp_path, uri, EXPERIMENTS)


def test_an_experiment_that_another_makes_just_now_is_taken(uri, monkeypatch):
    client = client_of(uri)
    made = client.create_experiment("study")
    first = iter([None])
    found = type(client).get_experiment_by_name
    monkeypatch.setattr(
        type(client), "get_experiment_by_name", lambda self, name: next(first, found(self, name))
    )  # at the first call it does not exist yet
    assert open_store(uri, "study")[1] == made


def test_a_lookup_makes_neither_a_store_nor_an_experiment(uri, tmp_path):
    client, experiment = open_store(uri, "study")
    run_id = client.create_run(experiment, run_name="first").info.run_id
    for store, name in ((uri, "mistyped"), (f"sqlite:///{tmp_path}/none.db", "study")):
        with pytest.raises(NoSuchRun) as unknown:
            find_run(store, name, "first")
        assert unknown.value.code == "run-not-found"
        assert repr(name) in unknown.value.problem
        with pytest.raises(TrackingError) as none:
            newest_run(store, name, "train")
        assert none.value.code == "no-finished-run"
        assert find_tagged(store, name, "glow.job") is None
    assert find_run(uri, "mistyped", run_id).info.run_name == "first"  # an id counts in every experiment
    assert client.get_experiment_by_name("mistyped") is None
    assert list(tmp_path.glob("none*")) == []


@pytest.mark.slow
def test_a_ui_and_a_command_share_a_store_that_was_not_there(tmp_path):
    uri, port = f"sqlite:///{tmp_path}/mlflow.db", free_port()
    with waiting(tmp_path, WRITER, uri, "one", "run 0") as writer:
        ui = Running(tmp_path, "ui", "--port", str(port), "--tracking-uri", uri)
        try:
            wait_until(lambda: any(tmp_path.glob("mlflow.db*")), every=0.02)  # it is being made
            writes(writer)
            wait_for_server(f"http://127.0.0.1:{port}")
            seen = client_of(f"http://127.0.0.1:{port}").get_experiment_by_name("one")
            assert seen is not None
            assert seen.artifact_location == (tmp_path / "mlartifacts").as_uri()
        finally:
            end_group(ui.process)


@pytest.mark.parametrize(
    "delay",
    [
        pytest.param(0.1, marks=pytest.mark.nightly),
        pytest.param(0.4, marks=pytest.mark.slow),
        pytest.param(0.7, marks=pytest.mark.nightly),
    ],
)
def test_who_is_killed_while_he_makes_a_store_leaves_nothing_broken(tmp_path, delay):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with waiting(tmp_path, OPENER, uri) as process:
        begins(process)
        time.sleep(delay)
        process.kill()
    client, experiment = open_store(uri, "study")
    assert client.create_run(experiment).info.status == "RUNNING"
    assert not (tmp_path / "mlflow.db.unfinished").exists()


def test_a_file_that_is_empty_becomes_a_store(tmp_path):
    (tmp_path / "mlflow.db").touch()
    assert open_store(f"sqlite:///{tmp_path}/mlflow.db", "study")[1] == "1"


def test_a_store_that_fails_is_one_sentence(uri, monkeypatch):
    def fails(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(type(client_of(uri)), "get_experiment_by_name", fails)
    with pytest.raises(TrackingError, match="no space left on device") as raised:
        open_store(uri, "study")
    assert raised.value.code == "store-failed"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:se/c#r?t@host/db", "postgresql://me:***@host/db"),
        ("postgresql+psycopg2://me:p@ss@host:5432/db", "postgresql+psycopg2://me:***@host:5432/db"),
        ("http://:token@host:5000", "http://:***@host:5000"),
        ("s3://KEY:SECRET@bucket/runs", "s3://KEY:***@bucket/runs"),
        ("s3://bucket/runs?access_key=KEY&secret_key=SECRET", "s3://bucket/runs?access_key=***&secret_key=***"),
        ("s3://bucket/runs?region=eu", "s3://bucket/runs?region=eu"),
        ("mysql://host/db?user=me&password=secret", "mysql://host/db?user=me&password=***"),
        ("http://host:5000/path", "http://host:5000/path"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
    ],
)
def test_what_is_shown_of_an_address(uri, shown):
    assert without_password(uri) == shown


def test_errors_that_quote_an_address_hide_its_password():
    uri = "postgresql://me:se%2Fcret@host/db"
    text = f"cannot connect to {uri}: 'se/cret' or 'se%2Fcret' is wrong"
    assert without_secrets(text, uri) == "cannot connect to postgresql://me:***@host/db: '***' or '***' is wrong"


def test_a_store_that_the_user_may_only_read_can_be_read(uri, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: mode == os.R_OK)
    check_existing(uri)
    for check in (check_store, partial(check_existing, writes=True)):
        with pytest.raises(TrackingError) as raised:
            check(uri)
        assert raised.value.code == "store-not-writable"
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(TrackingError) as raised:
        check_existing(uri)
    assert raised.value.code == "store-not-readable"


def test_a_store_that_another_program_keeps_locked_is_not_said_to_be_damaged(tmp_path, monkeypatch):
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE runs (name TEXT)")
        other.commit()
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0))
        with pytest.raises(TrackingError, match="locked") as raised:
            check_store(f"sqlite:///{path}")
    other.close()
    assert raised.value.code == "store-locked"


@pytest.mark.parametrize("name", ["what?x&y", "100%25"])
def test_a_path_that_an_address_reads_as_another_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    for check in (check_store, check_existing):
        with pytest.raises(TrackingError) as raised:
            check(f"sqlite:///{tmp_path}/{name}/mlflow.db")
        assert raised.value.code == "store-path"
        assert name in raised.value.problem


@pytest.mark.parametrize(
    ("uri", "code", "shown"),
    [
        ("sqlite:///{here}/none/mlflow.db", "store-folder-missing", "{here}/none"),
        ("sqlite:///{here}/text.db", "store-damaged", "{here}/text.db"),
        ("postgresql://me:secret@127.0.0.1:1/db", "store-unreachable", "me:***@127.0.0.1"),
        ("{here}", "store-address", "sqlite:///{here}/mlflow.db"),
        ("file://{here}", "store-address", "sqlite:///{here}/mlflow.db"),
        *[(folder, "store-address", "folder") for folder in ("runs", "/data/runs:5000/x", "file:///data/runs")],
        *[(server, "store-address", f"--tracking-uri http://{server}") for server in SERVERS],
        *[(none, "store-address", none) for none in ("garbage!!://x y z", "gopher://host")],
        ("http://[", "store-address", "http://HOST:PORT"),
        ("postgresql://me:secret@ho\u2100st/db", "store-address", "http://HOST:PORT"),
    ],
)
def test_a_store_that_cannot_be_is_one_sentence(tmp_path, uri, code, shown):
    (tmp_path / "text.db").write_text("not a database " * 60)
    with pytest.raises(TrackingError) as raised:
        check_store(uri.format(here=tmp_path))
    assert raised.value.code == code
    assert shown.format(here=tmp_path) in str(raised.value)
    assert "secret" not in str(raised.value)
    assert uri not in SERVERS or "folder" not in str(raised.value)


@pytest.mark.parametrize("uri", ["sqlite:////data/my runs/mlflow.db", "postgresql://me:secret@host/db?a=b&c=d"])
def test_the_command_that_opens_a_store_can_be_pasted_into_a_shell(uri):
    assert shlex.split(open_command(uri)) == ["glowctl", "ui", "--tracking-uri", without_password(uri)]


def test_a_full_disk_is_a_sentence(uri):
    with pytest.raises(TrackingError) as raised, sentences(uri):
        raise RuntimeError(f"(sqlite3.OperationalError) {FULL}")
    assert raised.value.code == "disk-full"
    assert uri in raised.value.problem
