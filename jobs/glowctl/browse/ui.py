"""`glowctl ui`: show the MLflow UI of the store in which runs are recorded.

The command starts `mlflow server` for the store, which ends with the command. If the store is an MLflow server, only
the address of its UI is printed.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import webbrowser
from contextlib import suppress
from typing import IO

from glowctl.errors import JobError
from glowctl.system.helper_processes import end, start
from glowctl.system.signals import signals_as_interrupt
from glowctl.tracking.runs import experiment_names, newest_runs
from glowctl.tracking.store import check_store, server_command
from glowctl.tracking.uris import tracking_uri, without_password

HOST = "127.0.0.1"
DEFAULT_PORT = 5000
PATIENCE_S = 120.0
"""Longest time in seconds to wait for the first answer of the server."""

CLASSIC = "workflowType=machine_learning"
"""Query parameter that selects the UI's view for models; a new browser would show that for language models."""


def serve(given_uri: str | None, port: int, browser: bool = True) -> None:
    """Start an MLflow server of the store, print the address of the table of runs, and open it in a browser.

    The function blocks while the server runs. If the store is an MLflow server itself, the function starts none.

    Args:
        given_uri: the MLflow store; None for the default (`glowctl.tracking.tracking_uri`).
        port: port of the UI on this machine.
        browser: whether to open a browser, if this session has a terminal and a display.

    Raises:
        TrackingError: if the store cannot be used.
        JobError: if the port cannot be used, or if the server does not answer or ends by itself.
        KeyboardInterrupt: on Ctrl-C, SIGTERM or SIGHUP while the server runs.
    """
    uri = tracking_uri(given_uri)
    check_store(uri)
    if uri.startswith("http"):
        _show(_table_of_runs(uri, re.sub("//.*@", "//", uri.rstrip("/"))), browser)
        return
    _check_free(port)
    command, environment = server_command(uri, port)
    print(f"starting an MLflow server for {without_password(uri)}", flush=True)
    with signals_as_interrupt(), tempfile.TemporaryFile() as log:
        server = start("glowctl.system.helper_processes", *command, environment=environment, stdout=log, stderr=log)
        try:
            _wait_for(port, server, log)
            _show(_table_of_runs(uri, f"http://{HOST}:{port}"), browser, "; Ctrl-C stops the server")
            server.wait()
            raise JobError(
                f"the MLflow server on port {port} ended ({_last_line(log)})",
                remedy="run glowctl ui again",
                code="server-ended",
            )
        finally:
            end(server)


def _check_free(port: int) -> None:
    with socket.socket() as probe:  # on macOS, bind succeeds while another program listens on all interfaces
        taken = probe.connect_ex((HOST, port)) == 0
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
            taken = True
    if taken:
        other = port + 1 if port < 65535 else DEFAULT_PORT
        raise JobError(
            f"port {port} is taken by another program, which may be another glowctl ui",
            remedy=f"open http://{HOST}:{port}, or choose another port with --port {other}",
            code="port-taken",
        )


def _wait_for(port: int, server: subprocess.Popen[str], log: IO[bytes]) -> None:
    """Wait until the server answers. Raises JobError if it ends before, or if that takes longer than `PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(HOST, port, timeout=5)  # which uses no proxies
            connection.request("GET", "/health")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        time.sleep(0.2)
    raise JobError(
        f"the MLflow server on port {port} did not start ({_last_line(log)})",
        remedy="choose another --port, or run glowctl ui again",
        code="server-not-started",
    )


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "without a message"


def _table_of_runs(uri: str, address: str) -> str:
    """Return the page with the runs of the experiment that has the newest run, or else with all experiments."""
    newest = newest_runs(uri, experiment_names(uri), (), limit=1)
    table = f"/{newest[0].info.experiment_id}/runs" if newest else ""
    return f"{address}/#/experiments{table}?{CLASSIC}"


def _show(page: str, browser: bool, more: str = "") -> None:
    print(f"the MLflow UI is at {page}{more}", flush=True)
    if browser and sys.stdout.isatty() and _has_display():
        webbrowser.open(page)


def _has_display() -> bool:
    if sys.platform == "darwin":
        return "SSH_CONNECTION" not in os.environ
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
