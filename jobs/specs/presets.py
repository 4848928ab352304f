"""The presets of ``--preset``: settings of trainings that differ from the defaults of `TrainSpec`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from jobs.errors import SpecError
from jobs.specs.base import validated
from jobs.specs.training import TrainSpec

__all__ = ["PRESETS", "Preset", "make_train_spec"]

Preset = Literal["paper", "laptop", "best", "smoke", "demo"]
"""Names of presets."""

PRESETS: dict[Preset, dict[str, object]] = {
    # The configuration of the course report that this project reproduces, which took days on one GPU of its time.
    "paper": {
        "per_class": 4000,
        "depth": 32,
        "levels": 3,
        "width": 512,
        "epochs": 70,
        "batch_size": 128,
        "learning_rate": 1e-4,
        "schedule": "constant",
        "warmup_steps": 0,
        "clip_norm": None,
        "checkpoint_every": 5,
        "sample_every": 10,
    },
    # The lowest NLL of MNIST that was found within half an hour on 2 cores: docs/models.md.
    "laptop": {
        "per_class": 4000,
        "width": 32,
        "input": "logit",
        "dequantization": "variational",
        "checkerboard": 2,
        "network": "residual",
        "epochs": 16,
        "batch_size": 64,
        "learning_rate": 4e-3,
    },
    # For a GPU: the model of the report with the laptop's input, noise and checkerboard couplings. Its NLL and time are
    # not measured.
    "best": {
        "per_class": 4000,
        "depth": 32,
        "width": 512,
        "scale": "floored",
        "input": "logit",
        "dequantization": "variational",
        "checkerboard": 2,
        "epochs": 100,
        "batch_size": 128,
        "learning_rate": 1e-3,
        "ema": 0.999,
        "checkpoint_every": 5,
        "sample_every": 10,
    },
    # A training of seconds, to see whether everything works.
    "smoke": {
        "dataset": "digits",
        "levels": 2,
        "depth": 2,
        "width": 16,
        "epochs": 2,
        "batch_size": 64,
        "warmup_steps": 10,
        "learning_rate": 3e-3,
    },
    # The trainings of `glowctl demo`.
    "demo": {
        "dataset": "digits",
        "levels": 2,
        "depth": 8,
        "width": 32,
        "scale": "bounded",
        "epochs": 20,
        "batch_size": 64,
        "learning_rate": 4e-3,
        "warmup_steps": 50,
        "workers": "2",
        "checkpoint_every": 2,
        "sample_every": 5,
    },
}
"""Names of presets -> fields of `TrainSpec` with the values that differ from its defaults."""


def make_train_spec(preset: str, values: Mapping[str, Any]) -> TrainSpec:
    """Return the settings of a preset with some values replaced.

    A preset's `per_class` is meant for the data set of the preset. If `values` contain another data set, all images of
    that data set are used, unless `values` contain `per_class` too.

    Args:
        preset: name of the preset.
        values: values by the names of fields.

    Raises:
        SpecError: for an unknown preset or a value that is not allowed.
    """
    if preset not in PRESETS:
        raise SpecError(
            f"--preset {preset} does not exist", remedy=f"use one of {', '.join(PRESETS)}", code="unknown-preset"
        )
    start = dict(PRESETS[preset])
    if values.get("dataset") not in (None, start.get("dataset", TrainSpec.model_fields["dataset"].default)):
        start.pop("per_class", None)
    return validated(TrainSpec, {**start, **values})
