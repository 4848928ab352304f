"""Ctrl-C and SIGTERM end a command, whatever the shell that started it had set for these signals."""

import asyncio
import os
import platform
import signal
import subprocess
import threading
from importlib import metadata

import pytest
import typer
from aiohttp import web

from jobs.commands.interruption import interruptible
from tests.jobs.command_line import GLOWCTL, environment

RAY = metadata.version("ray")
ANSWERS = {
    "/api/version": {"version": "4", "ray_version": RAY, "ray_commit": "", "session_name": ""},
    "/api/v0/cluster_metadata": {"data": {"rayVersion": RAY, "pythonVersion": platform.python_version()}},
    "/api/jobs/j": {"type": "SUBMISSION", "submission_id": "j", "status": "RUNNING", "entrypoint": "x"},
}
"""Answers of a dashboard about itself and about its one job, which never ends."""


@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.SIG_DFL, signal.default_int_handler])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_what_runs_with_a_sentence_and_its_exit_code(capsys, before, number, code):
    known = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, before)
    try:
        with pytest.raises(typer.Exit) as ended, interruptible("as you wish"):
            os.kill(os.getpid(), number)
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        for each, handler in known.items():
            signal.signal(each, handler)
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == "glowctl: as you wish\n"


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

    started, up, loop, stop = [], threading.Event(), asyncio.new_event_loop(), asyncio.Event()
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
