"""What ends a job with a sentence for the user in place of a traceback, and the exit codes."""

from __future__ import annotations

import errno
import tempfile
import traceback

__all__ = ["FAILURE", "INTERRUPTED", "TERMINATED", "USAGE", "JobError", "code_of", "in_flags", "sentence_of"]

FAILURE, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143

# By name, so that the command line need not import torch or ray to know them. Their messages are for users.
FOR_USERS = {
    "CheckpointError",
    "DatasetCorrupt",
    "DatasetNotFound",
    "JobError",
    "SpecError",
    "TrackingError",
    "TrainingDiverged",
}


class JobError(Exception):
    """The job cannot run, or cannot go on; the message is one sentence that says why and what to do."""


def in_flags(message: str) -> str:
    """A sentence of the library about data, in the words of the command line."""
    from glow.datasets import DOWNLOAD_ADVICE

    return message.replace(DOWNLOAD_ADVICE, "leave out --no-download")


def code_of(error: Exception) -> int:
    """2 for what was asked wrongly, 1 for what failed."""
    return USAGE if type(error).__name__ == "SpecError" else FAILURE


def sentence_of(error: Exception) -> str:
    """What the user reads of an error. The traceback of one that nobody foresaw goes to a file."""
    name = type(error).__name__
    if any(kind.__name__ in FOR_USERS for kind in type(error).__mro__):
        return in_flags(str(error)) if name.startswith("Dataset") else str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full ({error}): free some space, or choose another --output"
    with tempfile.NamedTemporaryFile("w", prefix="glowctl-", suffix=".log", delete=False) as log:
        traceback.print_exception(error, file=log)
    return f"an error that glowctl does not know ({name}: {error}); its traceback is in {log.name}"
