"""The way of a training's reports from Ray Train's controller to Ray Tune, for a trial of several workers.

Ray has `TuneReportCallback` for this. With it a trial can hang: the thread that takes the reports of a trial for Tune
also puts those of the controller into the queue that it takes them from, which holds one. If the trial itself has
just put its last report there, no thread is left to take it. Here a separate thread reports to Tune, and has ended
before the trial reports again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray import tune
from ray.train import Checkpoint, UserCallback
from ray.tune.integration.ray_train import CHECKPOINT_PATH_KEY
from ray.util.queue import Queue

from jobs.ray_runtime.event_queue import make_queue

__all__ = ["Forwarding", "forwarded"]


class Forwarding(UserCallback):
    """Puts the metrics of every report into a queue, with the path of the checkpoint as `CHECKPOINT_PATH_KEY`.

    Args:
        queue: the queue, which `forwarded` reads.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Put the metrics of rank 0 into the queue; Ray Train calls this in its controller."""
        path = {} if checkpoint is None else {CHECKPOINT_PATH_KEY: checkpoint.path}
        self._queue.put({**metrics[0], **path})


@contextmanager
def forwarded() -> Iterator[Forwarding]:
    """Yield a callback for a training of this trial, and report to Tune what it receives while the block runs.

    All of it has been reported when the block ends.
    """
    queue = make_queue()

    def forward() -> None:
        while (metrics := queue.get()) is not None:
            tune.report(metrics)

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    try:
        yield Forwarding(queue)
    finally:
        queue.put(None)
        thread.join()
