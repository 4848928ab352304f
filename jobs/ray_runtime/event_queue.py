"""From workers to the driver: a queue of messages, and the threads that hand them to two functions one by one."""

from __future__ import annotations

import pickle
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import ray
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.system.retry import patient
from jobs.tracking import TrackingError

__all__ = ["Channel"]

Message = TypeVar("Message")

POLL_S = 0.2
RETRY_S = 5.0
PATIENCE_AT_END_S = 180.0


class Mailbox:
    """What a worker puts messages into. The queue has them as bytes, so that its process need not import their
    classes, and torch with them."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def put(self, message: Any) -> None:
        self._queue.put(pickle.dumps(message))

    def take_all(self) -> list[Any]:
        waiting = self._queue.size()
        return [pickle.loads(sent) for sent in self._queue.get_nowait_batch(waiting)] if waiting else []


def make_queue() -> Queue:
    """On this machine: it must be there still when a worker's is cut off."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


class Channel(Generic[Message]):
    """A context manager. `queue` goes to the worker; `see` and `record` are called in threads of the driver.

    `see` is called once for each message, as it comes. `record` follows in a thread of its own, since a store that
    hangs must not hold up what is shown, and may raise TrackingError while the store is away: the message is kept and
    tried again, in order, and training goes on meanwhile; at the end it is tried for `PATIENCE_AT_END_S`, then the
    error is raised.
    Any other error is raised at the end. The queue is an actor with no CPU of its own; it survives the workers.
    """

    def __init__(self, see: Callable[[Message], None], record: Callable[[Message], None]) -> None:
        self.queue = Mailbox(make_queue())
        self._see, self._record = see, record
        self._pending: deque[Message] = deque()
        self._closing, self._taken, self._left = threading.Event(), threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._take_all, self._record_all)]
        self._error: BaseException | None = None

    def __enter__(self) -> Channel[Message]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Handles what is left. After an interrupt it does not wait for a store that is away."""
        self._closing.set()
        for thread in self._threads:
            thread.join(POLL_S + RETRY_S if kind is not None else None)
        self._left.set()
        if self._error is not None and kind is None:
            raise self._error

    def _take_all(self) -> None:
        try:
            while not self._closing.wait(POLL_S):
                self._take()
            self._take()
        except Exception as error:  # raised in the main thread, by __exit__
            self._error = error
        finally:
            self._taken.set()

    def _record_all(self) -> None:
        try:
            while not self._taken.wait(POLL_S if self._record_pending() is None else RETRY_S):
                continue
            patient(_is_absence, PATIENCE_AT_END_S, RETRY_S)(self._record_rest)
        except Exception as error:
            self._error = self._error or error

    def _take(self) -> None:
        for message in self.queue.take_all():
            self._see(message)
            self._pending.append(message)

    def _record_rest(self) -> None:
        error = self._record_pending()
        if error is not None:
            raise error

    def _record_pending(self) -> TrackingError | None:
        """Records what is pending; the error of the first message that the store would not take."""
        while self._pending and not self._left.is_set():
            try:
                self._record(self._pending[0])
            except TrackingError as error:
                return error
            self._pending.popleft()
        return None


def _is_absence(error: BaseException) -> bool:
    return isinstance(error, TrackingError)
