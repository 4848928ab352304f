"""The encoder of ``--encoder``, and the training images whose features are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from glow.datasets import LazyDataset
from glow.encoders import Encoder, open_encoder
from glow.features import reference_positions
from glow.scoring import SHARD
from glowctl.specs.evaluation import OodSpec
from glowctl.specs.training import TrainSpec

Asked = TypeVar("Asked", TrainSpec, OodSpec)


def with_absolute_encoder(spec: Asked) -> Asked:
    """Return the settings with absolute paths of the encoder and its weights."""
    named = {name: _absolute(getattr(spec, name)) for name in ("encoder", "encoder_weights")}
    return spec.model_copy(update=named)


def _absolute(path: str | None) -> str | None:
    """Return the path of a file, with "file:" before it if it had that, as absolute; the name of a library as it is."""
    kind, separator, name = (path or "").rpartition("file:")
    if path is None or (not separator and ":" in path):
        return path
    return f"{kind}{separator}{Path(name).expanduser().absolute()}"


def encoder_of(spec: TrainSpec | OodSpec) -> Encoder | None:
    """Open the encoder of ``--encoder``; None without this flag.

    Raises:
        EncoderError: if the encoder, or its weights, cannot be opened.
    """
    if spec.encoder is None:
        return None
    return open_encoder(spec.encoder, spec.encoder_weights, spec.encoder_size, spec.encoder_download)


def references_among(train: LazyDataset, references: int) -> LazyDataset:
    """Return the training images whose features are references: at most as many, drawn at random."""
    known = train.known_as(train.fingerprint(SHARD))
    return known.subset(reference_positions(len(known), references)) if len(known) > references else known
