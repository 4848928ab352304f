"""How a command ends: by an error, by a signal, without a reader of its output; and what it leaves behind."""

import asyncio
import errno
import gc
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
from importlib import metadata
from types import ModuleType

import pytest
import typer
from aiohttp import web

from glowctl.commands.app import main
from glowctl.commands.ending import interruptible
from glowctl.display.events import Noted
from glowctl.errors import JobError
from glowctl.system.signals import signals_as_interrupt
from tests.jobs.command_line import GLOWCTL, environment, sentence_of


@pytest.fixture
def ended(monkeypatch):
    """A function that runs a command in this process, and returns its exit code; and the calls of gc.freeze."""
    frozen: list[bool] = []
    monkeypatch.setattr("glowctl.commands.app.set_up_process", lambda: None)
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["glowctl", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code

    return run, frozen


@pytest.mark.parametrize("with_triton", [False, True])
def test_objects_are_frozen_where_triton_would_not_tell_of_it(ended, monkeypatch, with_triton):
    run, frozen = ended
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    if with_triton:
        monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    assert run("--help") == 0
    assert frozen == [True] * (not with_triton)


@pytest.mark.parametrize(
    "error", [EOFError("Ran out of input"), BrokenPipeError(errno.EPIPE, "of a socket")], ids=["end of file", "pipe"]
)
def test_an_error_that_typer_takes_for_its_own_is_said_like_any_other(ended, monkeypatch, capsys, error):
    def examine(*arguments):
        raise error

    monkeypatch.setattr("glowctl.commands.doctor.examine", examine)
    assert ended[0]("doctor") == 1
    assert str(error) in capsys.readouterr().err


def test_the_events_before_an_error_stay(ended, monkeypatch, capsys):
    def perform(request, display):
        with display as show:
            show(Noted("one image is grey"))
            raise JobError("the disk is full", remedy="free some space", code="disk-full")

    monkeypatch.setattr("glowctl.dispatch.perform", perform)
    assert ended[0]("train", "--json", "--preset", "smoke") == 1
    shown = capsys.readouterr()
    note, error = (json.loads(line) for line in shown.out.splitlines())
    assert note == {"event": "note", "message": "one image is grey"}
    assert (error["event"], error["code"], error["remedy"]) == ("error", "disk-full", "free some space")
    assert shown.err == "glowctl: the disk is full: free some space\n"


@pytest.mark.parametrize(
    ("asked", "exit_code", "code"),
    [
        ("train --preset smoke --depth 0", 2, "setting-not-allowed"),  # of a spec
        ("train --epochs x", 2, "setting-not-allowed"),  # of Typer
        ("train --permutaton 1x1", 2, "wrong-command-line"),
        ("show", 2, "setting-not-allowed"),
        ("jobs", 2, "no-cluster-named"),
        ("show nothing", 1, "store-missing"),
        ("train --resume first", 1, "run-not-found"),
    ],
)
def test_with_json_an_error_is_an_event_on_standard_output(one_process, tmp_path, asked, exit_code, code):
    without = one_process(tmp_path, *asked.split())
    assert without.stdout == ""
    done = one_process(tmp_path, *asked.split(), "--json")
    said = sentence_of(done, exit_code)
    assert said == sentence_of(without, exit_code)
    error = json.loads(done.stdout)
    assert error.keys() == {"event", "code", "problem", "remedy", "exit_code"}
    assert (error["event"], error["code"], error["exit_code"]) == ("error", code, exit_code)
    assert said == "glowctl: " + ": ".join(part for part in (error["problem"], error["remedy"]) if part)


def test_an_argument_that_looks_like_the_flag_is_not_the_flag(one_process, tmp_path):
    assert one_process(tmp_path, "show", "--", "--json").stdout == ""


CODE = """
import sys
from rich.console import Console
from glowctl.commands import app

def work(*_, **__):
    {work}

app._do = work
sys.argv = ["glowctl", "train", "--preset", "smoke", "--json"]
app.main()
"""


@pytest.mark.parametrize(
    ("work", "code"),
    [
        ("print('an event', flush=True)", 141),
        ("Console().print('a table')", 141),
        ("print('an event')", 0),  # which Python writes at its end only
        ("sys.stdout.write('an event'); raise ValueError('a bug')", 1),
    ],
)
def test_a_closed_pipe_ends_a_command_with_the_code_of_sigpipe_and_no_report(tmp_path, work, code):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", CODE.format(work=work)],
            cwd=tmp_path,
            env=environment(PYTHONUNBUFFERED="", TMPDIR=str(tmp_path)),
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.returncode == code, done.stderr
    assert "Broken" not in done.stderr
    assert ("a bug" in done.stderr) == (code == 1)


RAY = metadata.version("ray")
ANSWERS = {
    "/api/version": {"version": "4", "ray_version": RAY, "ray_commit": "", "session_name": ""},
    "/api/v0/cluster_metadata": {"data": {"rayVersion": RAY, "pythonVersion": platform.python_version()}},
    "/api/jobs/j": {"type": "SUBMISSION", "submission_id": "j", "status": "RUNNING", "entrypoint": "x"},
}
"""Answers of a dashboard about itself and about its one job, which never ends."""


SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
"""The signals, and the exit code of a command that each has ended."""


@pytest.fixture(autouse=True)
def handlers():
    """The handlers of the process of the tests are put back; they are those of a terminal while a test runs."""
    known = {each: signal.getsignal(each) for each in SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for each, handler in known.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.SIG_DFL, signal.default_int_handler])
