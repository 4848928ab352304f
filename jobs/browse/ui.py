"""The MLflow UI on the store that runs are recorded in."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from jobs.errors import JobError
from jobs.system.helper_processes import end, start
from jobs.system.signals import sigterm_as_interrupt
from jobs.tracking import check_store, server_command, tracking_uri, without_password
from jobs.tracking.served import answers, is_mlflow, landing_page, serves

__all__ = ["serve", "served_at"]

HOST = "127.0.0.1"
DEFAULT_PORT = 5000
PATIENCE_S = 120.0
SETTLED_S = 1.0
"""A server that cannot have its port ends within this, though another answers there."""

# Nothing of glowctl's is a job of MLflow's, for which a server starts eight processes more.
LEAN = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def serve(given_uri: str | None, port: int, browser: bool = True) -> None:
    """Shows the store's UI: its address, once that answers, and a browser where there is one.

    Where no server of the store runs, one is started, and stays until Ctrl-C, which raises KeyboardInterrupt. Raises
    TrackingError for a store that cannot be used, JobError for a port that is taken and a server that ends.
    """
    uri = tracking_uri(given_uri)
    check_store(uri)
    if uri.startswith("http"):
        _show(uri.rstrip("/"), browser)
        return
    address = f"http://{HOST}:{port}"
    if _is_taken(port):
        _check_is_of(address, uri, port)
        _show(address, browser)
        return
    command, environment = server_command(uri, port)
    print(f"starting the MLflow server of {without_password(uri)}", flush=True)
    with sigterm_as_interrupt(), _running(command, environment) as (server, log):
        if _comes_up(address, server):
            _show(address, browser, "; Ctrl-C ends it")
            server.wait()
            raise JobError(f"the MLflow server ended: {_last_line(log)}")
        if not served_at(address, uri):
            raise JobError(f"the MLflow server did not start: {_last_line(log)}")
    _show(address, browser)  # of somebody who started one at the same time


def served_at(address: str, uri: str) -> bool:
    """Whether an MLflow server of this store is there."""
    return is_mlflow(address) and serves(address, uri)


def _is_taken(port: int) -> bool:
    """Raises JobError for a port that this user may not have."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex((HOST, port)) == 0:  # on macOS one can bind what another listens to on all interfaces
            return True
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError:
            raise JobError(f"port {port} is for the system's own servers: choose another with --port") from None
        except OSError:
            return True
    return False


def _check_is_of(address: str, uri: str, port: int) -> None:
    advice = f"choose another with --port, such as --port {port + 1 if port < 65535 else DEFAULT_PORT}"
    if not is_mlflow(address):
        raise JobError(f"port {port} is taken by another program: {advice}")
    if not serves(address, uri):
        raise JobError(f"port {port} is taken by an MLflow server of another store: {advice}")


@contextmanager
def _running(command: list[str], environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], IO[bytes]]]:
    """The server, which ends with this process however that ends, and the file that it writes to."""
    with tempfile.TemporaryFile() as log:
        helper = start(
            "jobs.system.helper_processes", *command, environment={**LEAN, **environment}, stdout=log, stderr=log
        )
        try:
            yield helper, log
        finally:
            end(helper)


def _comes_up(address: str, server: subprocess.Popen[str]) -> bool:
    """Waits until the server answers. False if it ends before."""
    deadline = time.monotonic() + PATIENCE_S
    while server.poll() is None:
        if answers(address):
            time.sleep(SETTLED_S)
            return server.poll() is None
        if time.monotonic() > deadline:
            raise JobError(f"the MLflow server at {address} did not answer within {PATIENCE_S:.0f} s: try again")
        time.sleep(0.2)
    return False


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _show(address: str, browser: bool, more: str = "") -> None:
    page = landing_page(address)
    print(f"the MLflow UI is at {page}{more}", flush=True)
    if browser and sys.stdout.isatty():
        _open(page)


def _open(page: str) -> None:
    """In a browser with a window of its own, if this session has any."""
    windows = "SSH_CONNECTION" not in os.environ if sys.platform == "darwin" else _has_display()
    if not windows:
        return
    try:
        found = webbrowser.get()
    except webbrowser.Error:
        return
    if type(found) is not webbrowser.GenericBrowser:  # which is one in the terminal, such as lynx
        found.open(page)


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
