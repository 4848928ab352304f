"""Helper processes, which end when their parent ends in whatever way, and clean up after themselves.

`start` gives a helper a pipe as its standard input. The parent holds the pipe open; the kernel closes it when the
parent dies, even by kill -9. In the helper, `supervise` waits for the end of the pipe while the helper works.

- A command with an embedded Ray has the helper `glowctl.ray_runtime.embedded`, which starts Ray, and kills what is left
  of it when the command has ended. Ray cannot do that itself: two of its agents would stay for minutes, and its folder
  forever. If the command was killed, the helper also marks its runs as FAILED. It is a separate process so that Ray
  starts while the command imports torch and MLflow, and so that Ctrl-C, which reaches all processes of a terminal, does
  not reach Ray before the command has recorded how it ended.
- `glowctl ui` has the helper `python -m glowctl.system.helper_processes COMMAND...`. MLflow's server consists of two
  processes, and the second would outlive the first.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, NoReturn

PROJECT = Path(__file__).parents[2]
"""The folder that contains the package `glowctl`."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that a helper survives."""

PATIENCE_S = 3.0
"""Seconds that a command may take to end after it was asked to, before it is killed."""

_listening: list[subprocess.Popen[str]] = []
"""The helpers of this process that take lines."""


def start(
    module: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
    listens: bool = False,
) -> subprocess.Popen[str]:
    """Start a module of this project as a helper.

    The helper runs in a separate session, so that Ctrl-C reaches only this process. It finds `glowctl` even if the
    package is not installed, as in a job on a cluster.

    Args:
        module: the name of the module.
        arguments: its command line.
        environment: variables to add to those of this process.
        stdout: where its standard output goes.
        stderr: where its standard error goes.
        listens: whether the helper receives the lines of `tell_helpers`.
    """
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    helper = subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],  # -P: do not import modules from the working folder
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        text=True,
    )
    if listens:
        _listening.append(helper)
    return helper


def tell_helpers(line: str) -> None:
    """Write a line to the standard input of every helper that was started with `listens`, if it still runs.

    A line may contain a password: other users can read the command line of a process, but not a pipe.
    """
    for helper in _listening:
        assert helper.stdin is not None
        with suppress(BrokenPipeError):  # the helper was killed
            helper.stdin.write(f"{line}\n")
            helper.stdin.flush()


def end(helper: subprocess.Popen[str]) -> None:
    """End a helper by closing its standard input, and wait until it has cleaned up."""
    assert helper.stdin is not None
    if helper in _listening:
        _listening.remove(helper)
    with suppress(BrokenPipeError):  # the helper was killed
        helper.stdin.close()
    helper.wait()
    if helper.stdout is not None:
        helper.stdout.close()


def shield() -> None:
    """Make this process, but not those that it starts, survive the signals `SIGNALS`.

    It installs handlers that do nothing, because processes inherit SIG_IGN but not handlers.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)


class _ParentGone(BaseException):
    """Interrupts the work of a helper; a BaseException, so that no handler for errors catches it."""


def supervise(
    run: Callable[[], int], clean_up: Callable[[], None], receive: Callable[[str], None] = lambda _: None
) -> int:
    """Call `run`, then `clean_up`; if the parent ends first, interrupt `run`, call `clean_up` and end this process.

    Args:
        run: the work of the helper; returns an exit code.
        clean_up: what remains to be done.
        receive: takes each line that the parent writes (`tell_helpers`), in another thread.

    Returns:
        The result of `run`, an exit code. The function does not return if the parent has ended.
    """
    shield()
    signal.signal(signal.SIGUSR1, _stop_running)
    main = threading.get_ident()

    def end_with_parent() -> None:
        begun = b""
        while part := os.read(0, 4096):  # sys.stdin would hold a lock that Python needs to end
            *lines, begun = (begun + part).split(b"\n")
            for line in lines:
                receive(line.decode())
        signal.pthread_kill(main, signal.SIGUSR1)
        try:
            clean_up()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)

    try:
        threading.Thread(target=end_with_parent, name="parent", daemon=True).start()
        code = run()
        clean_up()
    except _ParentGone:
        _wait_for_the_end()
    return code


def _stop_running(*_: object) -> None:
    raise _ParentGone


def _wait_for_the_end() -> NoReturn:
    """Wait until the other thread ends this process."""
    while True:
        signal.pause()


def _end_group(leader: subprocess.Popen[bytes]) -> None:
    """End all processes of a group: ask them to end, then kill those that remain."""
    for number, patience in ((signal.SIGTERM, PATIENCE_S), (signal.SIGKILL, 0.0)):
        deadline = time.monotonic() + patience
        with suppress(ProcessLookupError):  # all processes of the group have ended
            os.killpg(leader.pid, number)
            while time.monotonic() < deadline:
                leader.poll()
                os.killpg(leader.pid, 0)
                time.sleep(0.05)


def main(command: list[str]) -> int:
    """Run a command in a separate process group, and end the group when the parent or the command itself ends."""
    shield()
    leader = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    return supervise(leader.wait, lambda: _end_group(leader))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) and 1)
