"""What an ablation is told: one training in many variants. No torch, ray or mlflow here."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from glow.config import Coupling, Dequantization, Input, Permutation, Scale
from jobs.specs.base import numbers, setting, validated
from jobs.specs.presets import make_train_spec
from jobs.specs.training import TrainSpec
from jobs.text import JsonObject, plain

__all__ = ["AXES", "PER_TRIAL", "AblateSpec", "Values", "make_ablate_spec", "values_label"]

Values = dict[str, str | int | float]
"""What makes a trial: the fields of `TrainSpec` that differ between trials, its seed among them."""

AXES = {
    "permutations": "permutation",
    "depths": "depth",
    "widths": "width",
    "couplings": "coupling",
    "scales": "scale",
    "dequantizations": "dequantization",
    "inputs": "input",
    "learning_rates": "learning_rate",
}
"""Fields of `AblateSpec` -> the field of `TrainSpec` that each varies."""

PER_TRIAL = {"workers_per_trial": "workers", "gpus_per_trial": "gpus_per_worker", "cpus_per_trial": "cpus_per_worker"}
"""Fields of `AblateSpec` that say what `TrainSpec` says in another unit."""


CHOICES = {
    "permutations": Permutation,
    "couplings": Coupling,
    "scales": Scale,
    "dequantizations": Dequantization,
    "inputs": Input,
}
MARKS = {"depth": "K", "width": "w", "learning_rate": "lr", "seed": "s"}


def values_label(values: Mapping[str, Any]) -> str:
    """{"permutation": "1x1", "depth": 8} -> "1x1 K8"."""
    return " ".join(f"{MARKS.get(name, '')}{plain(value)}" for name, value in values.items())


class AblateSpec(BaseModel):
    """An ablation: the cross product of the values that are given, each at several seeds.

    `train` is what all trials have in common; an axis that is not given keeps its value there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: TrainSpec
    permutations: tuple[Permutation, ...] | None = setting(
        None, "Ablation", "Permutations to compare, with commas between, or all.", "all"
    )
    depths: tuple[int, ...] | None = setting(None, "Ablation", "Depths K, with commas between.", "8,16,32")
    widths: tuple[int, ...] | None = setting(None, "Ablation", "Widths of the couplings.", "128,512")
    couplings: tuple[Coupling, ...] | None = setting(None, "Ablation", "Kinds of coupling, or all.", "affine,additive")
    scales: tuple[Scale, ...] | None = setting(None, "Ablation", "Scales of affine couplings, or all.", "all")
    dequantizations: tuple[Dequantization, ...] | None = setting(
        None, "Ablation", "Noises between grey levels, or all.", "all"
    )
    inputs: tuple[Input, ...] | None = setting(None, "Ablation", "What first layers see of a pixel, or all.", "all")
    learning_rates: tuple[float, ...] | None = setting(None, "Ablation", "Peak learning rates.", "1e-3,2e-3")
    seeds: int = setting(3, "Ablation", "Seeds of each configuration, from --seed on.", 5)

    search: Literal["grid", "random", "optuna"] = setting(
        "grid", "Search", "All configurations, some drawn at random, or those that Optuna proposes.", "optuna"
    )
    samples: int | None = setting(None, "Search", "Configurations that a random or optuna search tries.", 10)
    scheduler: Literal["none", "asha", "median"] = setting(
        "none", "Search", "Stops trials early that do worse than others.", "asha"
    )

    workers_per_trial: int = setting(1, "Compute", "Data-parallel workers of each trial.", 2)
    gpus_per_trial: float | None = setting(
        None, "Compute", "GPUs a trial, fractions allowed; 1 a worker where there are GPUs, else 0 if not given.", 0.25
    )
    cpus_per_trial: float | None = setting(
        None, "Compute", "Cores a trial; 1 a worker beside a GPU, else all cores shared out if not given.", 4
    )
    concurrent: int | None = setting(
        None, "Compute", "Most trials at a time; as many as there is room for if not given.", 2
    )

    @field_validator(*CHOICES, mode="before")
    @classmethod
    def _choices(cls, value: Any, info: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.strip() == "all":
            return get_args(CHOICES[info.field_name])
        return tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))

    @field_validator("depths", "widths", mode="before")
    @classmethod
    def _whole_numbers(cls, value: Any) -> Any:
        return numbers(value, int, "whole numbers such as 8,16,32")

    @field_validator("learning_rates", mode="before")
    @classmethod
    def _rates(cls, value: Any) -> Any:
        return numbers(value, float, "numbers such as 1e-3,2e-3")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in AXES:
            values = getattr(self, name)
            if values is not None and not values:
                raise ValueError(f"{name} names no value")
        for name in ("seeds", "workers_per_trial", "concurrent"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.cpus_per_trial is not None and not 0 < self.cpus_per_trial < math.inf:
            raise ValueError(f"cpus_per_trial must be above 0, not {self.cpus_per_trial}")
        if self.gpus_per_trial is not None and not 0 <= self.gpus_per_trial < math.inf:
            raise ValueError(f"gpus_per_trial must not be negative, not {self.gpus_per_trial}")
        if self.train.seed + self.seeds > 2**31:
            raise ValueError(f"seed must be below {2**31 - self.seeds}, not {self.train.seed}")
        self._check_search()
        for values in self.configurations():
            self.trial_spec(values)
        return self

    def _check_search(self) -> None:
        if self.search == "grid":
            if self.samples is not None:
                raise ValueError("samples are for a search that is random or optuna: a grid tries everything")
            return
        count = len(self._grid())
        if count < 2:
            raise ValueError(f"search {self.search} needs something to choose from: give an axis several values")
        if self.samples is None:
            raise ValueError(f"search {self.search} needs samples, how many of the {count} configurations to try")
        if not 1 <= self.samples <= count:
            raise ValueError(f"samples must be between 1 and the {count} configurations that there are")

    def configurations(self) -> list[Values]:
        """Every configuration that may be tried, without seeds: for a random search those that were drawn, for optuna
        all that it may propose."""
        grid = self._grid()
        if self.search != "random":
            return grid
        assert self.samples is not None
        drawn = sorted(random.Random(self.train.seed).sample(range(len(grid)), self.samples))
        return [grid[index] for index in drawn]

    def trials(self) -> list[Values]:
        """All trials in the order that they start in: every configuration at the first seed, then at the second, so
        that an ablation that is cut short compares what it has."""
        return [{**values, "seed": seed} for seed in self.all_seeds for values in self.configurations()]

    @property
    def known_beforehand(self) -> bool:
        """Whether `trials` are what will be run, and not what may be."""
        return self.search != "optuna"

    @property
    def number_of_configurations(self) -> int:
        """That will be tried."""
        return self.samples or len(self._grid())

    @property
    def number_of_trials(self) -> int:
        return self.number_of_configurations * self.seeds

    @property
    def all_seeds(self) -> list[int]:
        return list(range(self.train.seed, self.train.seed + self.seeds))

    def _grid(self) -> list[Values]:
        """The cross product, once each: the scale of a coupling that is not affine makes no difference."""
        axes = {axis: getattr(self, name) for name, axis in AXES.items() if getattr(self, name)}
        products = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        found: dict[str, Values] = {}
        for product in products:
            values = self.normal(product)
            found.setdefault(json.dumps(values), values)
        return list(found.values())

    def normal(self, values: Values) -> Values:
        """The values of a configuration in one order, and without a difference that is none."""
        chosen = {axis: values[axis] for axis in AXES.values() if axis in values}
        if "scale" in chosen and chosen.get("coupling", self.train.coupling) != "affine":
            chosen["scale"] = (self.scales or (self.train.scale,))[0]
        return chosen

    def trial_spec(self, values: Values) -> TrainSpec:
        """The training of a trial. Raises ValueError for one that cannot be."""
        workers = self.workers_per_trial
        return TrainSpec(
            **{
                **self.train.model_dump(),
                "workers": str(workers),
                "gpus_per_worker": None if self.gpus_per_trial is None else self.gpus_per_trial / workers,
                "cpus_per_worker": None if self.cpus_per_trial is None else self.cpus_per_trial / workers,
                "run_name": None,
                **values,
            }
        )

    def label(self, values: Values) -> str:
        """A trial's name among the others, such as "1x1 K8 w128 s0"."""
        named = values if values.keys() - {"seed"} else {"permutation": self.train.permutation, **values}
        return values_label(named)

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


def make_ablate_spec(preset: str, values: Mapping[str, Any]) -> AblateSpec:
    """The ablation of a preset with `values`, of either spec, over it. Raises SpecError for what cannot be.

    Its trials score the test set after each epoch, for the curves.
    """
    own, common = own_and_common(values)
    return validated(AblateSpec, {**own, "train": make_train_spec(preset, {"test_every": 1, **common})})


def own_and_common(values: Mapping[str, Any]) -> tuple[JsonObject, JsonObject]:
    """Splits values into those of `AblateSpec` itself and those of its `train`."""
    own = {name: value for name, value in values.items() if name in AblateSpec.model_fields}
    return own, {name: value for name, value in values.items() if name not in own}
