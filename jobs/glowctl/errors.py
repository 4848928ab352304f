"""The errors that end a command, what the user reads about each, and the exit codes.

Raise `JobError` where a job cannot run or cannot continue, and `SpecError` where a setting is wrong. `explained` turns
any exception into one of them, whose sentence, code and exit code a command shows.
"""

from __future__ import annotations

import errno
import re
import tempfile
import traceback

from glow.errors import (
    ALL_IMAGES_ADVICE,
    DOWNLOAD_ADVICE,
    ENCODER_ADVICE,
    LEVELS,
    PER_CLASS,
    SHAPE_ADVICE,
    SIDES_ADVICE,
    SMALLER_ADVICE,
    WEIGHTS_ADVICE,
    UserError,
)

FAILURE, USAGE, STRANGE, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143
"""Exit codes: something failed; the command line is wrong; images do not belong; ended by Ctrl-C; ended by SIGTERM."""

DISK_ERRORS = {
    errno.ENOSPC: ("the disk is full", "free some space", "disk-full"),
    errno.EDQUOT: ("your quota of the disk is used up", "free some space", "disk-quota"),
    errno.EROFS: ("the disk is read-only", "make it writable", "disk-read-only"),
}
"""Numbers of the errors of a disk that does not take a file -> what is wrong, what to do about it, and the code."""

NUMPY_FULL = r"\d+ requested and \d+ written|Not enough free space"
"""Matches NumPy's errors on a full disk, which have no number."""


class JobError(UserError):
    """A reason why a job cannot run, or cannot continue."""


class SpecError(UserError, ValueError):
    """A wrong setting; the message contains its flag, its value and what is allowed."""

    exit_code = USAGE


def in_flags(message: str) -> str:
    """Replace what a message says of the library's arguments by the same of the command line's flags.

    Examples:
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
        ENCODER_ADVICE: "add --encoder-download, or --encoder-weights FILE",
        WEIGHTS_ADVICE: "--encoder-weights",
    }
    for advice, flags in in_flags_of.items():
        message = message.replace(advice, flags)
    return message


def refused_by_disk(error: Exception) -> bool:
    """Return whether a disk did not take a file because it is full or read-only, or the user's quota is used up.

    Examples:
        >>> refused_by_disk(OSError(errno.EDQUOT, "Disk quota exceeded"))
        True
        >>> refused_by_disk(FileNotFoundError(errno.ENOENT, "No such file or directory"))
        False
    """
    if not isinstance(error, OSError):
        return False
    return error.errno in DISK_ERRORS or (error.errno is None and bool(re.match(NUMPY_FULL, str(error))))


def explained(error: Exception) -> UserError:
    """Return an error as one that is shown to the user: in words of the command line, with a code and an exit code.

    The traceback of an unexpected error, which is probably a bug of glowctl, goes to a file that the remedy names.

    Examples:
        >>> shown = explained(OSError(errno.ENOSPC, "No space left on device"))
        >>> shown.code, shown.exit_code, shown.remedy
        ('disk-full', 1, 'free some space, or choose another disk with --output')
    """
    if isinstance(error, UserError):
        kind = SpecError if error.exit_code == USAGE else JobError
        return kind(in_flags(error.problem), remedy=in_flags(error.remedy), code=error.code)
    if isinstance(error, OSError) and refused_by_disk(error):
        problem, remedy, code = DISK_ERRORS[error.errno or errno.ENOSPC]
        return JobError(f"{problem} ({error})", remedy=f"{remedy}, or choose another disk with --output", code=code)
    return _unexpected(error)


def _unexpected(error: Exception) -> JobError:
    problem, remedy = f"unexpected error ({type(error).__name__}: {error})", "please report it"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="glowctl-", suffix=".log", delete=False) as log:
            traceback.print_exception(error, file=log)
        remedy += f", with its traceback in {log.name}"
    except OSError as reason:
        problem += f", whose traceback could not be written ({reason.strerror})"
    return JobError(problem, remedy=remedy, code="unexpected-error")
