"""A PostgreSQL database as the store, with a password that contains characters that a URI must escape."""

import time

import pytest

from glowctl.tracking.databases import artifact_location, check_artifact_location
from glowctl.tracking.record import Record
from glowctl.tracking.runs import find_run
from glowctl.tracking.store import check_store, open_store, server_command
from glowctl.tracking.uris import TrackingError
from tests.jobs.command_line import Running, free_port
from tests.jobs.postgres import ESCAPED, PASSWORD, postgres_server
from tests.jobs.stores import (
    OPENER,
    WRITER,
    begins,
    check_runs,
    end_group,
    wait_for_server,
    waiting,
    write_at_once,
    writes,
)

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with postgres_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def test_a_run_is_written_and_found_with_its_files(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GLOW_STORAGE", raising=False)
    uri = server.uri()
    record = Record.start(uri, "study", "first", {"glow.job": "train"}, {"depth": 8})
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "table.csv").write_text("a\n1\n")
    with record.running(system_metrics=False):
        record.metrics({"loss": 0.5}, 2)
        record.file(tmp_path / "results" / "table.csv", "tables")
    run = find_run(uri, "study", "first")
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"loss": 0.5}
    place = tmp_path / "mlartifacts" / record.run_id / "artifacts" / "tables" / "table.csv"
    assert place.read_text() == "a\n1\n"
    assert ESCAPED not in str(run.to_dictionary())


@pytest.mark.slow
def test_commands_at_once_share_a_database_that_was_empty(server, tmp_path):
    write_at_once(tmp_path, server.uri(), ("one", "one", "two", "three"))


@pytest.mark.slow
def test_a_ui_and_a_command_share_a_database_that_was_empty(server, tmp_path):
    uri, port = server.uri(), free_port()
    with waiting(tmp_path, WRITER, uri, "one", "run 0") as writer:
        ui = Running(tmp_path, "ui", "--port", str(port), "--tracking-uri", uri)
        try:
            time.sleep(2)  # about when the server creates the tables
            writes(writer)
            wait_for_server(f"http://127.0.0.1:{port}")
            check_runs(f"http://127.0.0.1:{port}", ["one"])
        finally:
            end_group(ui.process)
    assert PASSWORD not in ui.output.read_text()
    assert ESCAPED not in ui.output.read_text()


@pytest.mark.parametrize(
    "delay",
    [
        pytest.param(0.1, marks=pytest.mark.nightly),
        pytest.param(0.5, marks=pytest.mark.slow),
        pytest.param(1.0, marks=pytest.mark.nightly),
    ],
)
def test_who_is_killed_while_he_makes_the_tables_leaves_nothing_broken(server, tmp_path, delay):
    uri = server.uri()
    with waiting(tmp_path, OPENER, uri) as process:
        begins(process)
        time.sleep(delay)
        process.kill()
    client, experiment = open_store(uri, "study")
    assert client.create_run(experiment).info.status == "RUNNING"


def test_what_is_wrong_is_said_without_the_password_and_without_retries(server):
    uri = server.uri("wrong-Password")
    for broken, code, fact in (
        (uri, "store-login", "password authentication failed"),
        (server.uri().rpartition("/")[0] + "/nosuch", "store-login", '"nosuch"'),
        (server.uri(PASSWORD), "store-address", "%2F"),
    ):
        started = time.monotonic()
        with pytest.raises(TrackingError, match=fact) as raised:
            check_store(broken)
        assert raised.value.code == code
        assert time.monotonic() - started < 60  # MLflow's own retries take minutes
        for secret in (PASSWORD, ESCAPED, "wrong-Password"):
            assert secret not in str(raised.value)


def test_the_ui_hides_the_password_from_the_list_of_processes(server):
    command, environment = server_command(server.uri(), 5001)
    assert ESCAPED not in " ".join(command)
    assert ESCAPED in environment["MLFLOW_BACKEND_STORE_URI"]


URI = "postgresql://me:secret@127.0.0.1/db"


def test_where_files_go_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("GLOW_STORAGE", "MLFLOW_DEFAULT_ARTIFACT_ROOT", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    assert artifact_location(URI) == (tmp_path / "mlartifacts").as_uri()
    assert artifact_location("http://127.0.0.1:5000") is None
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(TrackingError) as raised:
        artifact_location(URI)
    assert raised.value.code == "artifact-place-missing"
    assert "GLOW_STORAGE" in raised.value.remedy
    assert "MLFLOW_DEFAULT_ARTIFACT_ROOT" in raised.value.remedy
    monkeypatch.setenv("GLOW_STORAGE", "s3://bucket/glow/")
    assert artifact_location(URI) == "s3://bucket/glow/mlartifacts"
    monkeypatch.setenv("GLOW_STORAGE", "/shared")
    assert artifact_location(URI) == "file:///shared/mlartifacts"
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "gs://other")
    assert artifact_location(URI) == "gs://other"
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "s3://KEY:SECRET@bucket")
    with pytest.raises(TrackingError, match=r"s3://KEY:\*\*\*@bucket") as raised:
        artifact_location(URI)
    assert raised.value.code == "password-in-address"


def test_files_in_a_folder_of_another_machine_are_refused_in_a_job(tmp_path, monkeypatch):
    for name in ("GLOW_STORAGE", "MLFLOW_DEFAULT_ARTIFACT_ROOT", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    theirs, shared = (tmp_path / "theirs").as_uri(), (tmp_path / "shared" / "mlartifacts").as_uri()
    check_artifact_location(URI, "glow", theirs)  # outside of a Ray job nothing is checked
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("GLOW_STORAGE", str(tmp_path / "shared"))
    check_artifact_location(URI, "glow", shared)
    with pytest.raises(TrackingError, match="'glow'") as raised:
        check_artifact_location(URI, "glow", theirs)
    assert raised.value.code == "artifacts-elsewhere"
    assert str(tmp_path / "theirs") in raised.value.problem
    (tmp_path / "theirs").mkdir()
    check_artifact_location(URI, "glow", theirs)


def test_a_package_that_is_missing_is_named(server):
    address = server.uri().removeprefix("postgresql")
    for kind, package in (("postgresql+pg8000", "pg8000"), ("mysql", "mysqlclient"), ("mysql+pymysql", "pymysql")):
        with pytest.raises(TrackingError, match=f"pip install {package}") as raised:
            check_store(kind + address)
        assert raised.value.code == "package-missing"
