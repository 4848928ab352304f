"""The end of a command whose output no program reads any more, such as ``glowctl runs | head -1``."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from jobs.errors import explained

__all__ = ["drop_unread", "quiet_if_unread"]

UNREAD = 128 + signal.SIGPIPE
"""Exit code that shells give a program that has written to a pipe without a reader."""


@contextmanager
def quiet_if_unread() -> Iterator[None]:
    """End the command with the exit code 141, and without a message, if the reader of its output has closed the pipe.

    Any other BrokenPipeError is raised as a `UserError`, because Typer would end the command without a message.
    """
    try:
        yield
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):  # with it, rich ends a command that prints a table
            raise
        raise typer.Exit(UNREAD) from None
    except BrokenPipeError as error:
        if not _is_unread():
            raise explained(error) from error
        raise typer.Exit(UNREAD) from None


def drop_unread() -> None:
    """Drop what was printed but cannot be written, because Python would report it as an error when it ends."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None if it was closed from the start
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except OSError:  # such as that of a full disk, which Python should report
            pass


def _is_unread() -> bool:
    """Return whether standard output or standard error is a pipe that its reader has closed."""
    outputs = select.poll()
    for number in (1, 2):
        outputs.register(number, 0)
    return any(found & (select.POLLERR | select.POLLHUP) for _, found in outputs.poll(0))
