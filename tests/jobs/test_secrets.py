"""No password or token that a job receives is in anything that it leaves behind or shows."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from glowctl.tracking.store import client_of
from tests.jobs.command_line import Running
from tests.jobs.postgres import ESCAPED, PASSWORD, postgres_server
from tests.jobs.stores import end_group, mlflow_server

pytestmark = pytest.mark.ray

# All processes of the machine are searched, including those of tests that run at the same time.
TOKENS = {
    "MLFLOW_TRACKING_TOKEN": f"mlflow-token-{os.getpid()}",
    "AWS_SECRET_ACCESS_KEY": f"aws-secret-{os.getpid()}",
    "AWS_SESSION_TOKEN": f"aws-session-{os.getpid()}",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "7261792d746f6b656e2d353135302d7261792d746f6b",
}

SECRETS = (PASSWORD, ESCAPED, *(value for name, value in TOKENS.items() if name != "RAY_AUTH_MODE"))


@pytest.fixture(
    params=[
        pytest.param("server", marks=pytest.mark.nightly),
        pytest.param("database", marks=[pytest.mark.slow, pytest.mark.postgres]),
    ]
)
def store(request, tmp_path) -> Iterator[str]:
    """The address of a store, which contains a password."""
    if request.param == "server":
        with mlflow_server(tmp_path) as (uri, _):
            yield uri.replace("http://", f"http://glow:{ESCAPED}@")
    else:
        with postgres_server(tmp_path) as server:
            yield server.uri()


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for Ray's files, with a path that is short enough for its sockets."""
    folder = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def in_text(text: str) -> set[str]:
    return {secret for secret in SECRETS if secret in text}


def files_of(folder: Path) -> list[Path]:
    """Return all files that exist now; others are made and removed while this runs."""
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]


def in_files(folder: Path) -> set[str]:
    """Return the files that contain a secret, with the secret."""
    found = set()
    for path in files_of(folder):
        with suppress(OSError):  # removed since, or a socket
            if path.is_file():
                found |= {f"{path}: {secret}" for secret in in_text(path.read_bytes().decode("latin-1"))}
    return found


def in_command_lines(own: psutil.Process) -> set[str]:
    """Return the processes with a secret in their command line, except for the command itself, where the user typed it.

    Its children have the same command line for a moment, between fork and exec.
    """
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            line = process.cmdline()
            secrets = in_text(" ".join(line))
            if secrets and process.pid != own.pid and line != own.cmdline():
                found |= {f"{line}: {secret}" for secret in secrets}
    return found


def in_record(uri: str, folder: Path) -> set[str]:
    """Return the parts of the record that contain a secret."""
    client = client_of(uri)
    experiment = client.get_experiment_by_name("glow")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    client.download_artifacts(run.info.run_id, "", str(folder))
    assert (folder / "spec.json").is_file()
    parts = {"run": str(run.to_dictionary()), "experiment": str(dict(experiment))}
    return {f"{name}: {secret}" for name, text in parts.items() for secret in in_text(text)} | in_files(folder)


def watched(command: Running, temporary: Path) -> tuple[set[str], int]:
    """Return what leaks while the command runs, and the number of Ray's logs that were searched."""
    leaks: set[str] = set()
    logs = 0
    deadline = time.monotonic() + 240
    own = psutil.Process(command.process.pid)
    while command.process.poll() is None:
        assert time.monotonic() < deadline, command.lines()
        leaks |= in_command_lines(own) | in_files(temporary)
        logs = max(logs, sum(path.suffix == ".log" for path in files_of(temporary)))
        time.sleep(0.5)
    return leaks, logs


def test_secrets_are_nowhere(store, tmp_path, temporary):
    work = tmp_path / "work"
    work.mkdir()
    flags = ("--preset", "smoke", "--cpus-per-worker", "1", "--tracking-uri", store)
    command = Running(work, "train", *flags, **TOKENS, TMPDIR=str(temporary))
    try:
        leaks, logs = watched(command, temporary)
    finally:
        if command.process.poll() is None:
            end_group(command.process)
    assert command.process.returncode == 0, command.lines()
    assert logs > 5  # Ray's own logs were among the searched files
    assert not leaks
    assert not in_text("\n".join(command.lines()))
    assert not in_files(work)
    (tmp_path / "record").mkdir()
    assert not in_record(store, tmp_path / "record")
    for database in tmp_path.glob("server.db*"):
        assert not in_text(database.read_bytes().decode("latin-1"))
