"""Runs `glowctl` as a user does: the installed command, in a process of its own."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

GLOWCTL = Path(sys.executable).with_name("glowctl")

PATIENCE_S = 240.0
"""How long to wait for what must happen. It proves nothing about time: on a busy machine all takes long."""

NUMBERS = itertools.count()

# These belong to the Ray and the data of the tests' own process or machine.
FOREIGN = ("RAY_", "GLOW_", "MLFLOW_TRACKING")


# Ray's workers give way to all other processes, which are another test here, and would wait for it to end.
OURS = {"COLUMNS": "120", "MLFLOW_DISABLE_TELEMETRY": "true", "RAY_worker_niceness": "0"}


def environment(**changes: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return {**own, **OURS, **changes}


def glowctl(folder: Path, *arguments: str, timeout: float = 480, **changes: str) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    return subprocess.run(
        [GLOWCTL, *arguments],
        cwd=folder,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )


ONE_AFTER_THE_OTHER = """
import contextlib, io, json, os, sys
from glowctl.commands.app import main
for line in sys.stdin:
    folder, arguments, changes = json.loads(line)
    os.chdir(folder)
    before = dict(os.environ)
    os.environ.update(changes)
    sys.argv = ["glowctl", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0  # a command that ends well may exit with None
    for name in changes:
        os.environ.pop(name)
    os.environ.update(before)
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


class OneProcess:
    """Runs commands as `glowctl` above does, but all in one process, since to import torch and MLflow takes longer than
    most answers. It is for commands that only say something, and neither start Ray nor are killed."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", ONE_AFTER_THE_OTHER]
        self._process = subprocess.Popen(
            command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, folder: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(folder), arguments, changes]) + "\n")
        self._process.stdin.flush()
        return subprocess.CompletedProcess(arguments, *json.loads(self._process.stdout.readline()))

    def end(self) -> None:
        self._process.communicate()


LOGGED = re.compile(r"Traceback|\b(INFO|WARNING|ERROR|CRITICAL)\b|\(raylet\)|\bpid=\d+")
"""What a log or a worker of Ray or MLflow looks like. Other messages on stderr differ with Python and torch."""


def check_quiet(done: subprocess.CompletedProcess[str]) -> None:
    """Checks that the command ended well, and that stderr holds no traceback and nothing of Ray's and MLflow's logs."""
    assert done.returncode == 0, done.stderr
    assert not LOGGED.search(done.stderr), done.stderr


def sentence_of(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """Returns the one line in which the command says what is wrong, after a check of its exit code."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    sentences = [line for line in done.stderr.splitlines() if line.startswith("glowctl: ")]
    assert len(sentences) == 1, done.stderr
    return sentences[0]


class Running:
    """A command that runs in the background, in a process group of its own; its lines are in a file."""

    def __init__(self, folder: Path, *arguments: str, **changes: str) -> None:
        self.output = folder / f"output-{next(NUMBERS)}.txt"
        with self.output.open("w") as out:
            self.process = self._start(folder, arguments, out, changes)

    @staticmethod
    def _start(
        folder: Path, arguments: tuple[str, ...], out: IO[str], changes: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [GLOWCTL, *arguments],
            cwd=folder,
            env=environment(**changes),
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def lines(self) -> list[str]:
        return self.output.read_text().splitlines()

    def line_with(self, text: str) -> str:
        """Returns the first line that holds the text."""
        return next(line for line in self.lines() if text in line)

    def wait_for(self, text: str, timeout: float = PATIENCE_S) -> None:
        def shown() -> bool:
            assert self.process.poll() is None or any(text in line for line in self.lines()), self.lines()
            return any(text in line for line in self.lines())

        try:
            wait_until(shown, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}: {text!r} is not in {self.lines()[-40:]}") from None

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def train_workers(self) -> list[psutil.Process]:
        return self.named("RayTrainWorker")

    def named(self, text: str) -> list[psutil.Process]:
        """Living processes beneath this one with this text in their command line."""
        found = []
        for process in self.family():
            with suppress(psutil.NoSuchProcess):  # gone meanwhile, or a zombie
                if text in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def interrupt(self) -> None:
        """What Ctrl-C in a terminal does: the signal goes to the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self, timeout: float = PATIENCE_S) -> int:
        return self.process.wait(timeout)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_until(condition: Callable[[], bool], timeout: float = PATIENCE_S, every: float = 0.2) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(every)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):  # between the two looks
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
