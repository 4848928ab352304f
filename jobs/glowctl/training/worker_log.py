"""The warnings and errors of a worker, sent to the driver, which writes them into the log of the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from glowctl.system.verbosity import separate_loggers
from glowctl.training.messages import Logged, Outbox

MOST_ENTRIES = 1000
"""Largest number of entries that a worker sends, apart from tracebacks.

A warning in every step shall fill neither the queue nor the log.
"""


class Sender(logging.Handler):
    """Sends entries from the level WARNING on to the driver.

    Args:
        outbox: the queue to the driver.
        worker: what the entries begin with.
    """

    def __init__(self, outbox: Outbox, worker: str) -> None:
        super().__init__(logging.WARNING)
        self._outbox, self._worker, self._left = outbox, worker, MOST_ENTRIES

    def emit(self, record: logging.LogRecord) -> None:
        """Send an entry. If the driver has ended, the entry is lost."""
        if self._left > 0 or record.exc_info:
            self._left -= 1
            with suppress(Exception):
                self._outbox.put(Logged(f"{self._worker}: {self.format(record)}"))


@contextmanager
def logging_to(outbox: Outbox, worker: str) -> Iterator[None]:
    """Send the warnings of this process during the `with` block, and the traceback of an error that ends it.

    Args:
        outbox: the queue to the driver.
        worker: the name of this worker, with which each entry begins.
    """
    sender, loggers = Sender(outbox, worker), separate_loggers()
    for logger in loggers:
        logger.addHandler(sender)
    logging.captureWarnings(True)
    try:
        yield
    except Exception:
        logging.getLogger().error("the worker stops", exc_info=True)
        raise
    finally:
        logging.captureWarnings(False)
        for logger in loggers:
            logger.removeHandler(sender)
