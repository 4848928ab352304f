"""Ctrl-C, SIGTERM and SIGHUP, at moments at which Python drops exceptions."""

import os
import signal
import time
from typing import Any

import pytest

from glowctl.system.signals import Terminated, signals_as_interrupt


class StruckWhenCollected:
    """The signal arrives while Python runs the finalizer, whose exceptions it drops."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)
        for _ in range(1000):  # the handler runs between two instructions
            pass


@pytest.fixture(autouse=True)
def as_in_a_terminal():
    """SIGHUP has its default effect, also if nohup started the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def strike(number, passed):
    with signals_as_interrupt():
        struck = StruckWhenCollected(number)
        del struck
        passed.append("the finalizer")
        time.sleep(30)
        passed.append("the block")


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGHUP, Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_that_comes_during_a_finalizer_is_not_lost(number, error):
    passed: list[str] = []
    with pytest.raises(error):
        strike(number, passed)
    assert passed == ["the finalizer"]


def test_other_errors_of_finalizers_are_left_to_python(monkeypatch):
    seen: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", seen.append)

    class Broken:
        def __del__(self):
            raise ValueError("broken")

    with signals_as_interrupt():
        Broken()
    assert [type(each.exc_value) for each in seen] == [ValueError]
