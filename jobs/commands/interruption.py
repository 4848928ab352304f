"""What a command prints, and its exit code, when Ctrl-C or SIGTERM ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from jobs.errors import INTERRUPTED, TERMINATED
from jobs.system.signals import Terminated, sigterm_as_interrupt

__all__ = ["interruptible"]


@contextmanager
def interruptible(said: str = "stopped") -> Iterator[None]:
    """End the command with a message and the usual exit code if Ctrl-C or SIGTERM interrupts the block.

    The exit code is 130 for Ctrl-C and 143 for SIGTERM, as shells expect. This also works if SIGINT was ignored when
    the command started. That is the case for a command that a script starts in the background.

    Args:
        said: the message.
    """
    try:
        with sigterm_as_interrupt():
            yield
    except KeyboardInterrupt as interrupt:
        typer.echo(f"glowctl: {said}", err=True)
        raise typer.Exit(TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED) from None
