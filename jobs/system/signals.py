"""Ray's long calls, away from the main thread."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["Terminated", "in_a_thread", "sigterm_as_interrupt"]

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


class Terminated(KeyboardInterrupt):
    """SIGTERM came: as Ctrl-C, but the exit code says so."""


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[Callable[[], None]]:
    """SIGTERM ends what runs as Ctrl-C does, by KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    terminated = False

    def on_sigterm(number: int, frame: object) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt  # not by SIGINT, which Ray blocks in the jobs of a cluster

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield lambda: None
    except KeyboardInterrupt as error:
        raise Terminated if terminated else error from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
