"""Processes that open a store at the same moment, and MLflow servers."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import requests

from glowctl.tracking.store import client_of
from tests.jobs.command_line import environment, free_port, wait_until

WRITER = """
import sys
import mlflow
import mlflow.store.tracking.sqlalchemy_store
from glowctl.tracking.record import Record
uri, experiment, name = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
record = Record.start(uri, experiment, name, {}, {"name": name})
for step in range(5):
    record.metrics({"loss": 1.0 / (step + 1)}, step)
record.finish("FINISHED")
"""

OPENER = """
import sys
import mlflow
import mlflow.store.tracking.sqlalchemy_store
from glowctl.tracking.store import open_store
print("ready", flush=True)
sys.stdin.readline()
open_store(sys.argv[1], "study")
"""


@contextmanager
def waiting(folder: Path, code: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a process that has imported all it needs, and that begins its work when it reads a line from stdin."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
            yield process
        finally:
            process.kill()


def write_at_once(folder: Path, uri: str, experiments: Sequence[str]) -> None:
    """Record one run per experiment in the list, each in a separate process, all at the same moment.

    All must succeed, and each run must be in its experiment afterwards.
    """
    with ExitStack() as stack:
        writers = [
            stack.enter_context(waiting(folder, WRITER, uri, experiment, f"run {number}"))
            for number, experiment in enumerate(experiments)
        ]
        for writer in writers:
            begins(writer)
        for writer in writers:
            ends_well(writer)
    check_runs(uri, experiments)


def begins(process: "subprocess.Popen[str]") -> None:
    """Let a waiting process begin its work."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def writes(writer: "subprocess.Popen[str]") -> None:
    """Let a waiting process do its work, and check that it ended well."""
    begins(writer)
    ends_well(writer)


def ends_well(writer: "subprocess.Popen[str]") -> None:
    out, err = writer.communicate(timeout=120)
    assert (writer.returncode, out) == (0, ""), err
    assert "Traceback" not in err


def check_runs(uri: str, experiments: Sequence[str]) -> None:
    client = client_of(uri)
    ids = {found.name: found.experiment_id for found in client.search_experiments()}
    assert set(experiments) <= set(ids)
    for name in set(experiments):
        runs = client.search_runs([ids[name]])
        expected = {f"run {number}" for number, experiment in enumerate(experiments) if experiment == name}
        assert {run.info.run_name for run in runs} == expected
        for run in runs:
            assert run.info.status == "FINISHED"
            assert run.data.params == {"name": run.info.run_name}
            assert len(client.get_metric_history(run.info.run_id, "loss")) == 5


def wait_for_server(uri: str) -> None:
    def healthy() -> bool:
        try:
            return requests.get(f"{uri}/health", timeout=2).ok
        except requests.RequestException:
            return False

    wait_until(healthy)


class Server(NamedTuple):
    """An MLflow server.

    Attributes:
        uri: its address.
        process: the leader of its process group.
    """

    uri: str
    process: "subprocess.Popen[bytes]"


@contextmanager
def mlflow_server(folder: Path, port: int | None = None) -> Iterator[Server]:
    """Run `mlflow server` on a database in this folder, which keeps what an earlier server recorded there."""
    port = port or free_port()
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    own = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/server.db",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # or it starts eight processes more, as `deploy/head.sh` knows
        "PYTHONWARNINGS": "ignore",
    }
    with (folder / "server.log").open("a") as log:
        server = subprocess.Popen(
            [*command, "--artifacts-destination", str(folder / "artifacts")],
            cwd=folder,
            env=environment(**own),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for_server(uri)
        yield Server(uri, server)
    finally:
        end_group(server)


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a process group as a closed terminal does, and kill it if it has not ended after 20 seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
            return
