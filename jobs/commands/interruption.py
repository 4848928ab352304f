"""What the user reads of a command that was interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from jobs.errors import INTERRUPTED, TERMINATED
from jobs.system.signals import Terminated

__all__ = ["interruptible"]


@contextmanager
def interruptible(address: str | None = None) -> Iterator[None]:
    """Ctrl-C and SIGTERM end a job of this machine's own with a sentence, and with the exit codes that shells expect.
    One on a cluster goes on."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        code = TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED
        gone_on = "; a job that was submitted goes on: see glowctl jobs" if address else ""
        typer.echo(f"glowctl: stopped{gone_on}", err=True)
        raise typer.Exit(code) from None
