"""`glowctl ui` on a store."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.jobs.command_line import Running, free_port


@contextmanager
def served(uri: str, folder: Path) -> Iterator[str]:
    """The address of the UI of a store, as `glowctl ui` prints it."""
    port = free_port()
    ui = Running(folder, "ui", "--no-browser", "--port", str(port), "--tracking-uri", uri)
    try:
        ui.wait_for("the MLflow UI is at ")
        found = re.search(r"is at (\S+?);", ui.output.read_text())
        assert found is not None, ui.lines()
        yield found[1]
    finally:
        os.killpg(ui.process.pid, signal.SIGINT)
        ui.wait(20)