@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
def test_a_signal_ends_what_runs_with_a_sentence_and_its_exit_code(capsys, before, number, code):
    signal.signal(signal.SIGINT, before)
    with pytest.raises(typer.Exit) as ended, interruptible("as you wish"):
        os.kill(os.getpid(), number)
    assert signal.getsignal(signal.SIGINT) is before
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == "glowctl: as you wish\n"


def test_several_hangups_of_one_terminal_do_not_interrupt_the_clean_up(capsys):
    cleaned = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
            cleaned.append(True)

    with pytest.raises(typer.Exit) as ended, interruptible(), signals_as_interrupt():
        work()
    assert cleaned == [True]
    assert ended.value.exit_code == 129


def test_a_command_under_nohup_survives_the_terminal():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible(), signals_as_interrupt():
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize(
    ("command", "works"),
    [
        ("runs", "glowctl.browse.runs.list_runs"),
        ("show x", "glowctl.browse.show.show_run"),
        ("report", "glowctl.report.make"),
        ("sync x", "glowctl.dispatch.sync"),
        ("models", "glowctl.tracking.registry.registered_versions"),
        ("promote a/1 b", "glowctl.tracking.registry.promote"),
        ("doctor", "glowctl.commands.doctor.examine"),
        ("cluster status", "glowctl.commands.cluster._cluster"),
    ],
)
def test_every_command_ends_so_and_leaves_nothing(tmp_path, monkeypatch, capsys, command, works):
    monkeypatch.setattr(works, lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["glowctl", *command.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 143
    assert "glowctl: stopped" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def address():
    """The address of such a dashboard, whose job writes one line."""

    async def tail(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("the first line\n")
        await socket.receive()  # until the client goes
        return socket

    def says(told):
        async def answer(request):
            return web.json_response(told)

        return answer

    async def serve():
        app = web.Application()
        for path, told in ANSWERS.items():
            app.router.add_get(path, says(told))
        app.router.add_get("/api/jobs/j/logs/tail", tail)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        started.append(runner.addresses[0][1])
        up.set()
        await stop.wait()
        await runner.cleanup()

    started: list[int] = []
    up, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert up.wait(60)
    yield f"http://127.0.0.1:{started[0]}"
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


@pytest.mark.parametrize(
    "trap",
    [
        pytest.param("", marks=pytest.mark.slow, id="by itself"),
        pytest.param("trap '' INT; ", id="in the background of a script"),
    ],
)
def test_ctrl_c_ends_the_following_of_a_job_that_goes_on(tmp_path, address, trap):
    following = subprocess.Popen(
        ["sh", "-c", f'{trap}exec "$0" "$@"', GLOWCTL, "logs", "-f", "j"],
        cwd=tmp_path,
        env=environment(RAY_ADDRESS=address, RAY_AUTH_TOKEN="a-token-of-this-test-alone-0123456789"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert following.stdout is not None
    try:
        assert following.stdout.readline() == "the first line\n"
        following.send_signal(signal.SIGINT)
        said = following.communicate(timeout=120)[0]
        assert said.startswith("glowctl: job j ")
        assert said.count("\n") == 1
        assert following.returncode == 130
    finally:
        following.kill()
        following.wait()
        following.stdout.close()
