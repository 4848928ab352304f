"""A cache of the steps that each metric of a run already has in MLflow, so that no step is written twice.

MLflow appends every value that it receives. A training that resumes, or repeats a write whose answer was lost, would
otherwise leave two points at one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Lock

__all__ = ["MetricSteps"]


class MetricSteps:
    """The steps of each metric of one run, or of each series of images, cached.

    The cache is valid because no other process writes to the run. The store is asked for the steps of a metric when
    they are first needed, but not for a new run, which has no steps. After a failed write the store is asked in any
    case, because the write may have succeeded although its answer was lost.

    Args:
        ask: takes the name of a metric, and returns the steps at which the store has a value of the metric.
        new: whether the run was created just now.

    Example:
        >>> steps = MetricSteps(lambda name: [1, 2], new=False)
        >>> steps.without(["loss"], 2), steps.without(["loss"], 3)
        ([], ['loss'])
    """

    def __init__(self, ask: Callable[[str], Iterable[int]], new: bool) -> None:
        self._ask, self._new = ask, new
        self._known: dict[str, set[int]] = {}
        self._doubted: set[str] = set()
        self._lock = Lock()

    def of(self, name: str) -> set[int]:
        """Return the steps at which the run has a value of the metric `name`. Errors of `ask` are passed on."""
        with self._lock:
            if name not in self._known:
                known_empty = self._new and name not in self._doubted
                self._known[name] = set() if known_empty else set(self._ask(name))
                self._doubted.discard(name)
            return self._known[name]

    def without(self, names: Iterable[str], step: int) -> list[str]:
        """Return the metrics among `names` that have no value at this step. Errors of `ask` are passed on."""
        return [name for name in names if step not in self.of(name)]

    def add(self, names: Iterable[str], step: int) -> None:
        """Add a step to the cache, after values of these metrics were written at this step."""
        for name in names:
            self.of(name).add(step)

    def doubt(self, names: Iterable[str]) -> None:
        """Drop these metrics from the cache after a failed write, so that the store is asked before the next write."""
        with self._lock:
            for name in names:
                self._known.pop(name, None)
                self._doubted.add(name)
