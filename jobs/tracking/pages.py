"""What MLflow gives in pages, whole."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["NEWEST_FIRST", "every", "every_run"]

NEWEST_FIRST = "attributes.start_time DESC"


def every(search: Any, *arguments: Any, **named: Any) -> Iterator[Any]:
    """The entries of all pages of one of the client's searches, each page as it is needed."""
    token = None
    while True:
        page = search(*arguments, **named, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def every_run(
    client: MlflowClient, experiments: Collection[str], which: str = "", order: str = NEWEST_FIRST, page: int = 1000
) -> Iterator[Run]:
    """The runs of experiments of these ids that a filter lets through, `page` at a time."""
    return every(client.search_runs, list(experiments), which, order_by=[order], max_results=page)
