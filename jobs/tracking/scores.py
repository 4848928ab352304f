"""Score tables kept in MLflow: a table is found again by what its scores depend on."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from jobs.tracking import tag_names
from jobs.tracking.queries import find_tagged, read_table
from jobs.tracking.record import Record

if TYPE_CHECKING:
    from glow.model import Precision

__all__ = ["find_scores", "key_of", "labelled", "save_scores"]

VERSION = 2
"""The version of a score table's columns. A table of another version is not found."""


def key_of(
    model_digest: str, fingerprint: str, split: str, seed: int, precision: Precision, noise_samples: int = 1
) -> str:
    """The key of a score table: a digest of everything that its scores depend on."""
    parts = (
        VERSION,
        model_digest,
        fingerprint,
        split,
        seed,
        precision,
        *([noise_samples] if noise_samples > 1 else []),
    )
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:16]


def save_scores(key: str, table: pd.DataFrame, record: Record) -> None:
    """Saves a score table as an artifact of the run, where `find_scores` finds it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{key}.parquet")
        table.to_parquet(path, index=False)
        record.file(path, "scores")
    record.tag(f"{tag_names.SCORES}.{key}", f"scores/{path.name}")


def find_scores(uri: str, experiment: str, key: str) -> tuple[pd.DataFrame, str] | None:
    """The score table of this key that an earlier run of the experiment saved, and that run's id; None if none did."""
    found = find_tagged(uri, experiment, f"{tag_names.SCORES}.{key}")
    if found is None:
        return None
    run_id, path = found
    table = read_table(uri, run_id, path)
    return None if table is None else (table, run_id)


def labelled(table: pd.DataFrame, dataset: str, split: str) -> pd.DataFrame:
    """With columns that say what was scored."""
    table = table.drop(columns=["dataset", "split"], errors="ignore")
    table.insert(0, "dataset", dataset)
    table.insert(1, "split", split)
    return table
