"""The errors that end a command, the sentence that the user reads about each, and the exit codes.

Raise `JobError` where a job cannot run or cannot continue, and `SpecError` where a setting is wrong. `sentence_of` and
`code_of` turn any exception into what a command prints and into its exit code.
"""

from __future__ import annotations

import errno
import re
import tempfile
import traceback

from glow.errors import (
    ALL_IMAGES_ADVICE,
    DOWNLOAD_ADVICE,
    LEVELS,
    PER_CLASS,
    SHAPE_ADVICE,
    SIDES_ADVICE,
    SMALLER_ADVICE,
    UserError,
)

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
    "refused_by_disk",
    "sentence_of",
]

FAILURE, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143
"""Exit codes: something failed; the command line is wrong; ended by Ctrl-C; ended by SIGTERM."""

DISK_ERRORS = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("your quota of the disk is used up", "free some space"),
    errno.EROFS: ("the disk is read-only", "make it writable"),
}
"""Numbers of the errors of a disk that does not take a file -> what is wrong, and what to do about it."""

NUMPY_FULL = r"\d+ requested and \d+ written|Not enough free space"
"""Matches NumPy's errors on a full disk, which have no number."""


class JobError(UserError):
    """A reason why a job cannot run, or cannot continue."""


class SpecError(UserError, ValueError):
    """A wrong setting; the message contains its flag, its value and what is allowed."""

    exit_code = USAGE


def in_flags(message: str) -> str:
    """Replace what a message says of the library's arguments by the same of the command line's flags.

    Example:
        >>> in_flags("files of mnist are missing: load with download=True")
        'files of mnist are missing: leave out --no-download'
    """
    in_flags_of = {
        DOWNLOAD_ADVICE: "leave out --no-download",
        SHAPE_ADVICE: "pass --image-size, such as --image-size 32",
        SIDES_ADVICE: "pass an --image-size that is a multiple of",
        SMALLER_ADVICE: "pass a smaller --image-size",
        LEVELS: "--levels ",
        PER_CLASS: "--per-class ",
        ALL_IMAGES_ADVICE: "pass --per-class 0",
    }
    for advice, flags in in_flags_of.items():
        message = message.replace(advice, flags)
    return message


def code_of(error: Exception) -> int:
    """Return the exit code for an error: 2 if the command line is wrong, 1 if something failed."""
    return error.exit_code if isinstance(error, UserError) else FAILURE


def refused_by_disk(error: Exception) -> bool:
    """Return whether a disk did not take a file because it is full or read-only, or the user's quota is used up.

    Example:
        >>> refused_by_disk(OSError(errno.EDQUOT, "Disk quota exceeded"))
        True
        >>> refused_by_disk(FileNotFoundError(errno.ENOENT, "No such file or directory"))
        False
    """
    if not isinstance(error, OSError):
        return False
    return error.errno in DISK_ERRORS or (error.errno is None and bool(re.match(NUMPY_FULL, str(error))))


def sentence_of(error: Exception) -> str:
    """Return the sentence that the user reads about an error.

    The traceback of an unexpected error, which is probably a bug of glowctl, goes to a file that the sentence names.
    """
    if isinstance(error, UserError):
        return in_flags(str(error))
    if isinstance(error, OSError) and refused_by_disk(error):
        problem, remedy = DISK_ERRORS[error.errno or errno.ENOSPC]
        return f"{problem} ({error}): {remedy}, or choose another disk with --output"
    problem = f"unexpected error ({type(error).__name__}: {error})"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="glowctl-", suffix=".log", delete=False) as log:
            traceback.print_exception(error, file=log)
    except OSError as reason:
        return f"{problem}, whose traceback could not be written ({reason.strerror}): please report it"
    return f"{problem}: please report it, with its traceback in {log.name}"
