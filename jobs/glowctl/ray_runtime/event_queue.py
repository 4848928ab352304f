"""The queue of messages from workers to the driver, and the driver's threads that show and record them (`Channel`)."""

from __future__ import annotations

import pickle
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import ray
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from glowctl.system.retry import patient
from glowctl.tracking.uris import TrackingError

Message = TypeVar("Message")

POLL_S = 0.2
"""Seconds between two looks into the queue."""

RETRY_S = 5.0
"""Seconds after which a message that MLflow did not take is tried again."""

PATIENCE_AT_END_S = 180.0
"""Seconds for which the remaining messages are tried at the end."""


class Mailbox:
    """The queue, into which workers put messages and from which the driver takes them.

    Messages are stored as bytes, so that the process of the queue need not import their classes and thereby torch.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def put(self, message: Any) -> None:
        """Append a message."""
        self._queue.put(pickle.dumps(message))

    def take_all(self) -> list[Any]:
        """Remove and return all messages, the oldest first."""
        waiting = self._queue.size()
        return [pickle.loads(sent) for sent in self._queue.get_nowait_batch(waiting)] if waiting else []


def make_queue() -> Queue:
    """Make a queue on the driver's machine, so that the queue survives the loss of a worker's machine."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


class Channel(Generic[Message]):
    """A context manager that passes the messages of workers to two functions of the driver, in order.

    The two functions run in separate threads, so that an MLflow store that hangs does not delay what is shown. If
    `record` raises TrackingError, for example because the store does not answer, it is called again with the same
    message every `RETRY_S` seconds, while the workers continue. When the `with` block ends without an exception, this
    goes on for at most `PATIENCE_AT_END_S` seconds; then the TrackingError is raised. Any other error of the two
    functions is also raised when the block ends.

    Args:
        see: called once per message, as soon as the message arrives.
        record: called for each message after `see`, until it succeeds.

    Attributes:
        queue: the queue, for the workers. An actor holds it, which reserves no CPU and outlives the workers.
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
        """Handle the remaining messages; after an exception, do not wait for a store that is away."""
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
        """Record the pending messages; return the error of the first one that the store did not take, if any."""
        while self._pending and not self._left.is_set():
            try:
                self._record(self._pending[0])
            except TrackingError as error:
                return error
            self._pending.popleft()
        return None


def _is_absence(error: BaseException) -> bool:
    return isinstance(error, TrackingError)
