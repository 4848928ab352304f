"""The publication of a finished training's model: it is logged in MLflow and registered, and its scores are recorded.

The scores of the training and validation images are what the model judges new images by (`glow.ood.Calibration`), with
``--encoder`` their features too. Both are also recorded where `glowctl ood` finds them, so that they are computed once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from glow.checkpoint import digest_of, load_checkpoint
from glow.datasets.corruptions import CORRUPTED, for_recommendation
from glow.features import features_in, features_table, with_distances
from glow.ood.check import Calibration
from glow.scoring import SHARD, score_shard, shards_of
from glowctl.run_labels import registered_name
from glowctl.text import bits
from glowctl.tracking import tag_names
from glowctl.tracking.models import SCORES_FILE, save_model
from glowctl.tracking.record import Record
from glowctl.tracking.scores import features_key, find_scores, key_of, labelled, save_scores
from glowctl.training.content import references_among

if TYPE_CHECKING:
    from glow.datasets import LazyDataset
    from glow.encoders import Encoder
    from glowctl.training.prepare import Work

EXAMPLES = 4
"""Number of test images that are logged with a model as an example of its input."""


@dataclass(frozen=True)
class Released:
    """A model that has been registered.

    Attributes:
        uri: the URI of the registered version, such as "models:/glow-mnist/3".
        model_id: MLflow's id of the logged model.
    """

    uri: str
    model_id: str


def release(
    work: Work,
    record: Record,
    checkpoint: Path,
    tables: Mapping[tuple[str, int], pd.DataFrame],
    validation_bits_per_dim: float,
) -> Released:
    """Log the model of a run, register it, and record its scores.

    Args:
        work: the training.
        record: its run in MLflow.
        checkpoint: the folder of the checkpoint with the model.
        tables: the score tables of the workers; the key is the name of the split and the position of the table's first
            image. Tables that are missing are computed here.
        validation_bits_per_dim: the model's validation score, which becomes a tag of the logged model and of the
            registered version.

    Raises:
        TrackingError: if MLflow cannot be read or written.
    """
    dataset, digests = work.spec.dataset, work.digests()
    scores = gathered(work, checkpoint, tables)
    model_digest = digest_of(checkpoint)
    record.tag(tag_names.MODEL_DIGEST, model_digest)  # tells its scores from the features of an encoder
    calibration = _calibration(scores, work, record)
    corrupted = scores.pop(CORRUPTED)
    calibration.save(checkpoint / SCORES_FILE)  # next to the weights, so that the folder alone can judge images
    images = for_recommendation(work.splits["validation"]).fingerprint()
    _keep(corrupted, f"{dataset}-{CORRUPTED}", "validation", images, model_digest, work, record)
    for split, table in scores.items():
        _keep(table, dataset, split, digests[f"{dataset} {split}"], model_digest, work, record)
    name = registered_name(dataset, work.spec.bits)
    tags = {
        tag_names.DATASET: dataset,
        tag_names.SCORE: repr(validation_bits_per_dim),
        tag_names.IMAGES: digests[f"{dataset} validation"],
        tag_names.MODEL_DIGEST: model_digest,
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        save_model(
            folder,
            checkpoint,
            calibration,
            work.splits["test"].images(0, EXAMPLES).numpy(),
            {"run": record.name, "run_id": record.run_id, "dataset": dataset},
        )
        about = f"{record.name}: {bits(validation_bits_per_dim)} bits/dim on the validation images"
        model_id, version = record.model(folder, name, tags, about)
    return Released(f"models:/{name}/{version}", model_id)


def _calibration(scores: Mapping[str, pd.DataFrame], work: Work, record: Record) -> Calibration:
    """Return the scores by which the model judges images; with ``--encoder``, their features are added to them."""
    held_out = work.splits["validation"]
    images = {"train": work.splits["train"], "validation": held_out, CORRUPTED: for_recommendation(held_out)}
    tables, references = {split: scores[split] for split in images}, None
    if work.encoder is not None:
        images["train"] = references_among(images["train"], work.spec.encoder_references)
        features = {split: _features(work.encoder, each, work, record) for split, each in images.items()}
        compared, tables = with_distances(tables, features, "train", work.encoder.digest)
        references = compared.to_arrays()
    return Calibration.of(tables["train"], tables["validation"], tables[CORRUPTED], references=references)


def _features(encoder: Encoder, images: LazyDataset, work: Work, record: Record) -> np.ndarray:
    """Return the features of images: those that a run of the experiment has recorded, or new ones, which are recorded.

    They are computed in this process.
    """
    key = features_key(encoder.digest, images.fingerprint(SHARD))
    found = find_scores(work.tracking_uri, work.spec.experiment, key)
    if found is not None and len(found[0]) == len(images):
        return features_in(found[0])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    starts = range(0, len(images), SHARD)
    features = np.concatenate([encoder.features(images.images(start, start + SHARD), device) for start in starts])
    save_scores(key, features_table(features), record)
    return features


def _keep(
    table: pd.DataFrame, dataset: str, split: str, fingerprint: str, model_digest: str, work: Work, record: Record
) -> None:
    """Record a score table where evaluations look for it."""
    key = key_of(model_digest, fingerprint, work.config.bits, split, seed=0, precision="float32")
    save_scores(key, labelled(table, dataset, split), record)


def gathered(work: Work, checkpoint: Path, tables: Mapping[tuple[str, int], pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Join the score tables of the workers (`release`) into one table per split, and one of corrupted images.

    Tables that are missing are computed here. The workers may have sent them while no driver was running.
    """
    model = None
    splits = {**work.splits, CORRUPTED: for_recommendation(work.splits["validation"])}
    parts: dict[str, list[pd.DataFrame]] = {split: [] for split in splits}
    for split, start in shards_of(splits):
        table = tables.get((split, start))
        if table is None:
            model = model or load_checkpoint(checkpoint)
            table = score_shard(model, splits[split], start)
        parts[split].append(table)
    return {split: pd.concat(of_split, ignore_index=True) for split, of_split in parts.items()}
