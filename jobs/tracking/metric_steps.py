"""Which steps of its metrics a run has, so that none is written twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Lock

__all__ = ["MetricSteps"]


class MetricSteps:
    """The steps of each metric of one run.

    `ask` gives the steps of a metric that the store has. A `new` run has none, and nobody else writes to it, so that
    the store is asked only after a write that failed: it may have been carried out all the same.
    """

    def __init__(self, ask: Callable[[str], Iterable[int]], new: bool) -> None:
        self._ask, self._new = ask, new
        self._known: dict[str, set[int]] = {}
        self._doubted: set[str] = set()
        self._lock = Lock()

    def of(self, name: str) -> set[int]:
        """The steps of a metric. Raises what `ask` raises."""
        with self._lock:
            if name not in self._known:
                known_empty = self._new and name not in self._doubted
                self._known[name] = set() if known_empty else set(self._ask(name))
                self._doubted.discard(name)
            return self._known[name]

    def without(self, names: Iterable[str], step: int) -> list[str]:
        """Those of these metrics that lack a step. Raises what `ask` raises."""
        return [name for name in names if step not in self.of(name)]

    def add(self, names: Iterable[str], step: int) -> None:
        """Says that a step was written."""
        for name in names:
            self.of(name).add(step)

    def doubt(self, names: Iterable[str]) -> None:
        """Says that a write failed: the store is asked again before the next one."""
        with self._lock:
            for name in names:
                self._known.pop(name, None)
                self._doubted.add(name)
