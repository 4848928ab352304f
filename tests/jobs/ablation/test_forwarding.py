"""The reports of a trial of several workers, between Ray Train's controller and Ray Tune. No Ray."""

import threading
import time
from queue import Queue

import pytest

from glowctl.ablation import trial as forwarding
from glowctl.ablation.trial import forwarded


@pytest.fixture
def reported(monkeypatch):
    """What Tune got: the metrics, and the name of the thread that reported them. Tune takes its time."""
    found = []

    def report(metrics):
        time.sleep(0.05)
        found.append((metrics, threading.current_thread().name))

    monkeypatch.setattr(forwarding, "make_queue", Queue)
    monkeypatch.setattr(forwarding.tune, "report", report)
    return found


def test_everything_is_reported_in_order_before_the_block_ends(reported):
    with forwarded() as callback:
        callback.after_report(None, [{"epoch": 1}, {"epoch": 99}], None)
        callback.after_report(None, [{"epoch": 2}], None)
    assert [metrics for metrics, _ in reported] == [{"epoch": 1}, {"epoch": 2}]
    assert threading.current_thread().name not in {name for _, name in reported}


def fails_after_a_report():
    with forwarded() as callback:
        callback.after_report(None, [{"epoch": 1}], None)
        raise ValueError("the training failed")


def test_a_training_that_fails_has_reported_what_it_did(reported):
    with pytest.raises(ValueError, match="the training failed"):
        fails_after_a_report()
    assert len(reported) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is how Tune ends a thread
def test_a_trial_that_tune_stops_waits_for_nobody(monkeypatch):
    """Tune ends the thread that reports to a trial which it has stopped."""
    monkeypatch.setattr(forwarding, "make_queue", Queue)

    def stopped(metrics):
        raise SystemExit

    monkeypatch.setattr(forwarding.tune, "report", stopped)
    with forwarded() as callback:
        for epoch in range(3):
            callback.after_report(None, [{"epoch": epoch}], None)
