"""A cache of score tables (one score per image) in MLflow.

A table is stored as an artifact of the run that computed it, under a key that is derived from everything its scores
depend on: weights, images, seed, precision. Trainings and evaluations store tables; evaluations look them up.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from jobs.tracking import tag_names
from jobs.tracking.record import Record
from jobs.tracking.runs import find_tagged, read_table

if TYPE_CHECKING:
    from glow.model import Precision

VERSION = 2
"""Version of a score table's columns, which is part of the key, so that tables of other versions are not found."""


def key_of(
    model_digest: str,
    fingerprint: str,
    split: str,
    seed: int,
    precision: Precision,
    noise_samples: int = 1,
    gradient_stride: int = 0,
) -> str:
    """Return the key of a score table: a digest of everything that its scores depend on.

    Args:
        model_digest: digest of the model's weights and configuration.
        fingerprint: fingerprint of the images.
        split: the split of the images, such as "test".
        seed: seed of the dequantisation noise.
        precision: precision of the computation, such as "float32".
        noise_samples: number of noise samples per image.
        gradient_stride: n, if the table has the gradient norms of every n-th image; 0 if it has none.

    Example:
        >>> key_of("a1", "b2", "test", 0, "float32") == key_of("a1", "b2", "test", 1, "float32")
        False
    """
    parts = (
        VERSION,
        model_digest,
        fingerprint,
        split,
        seed,
        precision,
        *([noise_samples] if noise_samples > 1 else []),
        *([f"gradients/{gradient_stride}"] if gradient_stride else []),
    )
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:16]


def save_scores(key: str, table: pd.DataFrame, record: Record) -> None:
    """Store a score table as an artifact of a run, and tag the run so that `find_scores` finds it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{key}.parquet")
        table.to_parquet(path, index=False)
        record.file(path, "scores")
    record.tag(f"{tag_names.SCORES}.{key}", f"scores/{path.name}")


def find_scores(uri: str, experiment: str, key: str) -> tuple[pd.DataFrame, str] | None:
    """Return the score table with this key that a run of the experiment stored, and that run's id.

    The result is None if no run has stored such a table, or if the table is gone or damaged.

    Raises:
        TrackingError: if the store or the table cannot be reached.
    """
    found = find_tagged(uri, experiment, f"{tag_names.SCORES}.{key}")
    if found is None:
        return None
    run_id, path = found
    table = read_table(uri, run_id, path)
    return None if table is None else (table, run_id)


def labelled(table: pd.DataFrame, dataset: str, split: str) -> pd.DataFrame:
    """Return a score table with two leading columns, `dataset` and `split`, that identify the images."""
    table = table.drop(columns=["dataset", "split"], errors="ignore")
    table.insert(0, "dataset", dataset)
    table.insert(1, "split", split)
    return table
