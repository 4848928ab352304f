"""Tests of the way of events from rank 0 to the record, with a queue in this process instead of Ray's."""

import queue
import threading
from typing import Any

import pytest

from glowctl.ray_runtime import event_queue as module
from glowctl.ray_runtime.event_queue import Channel
from glowctl.tracking.uris import TrackingError
from tests.jobs.command_line import wait_until


class LocalQueue(queue.Queue):
    def size(self) -> int:
        return self.qsize()

    def get_nowait_batch(self, n: int) -> list:
        return [self.get_nowait() for _ in range(n)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "make_queue", LocalQueue)
    monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setattr(module, "RETRY_S", 0.05)


def test_every_event_is_seen_and_recorded_once_and_in_order():
    seen: list[Any] = []
    recorded: list[Any] = []
    with Channel(seen.append, recorded.append) as channel:
        for number in range(100):
            channel.queue.put({"event": "epoch", "number": number})
    assert [event["number"] for event in seen] == list(range(100))
    assert recorded == seen


def test_what_a_store_that_is_away_missed_is_recorded_when_it_is_back():
    seen: list[Any] = []
    recorded, back = [], threading.Event()

    def record(event):
        if not back.is_set():
            raise TrackingError("away")
        recorded.append(event["number"])

    with Channel(seen.append, record) as channel:
        for number in range(5):
            channel.queue.put({"event": "epoch", "number": number})
        wait_until(lambda: len(seen) == 5)  # shown although it cannot be recorded
        assert recorded == []
        back.set()
    assert recorded == list(range(5))


def test_a_store_that_stays_away_is_said_at_the_end(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_AT_END_S", 0.2)

    def record(event):
        raise TrackingError("away for good")

    with pytest.raises(TrackingError, match="away for good"), Channel(lambda event: None, record) as channel:
        channel.queue.put({"event": "epoch"})


def test_an_error_of_the_training_is_not_hidden_by_one_of_the_store(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_AT_END_S", 0.2)

    def record(event):
        raise TrackingError("away")

    def interrupted() -> None:
        with Channel(lambda event: None, record) as channel:
            channel.queue.put({"event": "epoch"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
