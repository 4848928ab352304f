"""The features of an encoder in an OOD evaluation: opening it, and its columns of the score tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from glow.encoders import open_encoder
from glow.features import FeatureReferences
from jobs.display.events import Event, Scored
from jobs.evaluation.run import Evaluation, EvaluationRun, reference_positions
from jobs.evaluation.scoring import FEATURE
from jobs.specs.evaluation import OodSpec


def with_encoder(work: Evaluation[OodSpec]) -> Evaluation[OodSpec]:
    """Open the encoder of ``--encoder``, and find the features that earlier runs have kept; the same without it.

    Raises:
        EncoderError: if the encoder, or its weights, cannot be opened.
        TrackingError: if the store does not answer.
    """
    spec = work.spec
    if spec.encoder is None:
        return work
    named = {name: _absolute(getattr(spec, name)) for name in ("encoder", "encoder_weights")}
    encoder = open_encoder(str(named["encoder"]), named["encoder_weights"], spec.encoder_size, spec.encoder_download)
    named_work = replace(work, given=work.given.model_copy(update=named), spec=spec.model_copy(update=named))
    return named_work.with_features(encoder, spec.encoder_references)


def _absolute(path: str | None) -> str | None:
    """Return the path of a file, with "file:" before it if it had that, as absolute; the name of a library as it is."""
    kind, separator, name = (path or "").rpartition("file:")
    if path is None or (not separator and ":" in path):
        return path
    return f"{kind}{separator}{Path(name).expanduser().absolute()}"


def with_distances(
    work: Evaluation[OodSpec], scores: dict[tuple[str, str], pd.DataFrame], run: EvaluationRun
) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the score tables with the columns of `FeatureReferences.distances`, if the evaluation has an encoder.

    Both are NaN for training images that are not references.

    Raises:
        JobError: if workers fail, or have no room on the machines.
        TrackingError: if the store does not answer.
    """
    if work.features is None:
        return scores
    name = work.spec.encoder

    def show_name(event: Event) -> None:
        run.show(replace(event, encoder=name) if isinstance(event, Scored) else event)

    features = {key: _matrix(table) for key, table in work.features.scores(run, show_name).items()}
    [own] = [key for key in features if key[1] == "train"]
    train, known = scores[own], np.arange(len(scores[own]))
    if len(features[own]) < len(train):
        known = reference_positions(len(train), len(features[own])).numpy()
    references = FeatureReferences.fit(features[own], train["label"].to_numpy()[known])
    found = {}
    for key, table in scores.items():
        distances = references.distances(features[key], own=key == own)
        distances.index = table.index[known] if key == own else table.index
        found[key] = table.assign(**distances.reindex(table.index))
    return found


def _matrix(table: pd.DataFrame) -> np.ndarray:
    return table[[name for name in table if str(name).startswith(FEATURE)]].to_numpy(np.float16)
