"""Reading of artifacts, any of which may be gone or damaged."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd

from jobs.report.blocks import Note
from jobs.tracking import read_artifact, read_table

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = ["Reader"]

Found = TypeVar("Found")


class Reader:
    """A reader of artifacts that collects a sentence about each one that is gone or damaged.

    In its methods, `what` completes the sentence "... is gone or damaged, so {what} cannot be shown". If `what` is
    None, the reader does not report the artifact, because the caller can use another one in its place.

    Args:
        uri: the store.

    Attributes:
        uri: the store.
        lost: the sentences so far.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.lost: list[str] = []
        self._told = 0

    def table(self, run: Run, name: str, what: str) -> pd.DataFrame | None:
        """Return the artifact NAME.parquet of a run as a table, or None if it is gone or damaged."""
        found = read_table(self.uri, run.info.run_id, f"{name}.parquet")
        return self._or_lost(found, run, f"{name}.parquet", what)

    def array(self, run: Run, name: str, what: str | None) -> np.ndarray | None:
        """Return an artifact of a run as an array, or None if it is gone or damaged."""
        content = read_artifact(self.uri, run.info.run_id, name)
        found = None
        if content is not None:
            try:
                found = np.load(io.BytesIO(content), allow_pickle=False)
            except (ValueError, EOFError, OSError):
                found = None
        return found if what is None else self._or_lost(found, run, name, what)

    def content(self, run: Run, name: str, what: str | None) -> bytes | None:
        """Return the content of an artifact of a run, or None if it is gone."""
        found = read_artifact(self.uri, run.info.run_id, name)
        return found if what is None else self._or_lost(found, run, name, what)

    def damaged(self, run: Run, name: str, what: str) -> None:
        """Report an artifact as gone or damaged."""
        self._or_lost(None, run, name, what)

    def _or_lost(self, found: Found | None, run: Run, name: str, what: str) -> Found | None:
        if found is None:
            self.lost.append(
                f"The artifact {name} of run {run.info.run_name} ({run.info.run_id}) is gone or damaged, so {what} "
                "cannot be shown."
            )
        return found

    def notes(self) -> list[Note]:
        """Return the sentences that were added since the last call."""
        new, self._told = self.lost[self._told :], len(self.lost)
        return [Note(sentence) for sentence in new]
