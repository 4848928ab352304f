"""`glowctl ui`: which server it starts, what it prints, and that no process outlives it."""

import os
import shutil
import signal
import sys
import webbrowser

import pytest
import requests

from glowctl.browse import ui
from glowctl.errors import JobError
from glowctl.tracking.record import Record
from glowctl.tracking.uris import TrackingError
from tests.jobs.command_line import Running, alive, free_port, glowctl, wait_until


@pytest.fixture(scope="module")
def own(tmp_path_factory, empty_store):
    """`glowctl ui` on a store with one run: the command and its port."""
    folder, port = tmp_path_factory.mktemp("ui"), free_port()
    shutil.copy(empty_store, folder / "mlflow.db")
    Record.start(f"sqlite:///{folder}/mlflow.db", "glow", "a run", {"glow.job": "train"}, {}).finish("FINISHED")
    command = Running(folder, "ui", "--port", str(port))
    command.wait_for("the MLflow UI is at")
    yield command, port
    os.killpg(command.process.pid, signal.SIGKILL)
    command.wait()


@pytest.mark.slow
def test_the_address_answers_as_soon_as_it_is_printed_and_shows_the_runs(own):
    command, port = own
    line = command.line_with("the MLflow UI is at")
    assert f"http://127.0.0.1:{port}/#/experiments/1/runs?workflowType=machine_learning;" in line
    assert "Ctrl-C" in line
    assert requests.get(f"http://127.0.0.1:{port}/health", timeout=10).ok


@pytest.mark.slow
def test_the_address_of_a_server_is_printed_if_it_is_the_store(own, tmp_path):
    _, port = own
    done = glowctl(tmp_path, "ui", "--tracking-uri", f"http://me:secret@127.0.0.1:{port}/")
    assert done.returncode == 0, done.stderr
    assert f" http://127.0.0.1:{port}/#/experiments/1/runs" in done.stdout
    assert "secret" not in done.stdout


@pytest.mark.parametrize(
    ("how", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.nightly),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
@pytest.mark.slow
def test_nothing_stays_behind_and_a_store_that_is_not_there_yet_is_made(tmp_path, how, code):
    command = Running(tmp_path, "ui", "--port", str(free_port()))
    command.wait_for("the MLflow UI is at")
    assert (tmp_path / "mlflow.db").exists()
    family = command.family()
    assert any("uvicorn" in " ".join(process.cmdline()) for process in family)
    os.kill(command.process.pid, how)
    assert command.wait(30) == code
    wait_until(lambda: not alive(family), timeout=60)
    assert "Traceback" not in command.output.read_text()


def test_a_server_that_is_away_is_one_sentence():
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(TrackingError, match=address):
        ui.serve(address, 5000)


def test_a_server_that_cannot_start_is_quoted(uri, monkeypatch):
    fails = [sys.executable, "-c", "raise SystemExit('no such thing')"]
    monkeypatch.setattr(ui, "server_command", lambda *_: (fails, {}))
    with pytest.raises(JobError, match="no such thing") as failed:
        ui.serve(uri, free_port())
    assert failed.value.code == "server-not-started"


@pytest.mark.parametrize(
    ("browser", "terminal", "display", "opened"),
    [(True, True, True, ["http://a"]), (False, True, True, []), (True, False, True, []), (True, True, False, [])],
)
def test_a_browser_opens_where_there_is_one(monkeypatch, browser, terminal, display, opened):
    pages: list[str] = []
    monkeypatch.setattr(webbrowser, "open", pages.append)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    if display:
        monkeypatch.setenv("DISPLAY", ":0")
    ui._show("http://a", browser)
    assert pages == opened
