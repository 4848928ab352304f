"""How a command ends: by an error, by Ctrl-C or another signal, or because no program reads its output any more."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from typing import Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from glowctl.errors import SpecError, explained
from glowctl.specs.base import expected
from glowctl.system.signals import exit_code_of, signals_as_interrupt

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


def report_failure(error: Exception, arguments: Sequence[str]) -> int:
    """Print a sentence about an error on standard error, and with ``--json`` an event on standard output.

    Args:
        error: the error that ended the command.
        arguments: the command line without the program. An error may come before the command line is parsed, so this
            function looks for ``--json`` itself.

    Returns:
        The exit code of the command.
    """
    shown = explained(error)
    print(f"glowctl: {shown}", file=sys.stderr)
    if "--json" in takewhile(lambda argument: argument != "--", arguments):
        from glowctl.display.displays import JsonLines
        from glowctl.display.events import Failed

        with suppress(OSError):  # the program that read the events has closed the pipe
            JsonLines().show(Failed.by(shown))
    return shown.exit_code


def usage_error(error: Exception) -> SpecError | None:
    """Return Typer's error about a command line as a SpecError; None for an error that is not Typer's.

    The sentence names the flag or argument and, if its value is wrong, the value and what is allowed.
    """
    if not hasattr(error, "format_message"):
        return None
    path = getattr(getattr(error, "ctx", None), "command_path", "glowctl")
    said, cause = str(error.format_message()).rstrip("."), error.__cause__
    if isinstance(cause, ValidationError):  # as Typer reads values with pydantic; its text lacks the value
        name = said.partition(": ")[0].removeprefix("Invalid value for ").strip("'")
        said = f"{name} {_allowed(cause.errors()[0])}"
    return SpecError(
        said[:1].lower() + said[1:],
        remedy=f"see {path} --help",
        code="setting-not-allowed" if isinstance(error, typer.BadParameter) else "wrong-command-line",
    )


def _allowed(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "value_error":  # of Typer's own reading, such as that of a choice
        value, _, allowed = str(problem["ctx"]["error"]).rstrip(".").partition(" is not one of ")
        return f"must be one of {allowed}, not {value}" if allowed else f"is wrong: {value}"
    return f"must be {expected(problem)}, not {problem['input']!r}"
