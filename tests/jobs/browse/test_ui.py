"""`glowctl ui`: which server it finds or starts, what it prints, and that no process outlives it."""

import os
import shutil
import signal
import socket
import sys
import threading
import webbrowser
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import requests

from jobs.browse import ui
from jobs.errors import JobError
from jobs.tracking import Record, TrackingError
from jobs.tracking.served import answers, is_mlflow, landing_page, serves
from tests.jobs.command_line import Running, alive, glowctl, sentence_of, wait_until


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def own(tmp_path_factory, empty_store):
    """`glowctl ui` on a store with one run: the command, its port and the store's URI."""
    folder, port = tmp_path_factory.mktemp("ui"), free_port()
    shutil.copy(empty_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    Record.start(uri, "glow", "a run", {"glow.job": "train"}, {}).finish("FINISHED")
    command = Running(folder, "ui", "--port", str(port))
    command.wait_for("the MLflow UI is at")
    yield command, port, uri
    os.killpg(command.process.pid, signal.SIGKILL)
    command.wait()


def test_the_address_answers_as_soon_as_it_is_printed_and_shows_the_runs(own):
    command, port, uri = own
    line = command.line_with("the MLflow UI is at")
    assert f"http://127.0.0.1:{port}/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=" in line
    assert "Ctrl-C" in line
    assert requests.get(f"http://127.0.0.1:{port}/health", timeout=10).ok
    assert serves(f"http://127.0.0.1:{port}", uri)


def test_a_second_command_on_the_same_store_finds_the_first(own, tmp_path):
    _, port, uri = own
    done = glowctl(tmp_path, "ui", "--port", str(port), "--tracking-uri", uri)
    assert done.returncode == 0, done.stderr
    assert f" http://127.0.0.1:{port}/#/experiments/1/runs" in done.stdout
    assert "Ctrl-C" not in done.stdout


def test_a_copy_of_the_store_is_another_store(own, tmp_path):
    _, port, uri = own
    shutil.copy(uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    done = glowctl(tmp_path, "ui", "--port", str(port))
    sentence = sentence_of(done)
    assert f"port {port} " in sentence
    assert "another store" in sentence
    assert f"--port {port + 1}" in sentence


@pytest.mark.slow
def test_the_address_of_a_server_is_printed_if_it_is_the_store(own, tmp_path):
    _, port, _ = own
    done = glowctl(tmp_path, "ui", "--tracking-uri", f"http://127.0.0.1:{port}/")
    assert done.returncode == 0, done.stderr
    assert f" http://127.0.0.1:{port}/#/experiments/1/runs" in done.stdout


@pytest.mark.parametrize(
    ("how", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.nightly),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
@pytest.mark.slow
def test_nothing_stays_behind(uri, tmp_path, how, code):
    port = free_port()
    command = Running(tmp_path, "ui", "--port", str(port))
    command.wait_for("the MLflow UI is at")
    family = command.family()
    assert any("uvicorn" in " ".join(process.cmdline()) for process in family)
    os.kill(command.process.pid, how)
    assert command.wait(30) == code
    wait_until(lambda: not alive(family), timeout=60)
    assert "Traceback" not in command.output.read_text()


@pytest.mark.slow
def test_a_store_that_is_not_there_yet_is_made(tmp_path):
    command = Running(tmp_path, "ui", "--port", str(free_port()))
    command.wait_for("the MLflow UI is at")
    assert (tmp_path / "mlflow.db").exists()
    command.interrupt()
    assert command.wait(30) == 130


def test_a_port_of_another_program_is_refused(uri):
    class Silent(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(403)

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(JobError, match=rf"port {server.server_port} .*--port") as taken:
            ui.serve(uri, server.server_port)
        server.shutdown()
    assert taken.value.code == "port-taken"


def test_a_proxy_is_used_only_for_other_machines(monkeypatch):
    asked = []

    class Everything(BaseHTTPRequestHandler):
        """A server, and a proxy, which receives whole addresses."""

        def do_GET(self):
            asked.append(self.path.partition("?")[0])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Everything) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        for host in ("127.0.0.1", "localhost", "mlflow.example"):
            assert answers(f"http://{host}:{port}")
            assert is_mlflow(f"http://{host}:{port}")
        server.shutdown()
    paths = ["/health", "/api/2.0/mlflow/experiments/search"]
    assert asked == [*paths, *paths, *(f"http://mlflow.example:{port}{path}" for path in paths)]


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


def test_a_server_without_runs_shows_its_experiments(monkeypatch):
    monkeypatch.setattr("jobs.tracking.served._ask", lambda *_, **__: {"experiments": []})
    page = landing_page("http://me:secret@host:5000")
    assert page == "http://host:5000/#/experiments?workflowType=machine_learning"


@pytest.fixture
def opened(monkeypatch):
    """The pages that a browser with a window is asked to open, in a terminal with a display."""
    pages = []

    class Window(webbrowser.BackgroundBrowser):
        def open(self, url, new=0, autoraise=True):
            pages.append(url)
            return True

    monkeypatch.setattr(webbrowser, "get", lambda: Window("window"))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(ui, "landing_page", lambda address: address)
    return pages


def test_a_browser_opens_where_there_is_one(opened, monkeypatch):
    ui._show("http://a", browser=True)
    assert opened == ["http://a"]


def test_no_browser_opens_without_a_display_a_terminal_or_the_wish(opened, monkeypatch):
    ui._show("http://a", browser=False)
    monkeypatch.setattr(webbrowser, "get", lambda: webbrowser.GenericBrowser("lynx"))
    ui._show("http://a", browser=True)
    monkeypatch.undo()
    assert opened == []


def test_no_browser_opens_over_ssh(opened, monkeypatch):
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    ui._show("http://a", browser=True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    monkeypatch.setenv("DISPLAY", ":0")
    ui._show("http://a", browser=True)
    assert opened == []
