"""Helper processes that end with the process that wants them, however that goes, and clean up after themselves.

`start` gives a helper a pipe as its standard input. The parent writes nothing or little to it, and holds it open; the
kernel closes it when the parent dies, kill -9 included. In the helper, `supervise` waits for that beside what the
helper does, and `last_words` where it does nothing else.

A training of one worker needs two helpers of ours on this machine:

- `jobs.ray_runtime.embedded` starts Ray, and kills what is left of it when the command is gone. Ray cannot do that by
  itself: two of its agents would stay for minutes, and its folder for ever. It is a process of its own so that Ray
  starts while the command is importing torch and MLflow, and so that Ctrl-C, which goes to a whole terminal, does not
  reach Ray before the command has brought the record into a true state.
- `jobs.tracking.watch` marks the run FAILED when the command was killed. It cannot be the first one: that belongs to
  Ray, of which there may be none (an evaluation) or which is not ours to end (a job on a cluster).

`glowctl ui` needs one, this module run as `python -m jobs.system.helper_processes COMMAND...`: MLflow's server is two
processes, of which the second would outlive the first.
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

__all__ = ["end", "last_words", "shield", "start", "supervise"]

PROJECT = Path(__file__).parents[2]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PATIENCE_S = 3.0
"""How long a command that is asked to end may take before it is killed."""


def start(
    module: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
) -> subprocess.Popen[str]:
    """Starts a module of this project as a helper, with more variables in its environment.

    It is in a session of its own, so that Ctrl-C is for this process alone. `jobs` is found also where it is not
    installed, as in a job of a cluster.
    """
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],  # -P: not what lies in this folder
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        text=True,
    )


def end(helper: subprocess.Popen[str], word: str = "", wait: bool = True) -> None:
    """Closes a helper's input after this last word, and waits until the helper has cleaned up."""
    assert helper.stdin is not None
    with suppress(BrokenPipeError):  # somebody has killed it
        helper.stdin.write(word)
        helper.stdin.close()
    if wait:
        helper.wait()
    if helper.stdout is not None:
        helper.stdout.close()


def shield() -> None:
    """Makes this process survive the signals that would end it, and not those that it starts.

    SIG_IGN would be inherited; a handler is not.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)


def last_words() -> str:
    """What the parent has said, once it is gone or has no more to say."""
    shield()
    return sys.stdin.read()


class _ParentGone(BaseException):
    """Ends what a helper does: nothing may catch it and go on."""


def supervise(run: Callable[[], int], clean_up: Callable[[], None]) -> int:
    """Runs a helper: calls `run`, and `clean_up` when that has ended or as soon as the parent is gone; the exit code.

    Nothing is started any more while `clean_up` is called: `run` has been interrupted. If the parent is gone, this
    does not return but ends the process.
    """
    shield()
    signal.signal(signal.SIGUSR1, _stop_running)
    main = threading.get_ident()

    def end_with_parent() -> None:
        while os.read(0, 4096):  # sys.stdin would hold a lock that Python needs to end
            pass
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
    """The other thread ends this process."""
    while True:
        signal.pause()


def _end_group(leader: subprocess.Popen[bytes]) -> None:
    """Ends all of a process group, by force if it does not end when it is asked to."""
    for number, patience in ((signal.SIGTERM, PATIENCE_S), (signal.SIGKILL, 0.0)):
        deadline = time.monotonic() + patience
        with suppress(ProcessLookupError):  # all of it has ended
            os.killpg(leader.pid, number)
            while time.monotonic() < deadline:
                leader.poll()
                os.killpg(leader.pid, 0)
                time.sleep(0.05)


def main(command: list[str]) -> int:
    """Runs a command in a process group of its own, which is ended with the parent, or with its first process."""
    shield()
    leader = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    return supervise(leader.wait, lambda: _end_group(leader))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) and 1)
