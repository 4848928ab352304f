"""What runs are called in MLflow: their job, their data, and what sets them apart."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from jobs.outputs import dataset_label
from jobs.specs.ablation import AXES, AblateSpec
from jobs.specs.training import TrainSpec
from jobs.text import plain

if TYPE_CHECKING:
    from jobs.evaluation.find_model import TrainedModel

__all__ = ["ablation_name", "configuration", "evaluation_name", "registered_name", "training_name", "varied"]


def configuration(spec: TrainSpec, told: Collection[str] = ()) -> str:
    """ "mnist 1x1 K32 L3 w512 s0", with what is unlike the defaults, or `told` of, before the seed."""
    parts = [dataset_label(spec.dataset), spec.permutation, f"K{spec.depth}", f"L{spec.levels}", f"w{spec.width}"]
    for name in ("coupling", "scale"):
        if name in told or getattr(spec, name) != TrainSpec.model_fields[name].default:
            parts.append(getattr(spec, name))
    if "learning_rate" in told:
        parts.append(f"lr{plain(spec.learning_rate)}")
    return " ".join([*parts, f"s{spec.seed}"])


def training_name(spec: TrainSpec, told: Collection[str] = ()) -> str:
    return spec.run_name or f"train {configuration(spec, told)}"


def ablation_name(spec: AblateSpec) -> str:
    return spec.train.run_name or f"ablate {dataset_label(spec.train.dataset)} {' '.join(varied(spec)) or 'seeds'}"


def varied(spec: AblateSpec) -> list[str]:
    """The axes of which there are several values."""
    return [axis for name, axis in AXES.items() if len(getattr(spec, name) or ()) > 1]


def evaluation_name(job: str, model: TrainedModel) -> str:
    """ "ood mnist 1x1 K32 L3 w512 s0" """
    return f"{job} {model.title}"


def registered_name(dataset: str) -> str:
    """Of the models of a data set, in MLflow's registry."""
    return f"glow-{dataset_label(dataset)}"
