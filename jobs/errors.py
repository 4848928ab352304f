"""What ends a job with a sentence for the user in place of a traceback, and the exit codes."""

from __future__ import annotations

import errno
import tempfile
import traceback

from glow.errors import DOWNLOAD_ADVICE, SHAPE_ADVICE, SIDES_ADVICE, SMALLER_ADVICE, UserError

__all__ = [
    "FAILURE",
    "INTERRUPTED",
    "TERMINATED",
    "USAGE",
    "JobError",
    "SpecError",
    "UserError",
    "code_of",
    "in_flags",
    "sentence_of",
]

FAILURE, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143


class JobError(UserError):
    """The job cannot run, or cannot go on."""


class SpecError(UserError, ValueError):
    """A setting that cannot be; the message names it and says what is allowed."""

    exit_code = USAGE


def in_flags(message: str) -> str:
    """A sentence of the library about data, in the words of the command line."""
    in_flags_of = {
        DOWNLOAD_ADVICE: "leave out --no-download",
        SHAPE_ADVICE: "pass --image-size, such as --image-size 32",
        SIDES_ADVICE: "pass an --image-size that is a multiple of",
        SMALLER_ADVICE: "pass a smaller --image-size",
    }
    for advice, flags in in_flags_of.items():
        message = message.replace(advice, flags)
    return message


def code_of(error: Exception) -> int:
    """The exit code: 2 for what was asked wrongly, 1 for what failed."""
    return error.exit_code if isinstance(error, UserError) else FAILURE


def sentence_of(error: Exception) -> str:
    """What the user reads of an error. The traceback of one that nobody foresaw goes to a file."""
    if isinstance(error, UserError):
        return in_flags(str(error))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full ({error}): free some space, or choose another --output"
    said = f"an error that glowctl does not know ({type(error).__name__}: {error})"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="glowctl-", suffix=".log", delete=False) as log:
            traceback.print_exception(error, file=log)
    except OSError as reason:
        return f"{said}; its traceback could not be written ({reason.strerror}): --verbose shows more"
    return f"{said}; its traceback is in {log.name}"
