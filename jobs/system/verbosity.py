"""What `--verbose` shows: why something was tried again, left out, or gone on without."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["VERBOSE", "is_verbose", "set_up_logging", "unheeded"]

VERBOSE = "GLOW_VERBOSE"
"""The variable that is not empty where much is to be said; the processes that a command starts inherit it."""

OURS = ("glow", "jobs")


def is_verbose() -> bool:
    """Whether much is to be said."""
    return bool(os.environ.get(VERBOSE))


def set_up_logging() -> None:
    """Shows what the modules of this project log, on standard error, if $GLOW_VERBOSE is set, and nothing of it if not.

    A second call adds nothing.
    """
    for name in OURS:
        logger = logging.getLogger(name)
        if is_verbose():
            shown = logging.StreamHandler()
            shown.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            logger.handlers = [shown]
            logger.setLevel(logging.DEBUG)
        elif not logger.handlers:
            logger.addHandler(logging.NullHandler())  # or Python itself would show warnings
        logger.propagate = not is_verbose()


@contextmanager
def unheeded(log: logging.Logger, what: str, *errors: type[Exception]) -> Iterator[None]:
    """Goes on after these errors (any, if none is named), whose reason is logged. `what` says what was not done."""
    passed = errors or (Exception,)
    try:
        yield
    except passed as error:
        log.debug("%s (%s: %s)", what, type(error).__name__, error, exc_info=True)
