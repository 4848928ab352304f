"""The handling of Ctrl-C, SIGTERM and SIGHUP, which end a command in the same way."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from glowctl.errors import INTERRUPTED

AGAIN_AFTER_S = 0.1
"""Seconds after which a signal is sent again whose exception Python has dropped."""


class Terminated(KeyboardInterrupt):
    """The error of a command that received SIGTERM or SIGHUP. The command ends as after Ctrl-C.

    Args:
        number: the signal, on which the exit code depends.

    Attributes:
        number: the argument `number`.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def exit_code_of(interrupt: KeyboardInterrupt) -> int:
    """Return the exit code of a command that was interrupted: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP.

    Examples:
        >>> exit_code_of(KeyboardInterrupt()), exit_code_of(Terminated(signal.SIGHUP))
        (130, 129)
    """
    return 128 + interrupt.number if isinstance(interrupt, Terminated) else INTERRUPTED


@contextlib.contextmanager
def signals_as_interrupt() -> Iterator[Callable[[], None]]:
    """Let SIGTERM and SIGHUP interrupt the block as Ctrl-C does; the block then raises `Terminated`.

    SIGHUP arrives when the terminal is closed or the connection to it is lost. It stays ignored if it is ignored
    already, as under nohup. In a thread other than the main one, the handling of signals stays as it is.

    The context manager yields a function that does nothing. `glowctl.ray_runtime.connection.connected` yields a
    function too, so that a caller can use either context manager in the same way.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    received: int | None = None

    def interrupt(number: int, frame: object) -> None:
        nonlocal received
        received = number
        if number == signal.SIGHUP:  # a closed terminal can send several, which must not interrupt the clean-up
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt  # not through SIGINT, which Ray blocks in the jobs of a cluster

    def on_dropped(dropped: sys.UnraisableHookArgs) -> None:
        """Send the signal again if it came while a finalizer ran, because Python drops exceptions of finalizers."""
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            hook(dropped)
            return
        again = signal.SIGINT if received is None else received
        if again == signal.SIGHUP:
            signal.signal(again, interrupt)
        threading.Timer(AGAIN_AFTER_S, os.kill, (os.getpid(), again)).start()

    hook, sys.unraisablehook = sys.unraisablehook, on_dropped
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, interrupt)
    if before[signal.SIGHUP] is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, interrupt)
    try:
        yield lambda: None
    except KeyboardInterrupt as error:
        raise error if received is None else Terminated(received) from None
    finally:
        sys.unraisablehook = hook
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # also if `interrupt` has set it
            del before[signal.SIGHUP]
        for number, handler in before.items():
            signal.signal(number, handler)
