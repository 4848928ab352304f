"""Data sets are scored in shards, which do not depend on who scores them: so neither do the scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch

from glow.model import Glow
from glow.scoring import score

__all__ = ["SCORED", "SHARD", "score_shard", "shards_of"]

SHARD = 1000
"""Images."""

SCORED = ("train", "validation")
"""Splits whose scores a finished training leaves with its model: thresholds for batches of any size come of them."""


def shards_of(images: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The split and the first image of every shard of `SCORED`."""
    return [(split, start) for split in SCORED for start in range(0, len(images[split]), SHARD)]


def score_shard(model: Glow, images: torch.Tensor, labels: torch.Tensor, start: int) -> pd.DataFrame:
    """The score table of the shard of a split that begins at `start`, in float32, to which the model is set."""
    indices = torch.arange(start, min(start + SHARD, len(images)))
    return score(model, images[indices], labels[indices], indices_N=indices)
