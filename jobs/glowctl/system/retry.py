"""Repeated calls of functions that can fail for a while, such as those that need a server."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tenacity import Retrying, before_sleep_log, retry_if_exception, stop_after_delay, wait_fixed

log = logging.getLogger(__name__)


def patient(passes: Callable[[BaseException], bool], patience_s: float, every_s: float) -> Retrying:
    """Return an object that calls a given function, and repeats the call while the function raises certain errors.

    Args:
        passes: takes an error, and returns whether the call is repeated after this error. If not, the error is raised.
        patience_s: seconds since the first call after which no call is repeated and the last error is raised.
        every_s: seconds between two calls.

    Examples:
        >>> patient(lambda error: isinstance(error, OSError), patience_s=60, every_s=1)(len, "abc")
        3
    """
    return Retrying(
        retry=retry_if_exception(passes),
        stop=stop_after_delay(patience_s),
        wait=wait_fixed(every_s),
        before_sleep=before_sleep_log(log, logging.DEBUG),
        reraise=True,
    )
