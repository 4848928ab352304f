"""Ctrl-C, SIGTERM and SIGHUP end a command, whatever the shell that started it had set for these signals."""

import asyncio
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
from importlib import metadata

import pytest
import typer
from aiohttp import web

from jobs.commands.app import main
from jobs.commands.interruption import interruptible
from jobs.system.signals import signals_as_interrupt
from tests.jobs.command_line import GLOWCTL, environment

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


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    ("command", "works"),
    [
        ("runs", "jobs.browse.runs.list_runs"),
        ("show x", "jobs.browse.show.show_run"),
        ("report", "jobs.report.make"),
        ("sync x", "jobs.dispatch.sync"),
        ("models", "jobs.tracking.registered_versions"),
        ("promote a/1 b", "jobs.tracking.promote"),
        ("doctor", "jobs.commands.doctor.examine"),
        ("cluster status", "jobs.commands.cluster._cluster"),
    ],
)
def test_every_command_ends_so_and_leaves_nothing(tmp_path, monkeypatch, capsys, command, works, number):
    monkeypatch.setattr(works, lambda *_, **__: os.kill(os.getpid(), number))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["glowctl", *command.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == SIGNALS[number]
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
