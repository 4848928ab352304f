"""What a command prints, and its exit code, when an error ends it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile

from jobs.errors import explained

__all__ = ["report_failure"]


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
        from jobs.display.displays import JsonLines
        from jobs.display.events import Failed

        with suppress(OSError):  # the program that read the events has closed the pipe
            JsonLines().show(Failed.by(shown))
    return shown.exit_code
