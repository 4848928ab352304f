"""The MLflow UI on the store that runs are recorded in."""

from __future__ import annotations

import os
import socket

from jobs.errors import JobError
from jobs.tracking import check_store, server_command, tracking_uri, without_password

__all__ = ["serve"]


def serve(given_uri: str | None, port: int) -> None:
    """Becomes the MLflow server, or prints the address of the one that the store is already.

    Raises TrackingError for a store that cannot be used, JobError for a port that is taken.
    """
    uri = tracking_uri(given_uri)
    check_store(uri)
    if uri.startswith("http"):
        print(f"the MLflow UI is at {without_password(uri)}")
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise JobError(f"port {port} is taken: choose another with --port") from None
    print(f"the MLflow UI is at http://127.0.0.1:{port} in some seconds; Ctrl-C ends it", flush=True)
    command, environment = server_command(uri, port)
    os.execve(command[0], command, {**os.environ, **environment})
