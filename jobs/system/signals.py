"""The handling of Ctrl-C and SIGTERM, which end a command in the same way."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

__all__ = ["Terminated", "sigterm_as_interrupt"]

AGAIN_AFTER_S = 0.1
"""Seconds after which a signal is sent again whose exception Python has dropped."""


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

    def on_dropped(dropped: sys.UnraisableHookArgs) -> None:
        """Send the signal again if it came while a finalizer ran, because Python drops exceptions of finalizers."""
        if isinstance(dropped.exc_value, KeyboardInterrupt):
            again = signal.SIGTERM if terminated else signal.SIGINT
            threading.Timer(AGAIN_AFTER_S, os.kill, (os.getpid(), again)).start()
        else:
            hook(dropped)

    hook, sys.unraisablehook = sys.unraisablehook, on_dropped
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield lambda: None
    except KeyboardInterrupt as error:
        raise Terminated if terminated else error from None
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
