"""Trying again what may only be away for a while."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tenacity import Retrying, before_sleep_log, retry_if_exception, stop_after_delay, wait_fixed

__all__ = ["patient"]

log = logging.getLogger(__name__)


def patient(passes: Callable[[BaseException], bool], patience_s: float, every_s: float) -> Retrying:
    """Calls a function again every so many seconds while it raises what `passes`; the last error is raised when
    patience is at its end.

    Example:
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
