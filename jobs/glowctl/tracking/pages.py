"""Iterators over the results of MLflow's searches, which MLflow returns in pages.

MLflow's databases hold the largest finite numbers in place of infinite metrics. Runs that are read here have infinity.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NEWEST_FIRST = "attributes.start_time DESC"
"""Order of runs, as MLflow's searches take it."""


LARGEST = 1.797e308
"""Lower bound of the magnitude that MLflow's databases hold in place of infinity."""


def unbounded(value: float) -> float:
    """Return infinity of the same sign if a recorded metric is a number that stands for it, and else the value itself.

    Examples:
        >>> unbounded(-1.7976931348623157e308), unbounded(3.5)
        (-inf, 3.5)
    """
    return math.copysign(math.inf, value) if abs(value) >= LARGEST else value


def with_infinities(run: Run) -> Run:
    """Return the run after its metrics were replaced by `unbounded` ones."""
    run.data.metrics.update({name: unbounded(value) for name, value in run.data.metrics.items()})
    return run


def every(search: Any, *arguments: Any, **named: Any) -> Iterator[Any]:
    """Yield the entries of all pages of a search. Each page is requested when it is needed.

    Args:
        search: a method of the MLflow client that takes `page_token`, such as `client.search_experiments`.
        *arguments: positional arguments of the search.
        **named: keyword arguments of the search.
    """
    token = None
    while True:
        page = search(*arguments, **named, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def every_run(
    client: MlflowClient,
    experiments: Collection[str],
    which: str = "",
    order: str = NEWEST_FIRST,
    page: int = 1000,
    deleted: bool = False,
) -> Iterator[Run]:
    """Yield the runs that match a filter, from the given experiments.

    Args:
        client: client of the store.
        experiments: ids of the experiments.
        which: a filter in MLflow's syntax, such as "tags.`glow.job` = 'train'"; all runs if empty.
        order: an order in MLflow's syntax.
        page: number of runs per request.
        deleted: whether to yield the runs in MLflow's trash too.
    """
    from mlflow.entities import ViewType

    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    found = every(client.search_runs, list(experiments), which, view, order_by=[order], max_results=page)
    return map(with_infinities, found)
