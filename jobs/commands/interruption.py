"""What the user reads of a command that was interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from jobs.errors import INTERRUPTED, TERMINATED
from jobs.system.signals import Terminated, sigterm_as_interrupt

__all__ = ["interruptible"]


@contextmanager
def interruptible(said: str = "stopped") -> Iterator[None]:
    """Ends what runs meanwhile by Ctrl-C or SIGTERM, with this sentence and the exit code that shells expect.

    It does so also where a shell has started the command with SIGINT ignored, as a script's shell does with every
    command that it puts into the background.
    """
    try:
        with sigterm_as_interrupt():
            yield
    except KeyboardInterrupt as interrupt:
        typer.echo(f"glowctl: {said}", err=True)
        raise typer.Exit(TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED) from None
