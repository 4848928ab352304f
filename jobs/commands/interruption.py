"""What a command prints, and its exit code, when Ctrl-C, SIGTERM or SIGHUP ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer
from typer.core import TyperGroup

from jobs.commands.closed_output import quiet_if_unread
from jobs.system.signals import exit_code_of, signals_as_interrupt

__all__ = ["InterruptibleGroup", "interruptible"]


@contextmanager
def interruptible(said: str = "stopped") -> Iterator[None]:
    """End the command with a message and the usual exit code if Ctrl-C, SIGTERM or SIGHUP interrupts the block.

    The exit code is 130 for Ctrl-C, 143 for SIGTERM and 129 for SIGHUP, as shells expect. This also works if SIGINT was
    ignored when the command started. That is the case for a command that a script starts in the background.

    Args:
        said: the message.
    """
    try:
        with signals_as_interrupt():
            yield
    except KeyboardInterrupt as interrupt:
        with suppress(OSError):  # SIGHUP: the terminal is gone
            typer.echo(f"glowctl: {said}", err=True)
        raise typer.Exit(exit_code_of(interrupt)) from None


class InterruptibleGroup(TyperGroup):
    """A command line whose commands are all `interruptible`, and end quietly if nothing reads their output any more.

    A command that prints another message when it is interrupted does so itself.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was given."""
        with quiet_if_unread(), interruptible():
            return super().invoke(ctx)
