"""Artifacts of runs, any of which may be gone."""

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
    """Reads artifacts, and keeps a sentence about each that is gone or damaged."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.lost: list[str] = []
        self._told = 0

    def table(self, run: Run, name: str, what: str) -> pd.DataFrame | None:
        """The Parquet artifact NAME.parquet; `what` is what cannot be shown without it."""
        found = read_table(self.uri, run.info.run_id, f"{name}.parquet")
        return self._or_lost(found, run, f"{name}.parquet", what)

    def array(self, run: Run, name: str, what: str | None) -> np.ndarray | None:
        """An array of images; None for `what` where something else may do."""
        content = read_artifact(self.uri, run.info.run_id, name)
        found = None
        if content is not None:
            try:
                found = np.load(io.BytesIO(content), allow_pickle=False)
            except (ValueError, EOFError, OSError):
                found = None
        return found if what is None else self._or_lost(found, run, name, what)

    def content(self, run: Run, name: str, what: str | None) -> bytes | None:
        found = read_artifact(self.uri, run.info.run_id, name)
        return found if what is None else self._or_lost(found, run, name, what)

    def damaged(self, run: Run, name: str, what: str) -> None:
        """An artifact that turned out not to be what it should."""
        self._or_lost(None, run, name, what)

    def _or_lost(self, found: Found | None, run: Run, name: str, what: str) -> Found | None:
        if found is None:
            self.lost.append(
                f"The artifact {name} of run {run.info.run_name} ({run.info.run_id}) is gone or damaged, so {what} "
                "cannot be shown."
            )
        return found

    def notes(self) -> list[Note]:
        """What was lost since the last call."""
        new, self._told = self.lost[self._told :], len(self.lost)
        return [Note(sentence) for sentence in new]
