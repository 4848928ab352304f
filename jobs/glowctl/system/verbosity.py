"""The logging of `--verbose`: why something was tried again, left out, or skipped after an error."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

VERBOSE = "GLOW_VERBOSE"
"""The environment variable that is set by `--verbose`; the processes that a command starts inherit it."""

OURS = ("glow", "glowctl")
"""The packages whose logs are shown."""

LIBRARIES = ("mlflow", "ray", "ray.data", "torch")
"""The loggers of libraries that may not pass their entries to the root logger."""


def is_verbose() -> bool:
    """Return whether $GLOW_VERBOSE is set and not empty."""
    return bool(os.environ.get(VERBOSE))


def set_up_logging() -> None:
    """Show the logs of this project's modules on standard error if $GLOW_VERBOSE is set; hide them otherwise.

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
            logger.addHandler(logging.NullHandler())  # without a handler, Python itself would show warnings
        logger.propagate = not is_verbose()


def separate_loggers() -> list[logging.Logger]:
    """Return the root logger, and the loggers of libraries that pass their entries to handlers of their own alone."""
    named = map(logging.getLogger, (*OURS, *LIBRARIES))
    return [logging.getLogger(), *(logger for logger in named if not logger.propagate)]


@contextmanager
def unheeded(log: logging.Logger, what: str, *errors: type[Exception]) -> Iterator[None]:
    """Suppress errors in the block, and log them.

    Args:
        log: the logger.
        what: a clause for the log that says what failed, such as "cannot list the artifacts".
        errors: the classes of errors to suppress; if none is given, all are suppressed.
    """
    passed = errors or (Exception,)
    try:
        yield
    except passed as error:
        log.debug("%s (%s: %s)", what, type(error).__name__, error, exc_info=True)
