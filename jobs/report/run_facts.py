"""Facts about a run that its tags in MLflow hold: its job, its settings and its data set."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from jobs.tracking import tag_names

if TYPE_CHECKING:
    from jobs.text import JsonObject
    from jobs.tracking import Run

__all__ = ["bits_of", "dataset_of", "job_of", "spec_of"]


def job_of(run: Run) -> str:
    """Return the kind of job that made a run, such as "train" or "ood", or "" if glowctl did not make the run."""
    return str(run.data.tags.get(tag_names.JOB, ""))


def spec_of(run: Run) -> JsonObject:
    """Return the settings of a run, or an empty dict if they are missing or damaged."""
    with suppress(ValueError):
        found = json.loads(run.data.tags.get(tag_names.SPEC, ""))
        if isinstance(found, dict):
            return found
    return {}


def bits_of(run: Run) -> int:
    """Return the bits per value of the images of a training or an ablation.

    NLLs can be compared only between runs with the same number of bits.
    """
    spec = spec_of(run)
    return int(spec.get("train", spec).get("bits", 8))  # older records lack the setting, and all had 8 bits


def dataset_of(run: Run) -> str | None:
    """Return the name of the data set that a run's model is trained on, or None if MLflow does not have it."""
    spec = spec_of(run)
    return run.data.tags.get(tag_names.DATASET) or spec.get("dataset") or spec.get("train", {}).get("dataset")
