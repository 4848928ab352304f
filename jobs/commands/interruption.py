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
    """Print a sentence and exit with the code that shells expect if Ctrl-C or SIGTERM ends the block.

    This also works if SIGINT was ignored when the command started, as for a command in the background of a script.

    Args:
        said: the sentence.
    """
    try:
        with sigterm_as_interrupt():
            yield
    except KeyboardInterrupt as interrupt:
        typer.echo(f"glowctl: {said}", err=True)
        raise typer.Exit(TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED) from None
