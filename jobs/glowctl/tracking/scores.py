"""A cache of score tables (one score per image) in MLflow.

A table is stored as an artifact of the run that computed it, under a key that is derived from everything its scores
depend on: weights, images, seed, precision. Trainings and evaluations store tables; evaluations look them up.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from glowctl.tracking import tag_names
from glowctl.tracking.record import Record
from glowctl.tracking.runs import child_runs, find_tagged, read_table

if TYPE_CHECKING:
    from glow.model import Precision
    from glowctl.tracking.runs import Run

VERSION = 2
"""Version of a score table's columns, which is part of the key, so that tables of other versions are not found."""

FOLDER = "scores"
"""Folder of the score tables among a run's artifacts."""


def key_of(
    model_digest: str,
    fingerprint: str,
    bits: int,
    split: str,
    seed: int,
    precision: Precision,
    noise_samples: int = 1,
    gradient_stride: int = 0,
) -> str:
    """Return the key of a score table, which contains everything that its scores depend on.

    The part before the first "-" is equal for all tables whose NLLs can be compared image by image: those of the same
    images and noise, under any model.

    Args:
        model_digest: digest of the model's weights and configuration.
        fingerprint: fingerprint of the images.
        bits: bits per value with which the model sees the images.
        split: the split of the images, such as "test".
        seed: seed of the dequantisation noise.
        precision: precision of the computation, such as "float32".
        noise_samples: number of noise samples per image.
        gradient_stride: n, if the table has the gradient norms of every n-th image; 0 if it has none.

    Examples:
        >>> key_of("a1", "b2", 8, "test", 0, "float32", noise_samples=4).partition("-")[2]
        'a1-noises4'
        >>> key_of("a1", "b2", 8, "test", 0, "float32") == key_of("a1", "b2", 8, "test", 1, "float32")
        False
    """
    images = hashlib.sha256(" ".join(map(str, (VERSION, fingerprint, bits, split, seed, precision))).encode())
    more = [f"noises{noise_samples}"] if noise_samples > 1 else []  # the NLL is that of the first noise
    more += [f"gradients{gradient_stride}"] if gradient_stride else []
    return "-".join([images.hexdigest()[:16], model_digest, *more])


def features_key(encoder_digest: str, fingerprint: str) -> str:
    """Return the key of a table of features, which depend on the encoder and the images alone, and not on a model.

    Examples:
        >>> features_key("e5", "b2").partition("-")[2]
        'e5'
    """
    images = hashlib.sha256(" ".join(("features", str(VERSION), fingerprint)).encode())
    return f"{images.hexdigest()[:16]}-{encoder_digest}"


def save_scores(key: str, table: pd.DataFrame, record: Record) -> None:
    """Store a score table as an artifact of a run, and tag the run so that `find_scores` finds it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{key}.parquet")
        table.to_parquet(path, index=False)
        record.file(path, FOLDER)
    record.tag(f"{tag_names.SCORES}.{key}", _path_of(key))


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


def tables_by_images(uri: str, run: Run) -> dict[str, tuple[str, str]]:
    """Return where the score tables of a run's model are.

    Args:
        uri: the store.
        run: a training, whose evaluations count too, or an evaluation. The tables of its background model do not count.

    Returns:
        The part of the key of a table that depends on the images -> the id of the run that has the table, and its path.
    """
    prefix = f"{tag_names.SCORES}."
    own = {name.removeprefix(prefix): run.info.run_id for name in run.data.tags if name.startswith(prefix)}
    model = run.data.tags.get(tag_names.MODEL_DIGEST) or next((key.split("-")[1] for key in own if "-" in key), None)
    tables = dict(own)
    for each in (run, *child_runs(uri, run)):
        tables |= json.loads(each.data.tags.get(tag_names.SCORED_BY, "{}"))
    found = {}
    for key, run_id in tables.items():
        images, _, scored = key.partition("-")
        if model is not None and scored.split("-")[0] == model:
            found[images] = run_id, _path_of(key)
    return found


def _path_of(key: str) -> str:
    return f"{FOLDER}/{key}.parquet"


def labelled(table: pd.DataFrame, dataset: str, split: str) -> pd.DataFrame:
    """Return a score table with two leading columns, `dataset` and `split`, that identify the images."""
    table = table.drop(columns=["dataset", "split"], errors="ignore")
    table.insert(0, "dataset", dataset)
    table.insert(1, "split", split)
    return table
