"""`glowctl ui`: show the MLflow UI of the store in which runs are recorded.

If an MLflow server of the same store already runs, the command uses it. Otherwise the command starts a server, which
ends with the command.
"""

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
from jobs.system.signals import signals_as_interrupt
from jobs.tracking import check_store, server_command, tracking_uri, without_password
from jobs.tracking.served import answers, is_mlflow, landing_page, serves

__all__ = ["serve", "served_at"]

HOST = "127.0.0.1"
DEFAULT_PORT = 5000
PATIENCE_S = 120.0
"""Longest time in seconds to wait for the first answer of a server that was started."""

SETTLED_S = 1.0
"""Time in seconds after the first answer, by which a server that did not get its port has ended.

The answer may come from another server on the same port.
"""

# glowctl uses none of the jobs of MLflow, for which a server would start eight more processes.
LEAN = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def serve(given_uri: str | None, port: int, browser: bool = True) -> None:
    """Print the address of the store's UI once the UI answers, and open the UI in a browser.

    If no MLflow server of the store runs, this function starts one, blocks while that server runs, and then raises
    JobError or KeyboardInterrupt.

    Args:
        given_uri: the MLflow store; None for the default (`jobs.tracking.tracking_uri`).
        port: port of the UI on this machine; not used if the store is an MLflow server itself.
        browser: whether to open a browser, if this session has a terminal and a display.

    Raises:
        TrackingError: if the store cannot be used.
        JobError: if another program or an MLflow server of another store uses the port, if this user may not use the
            port, or if the server that was started does not answer or ends by itself.
        KeyboardInterrupt: on Ctrl-C, SIGTERM or SIGHUP while the server runs.
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
    print(f"starting an MLflow server for {without_password(uri)}", flush=True)
    with signals_as_interrupt(), _running(command, environment) as (server, log):
        if _comes_up(address, server):
            _show(address, browser, "; Ctrl-C stops the server")
            server.wait()
            raise JobError(
                f"the MLflow server at {address} ended ({_last_line(log)})",
                remedy="run glowctl ui again",
                code="server-ended",
            )
        if not served_at(address, uri):
            raise JobError(
                f"the MLflow server at {address} did not start ({_last_line(log)})",
                remedy="choose another --port, or run glowctl ui again",
                code="server-not-started",
            )
    _show(address, browser)  # another process started a server of the same store at the same time


def served_at(address: str, uri: str) -> bool:
    """Return whether an MLflow server of this store answers at `address`."""
    return is_mlflow(address) and serves(address, uri)


def _is_taken(port: int) -> bool:
    """Return whether a program listens on the port; raise JobError if this user may not use it."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        # Binding alone is no proof: on macOS it succeeds while another program listens on all interfaces.
        if probe.connect_ex((HOST, port)) == 0:
            return True
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError:
            raise JobError(
                f"port {port} is reserved for servers of the system",
                remedy=f"choose another with --port, such as --port {DEFAULT_PORT}",
                code="port-reserved",
            ) from None
        except OSError:
            return True
    return False


def _check_is_of(address: str, uri: str, port: int) -> None:
    remedy = f"choose another with --port, such as --port {port + 1 if port < 65535 else DEFAULT_PORT}"
    if not is_mlflow(address):
        raise JobError(f"port {port} is taken by another program", remedy=remedy, code="port-taken")
    if not serves(address, uri):
        raise JobError(
            f"port {port} is taken by an MLflow server of another store", remedy=remedy, code="port-of-another-store"
        )


@contextmanager
def _running(command: list[str], environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], IO[bytes]]]:
    """Start the server and yield it with its log. It ends with this process, even if that is killed."""
    with tempfile.TemporaryFile() as log:
        helper = start(
            "jobs.system.helper_processes", *command, environment={**LEAN, **environment}, stdout=log, stderr=log
        )
        try:
            yield helper, log
        finally:
            end(helper)


def _comes_up(address: str, server: subprocess.Popen[str]) -> bool:
    """Wait until the server answers, and return True; return False if it ends before."""
    deadline = time.monotonic() + PATIENCE_S
    while server.poll() is None:
        if answers(address):
            time.sleep(SETTLED_S)
            return server.poll() is None
        if time.monotonic() > deadline:
            raise JobError(
                f"the MLflow server at {address} did not answer within {PATIENCE_S:.0f} s",
                remedy="run glowctl ui again",
                code="server-not-started",
            )
        time.sleep(0.2)
    return False


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "without a message"


def _show(address: str, browser: bool, more: str = "") -> None:
    page = landing_page(address)
    print(f"the MLflow UI is at {page}{more}", flush=True)
    if browser and sys.stdout.isatty():
        _open(page)


def _open(page: str) -> None:
    """Open a page in a browser that has a window, if this session can show one."""
    windows = "SSH_CONNECTION" not in os.environ if sys.platform == "darwin" else _has_display()
    if not windows:
        return
    try:
        found = webbrowser.get()
    except webbrowser.Error:
        return
    if type(found) is not webbrowser.GenericBrowser:  # a browser inside the terminal, such as lynx
        found.open(page)


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
