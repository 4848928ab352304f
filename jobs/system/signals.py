"""The handling of Ctrl-C and SIGTERM, which end a command in the same way."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

__all__ = ["Terminated", "sigterm_as_interrupt"]


class Terminated(KeyboardInterrupt):
    """The error of a command that received SIGTERM. The command ends as after Ctrl-C, but with another exit code."""


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[Callable[[], None]]:
    """Let SIGTERM interrupt the block as Ctrl-C does; the block then raises `Terminated`.

    In a thread other than the main one, the handling of signals stays as it is.

    The context manager yields a function that does nothing. `jobs.ray_runtime.connection.connected` yields a function
    too, so that a caller can use either context manager in the same way.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    terminated = False

    def on_sigterm(number: int, frame: object) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt  # not through SIGINT, which Ray blocks in the jobs of a cluster

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
