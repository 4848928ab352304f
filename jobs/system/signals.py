"""Ray's long calls, away from the main thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["in_a_thread"]

Result = TypeVar("Result")


def in_a_thread(call: Callable[[], Result]) -> Result:
    """`call()`, with Ctrl-C as it should be.

    In the main thread Ray Train and Tune put handlers of their own in place, which wait for a cluster that may be gone,
    end in SystemExit, and stay. In any other they leave signals alone: KeyboardInterrupt comes here, and what runs on
    Ray ends with Ray.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="ray", daemon=True).start()
    return future.result()
