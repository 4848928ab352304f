"""The reader of the artifacts that a report shows, any of which may be gone or damaged."""

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
    """A reader of artifacts that collects a sentence about each one that is gone or damaged, and other such sentences.

    In its methods, `what` completes the sentence "... is gone or damaged, so {what} cannot be shown". If `what` is
    None, the reader does not report the artifact, because the caller can use another one in its place.

    Args:
        uri: address of the MLflow store.

    Attributes:
        uri: the argument `uri`.
        lost: all sentences that were collected so far.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.lost: list[str] = []
        self._told = 0

    def table(self, run: Run, name: str, what: str | None) -> pd.DataFrame | None:
        """Return the artifact NAME.parquet of a run as a table.

        If the artifact is gone or damaged, return None, and report that `what` cannot be shown if `what` is not None.
        """
        found = read_table(self.uri, run.info.run_id, f"{name}.parquet")
        return found if what is None else self._or_lost(found, run, f"{name}.parquet", what)

    def array(self, run: Run, name: str, what: str | None) -> np.ndarray | None:
        """Return the artifact `name` of a run, a .npy file, as an array.

        If the artifact is gone or damaged, return None, and report that `what` cannot be shown if `what` is not None.
        """
        content = read_artifact(self.uri, run.info.run_id, name)
        found = None
        if content is not None:
            try:
                found = np.load(io.BytesIO(content), allow_pickle=False)
            except (ValueError, EOFError, OSError):
                found = None
        return found if what is None else self._or_lost(found, run, name, what)

    def content(self, run: Run, name: str, what: str | None) -> bytes | None:
        """Return the content of the artifact `name` of a run.

        If the artifact is gone, return None, and report that `what` cannot be shown if `what` is not None.
        """
        found = read_artifact(self.uri, run.info.run_id, name)
        return found if what is None else self._or_lost(found, run, name, what)

    def damaged(self, run: Run, name: str, what: str) -> None:
        """Report that the artifact `name` of a run is gone or damaged, so that `what` cannot be shown."""
        self._or_lost(None, run, name, what)

    def lacks(self, sentence: str) -> None:
        """Report, in a sentence with a full stop, that the record of a run is incomplete."""
        self.lost.append(sentence)

    def _or_lost(self, found: Found | None, run: Run, name: str, what: str) -> Found | None:
        if found is None:
            self.lost.append(
                f"The artifact {name} of run {run.info.run_name} ({run.info.run_id}) is gone or damaged, so {what} "
                "cannot be shown."
            )
        return found

    def notes(self) -> list[Note]:
        """Return the sentences that the reader has collected since the last call of this method."""
        new, self._told = self.lost[self._told :], len(self.lost)
        return [Note(sentence) for sentence in new]
