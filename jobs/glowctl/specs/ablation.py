"""The settings of an ablation, which trains one model in many variants: `AblateSpec`, the flags of ``glowctl ablate``.

The words: an *axis* is a setting that varies, a *configuration* is one choice of a value on each axis, and a *trial* is
the training of one configuration at one seed. Nothing here imports torch, Ray or MLflow, because every command imports
this.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from glow.config import Coupling, Dequantization, Input, Network, Normalization, Permutation, Scale
from glowctl.specs.base import Cpus, NotNegative, Positive, Several, Spec, flag_of, sentences, setting, validated
from glowctl.specs.training import TrainSpec, make_train_spec
from glowctl.text import JsonObject, plain

Values = dict[str, str | int | float]
"""The fields of `TrainSpec` that differ between trials, the seed included, with their values in one trial."""

AXES = {
    "permutations": "permutation",
    "depths": "depth",
    "widths": "width",
    "couplings": "coupling",
    "scales": "scale",
    "dequantizations": "dequantization",
    "inputs": "input",
    "checkerboards": "checkerboard",
    "networks": "network",
    "actnorms": "actnorm",
    "learning_rates": "learning_rate",
}
"""Fields of `AblateSpec` -> the field of `TrainSpec` that each varies."""

PER_TRIAL = {"workers_per_trial": "workers", "gpus_per_trial": "gpus_per_worker", "cpus_per_trial": "cpus_per_worker"}
"""Fields of `AblateSpec` -> the field of `TrainSpec` that each sets per trial and not per worker."""

MARKS = {"depth": "K", "width": "w", "checkerboard": "cb", "learning_rate": "lr", "seed": "s"}
"""Prefixes of numbers in the labels of trials."""


def values_label(values: Mapping[str, Any]) -> str:
    """Return the values of a trial as a short label.

    Examples:
        >>> values_label({"permutation": "1x1", "depth": 8, "seed": 0})
        '1x1 K8 s0'
        >>> values_label({"permutation": "1x1", "flip": False})
        '1x1 flip False'
    """
    return " ".join(f"{_mark(name, value)}{plain(value)}" for name, value in values.items())


def _mark(name: str, value: object) -> str:
    return f"{name} " if isinstance(value, bool) else MARKS.get(name, "")


class AblateSpec(Spec):
    """The settings of an ablation, which trains combinations of the given values, each at several seeds.

    `train` holds the settings that all trials have in common. All trials also take from `train` the value of an axis
    for which no values are given.
    """

    train: TrainSpec
    permutations: Several[Permutation] | None = setting(None, "Ablation", "all")
    """Permutations to compare: all, or some of 1x1, shuffle, reverse, with commas between."""
    depths: Several[Positive] | None = setting(None, "Ablation", "8,16,32")
    """Numbers K of flow steps per level to compare, with commas between."""
    widths: Several[Positive] | None = setting(None, "Ablation", "128,512")
    """Numbers of hidden channels of the coupling networks to compare, with commas between."""
    couplings: Several[Coupling] | None = setting(None, "Ablation", "affine,additive")
    """Coupling layers to compare: all, or some of affine, additive, spline, with commas between."""
    scales: Several[Scale] | None = setting(None, "Ablation", "all")
    """Scale functions of affine couplings to compare: all, or some of sigmoid, bounded, floored, with commas
    between."""
    dequantizations: Several[Dequantization] | None = setting(None, "Ablation", "all")
    """Kinds of dequantisation noise to compare: all, or some of uniform, variational."""
    inputs: Several[Input] | None = setting(None, "Ablation", "all")
    """What the first layer receives, to be compared: all, or a list of linear (the values of pixels) and logit (their
    logits)."""
    checkerboards: Several[NotNegative] | None = setting(None, "Ablation", "0,2")
    """Numbers of coupling layers at full resolution to compare, with commas between; 0 is none."""
    networks: Several[Network] | None = setting(None, "Ablation", "all")
    """Networks of coupling layers to compare: all, or a list of plain, residual and attention. With --widths, every
    network gets every width."""
    actnorms: Several[Normalization] | None = setting(None, "Ablation", "all")
    """Steps of flow with and without ActNorm to compare: all, or on, off."""
    learning_rates: Several[float] | None = setting(None, "Ablation", "1e-3,2e-3")
    """Learning rates to compare, with commas between, before the factors of --warmup-steps and --schedule."""
    seeds: Positive = setting(3, "Ablation", 5)
    """Number of seeds at which each configuration is trained, counted up from --seed."""

    search: Literal["grid", "random", "optuna"] = setting("grid", "Search", "optuna")
    """Configurations to train: all of them (grid), some drawn at random (random), or those that Optuna proposes from
    earlier results (optuna)."""
    samples: int | None = setting(None, "Search", 10)
    """Number of configurations to train; required with --search random or optuna."""
    scheduler: Literal["none", "asha", "median"] = setting("none", "Search", "asha")
    """Rule that ends trials early, after at least a quarter of their epochs, if their validation bits/dim are worse
    than those of others. none: all trials run to their end. asha: successive halving. median: a trial ends if it is
    worse than the median of the others."""

    workers_per_trial: Positive = setting(1, "Compute", 2)
    """Number of data-parallel workers per trial."""
    gpus_per_trial: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = setting(None, "Compute", 0.25)
    """GPUs per trial, shared by its workers; with a fraction, several trials share a GPU. Without it: 1 per worker if
    there are GPUs, else 0."""
    cpus_per_trial: Cpus | None = setting(None, "Compute", 4)
    """CPU cores per trial. Without it: 1 per worker with a GPU, else an equal share of all cores."""
    concurrent: Positive | None = setting(None, "Compute", 2)
    """Largest number of trials at the same time. Without it: as many as there is room for."""

    @field_validator(*AXES, mode="before")
    @classmethod
    def _all(cls, value: Any, info: ValidationInfo) -> Any:
        choices = get_args(TrainSpec.model_fields[AXES[info.field_name or ""]].annotation)  # empty for numbers
        return choices if choices and isinstance(value, str) and value.strip() == "all" else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_workers()
        if self.train.seed + self.seeds > 2**31:
            raise ValueError(
                f"--seed must be at most {2**31 - self.seeds} with --seeds {self.seeds}, not {self.train.seed}"
            )
        self._check_search()
        names = {field: flag_of(type(self), name) for name, field in (AXES | PER_TRIAL).items()}
        for values in self.configurations():
            try:
                self.trial_spec(values)
            except ValidationError as error:
                raise ValueError(sentences(TrainSpec, error, names)) from None
        return self

    def _check_workers(self) -> None:
        """Check here what trials would refuse in words of `TrainSpec`."""
        workers = self.workers_per_trial
        if self.train.batch_size < workers:
            raise ValueError(
                f"--batch-size {self.train.batch_size} cannot be shared by --workers-per-trial {workers}: use at least "
                f"{workers}, or fewer workers"
            )
        gpus = (self.gpus_per_trial or 0.0) / workers
        if gpus > 1 and gpus % 1:
            raise ValueError(f"gpus_per_trial must give each worker a whole number or a fraction below 1, not {gpus:g}")

    def _check_search(self) -> None:
        if self.search == "grid":
            if self.samples is not None:
                raise ValueError(
                    f"--samples {self.samples} has no use, because --search grid trains every configuration: leave it "
                    "out, or add --search random"
                )
            return
        count = len(self._grid())
        if count < 2:
            raise ValueError(
                f"--search {self.search} has only one configuration to choose: give an axis several values, such as "
                "--depths 8,16"
            )
        if self.samples is None:
            raise ValueError(
                f"--search {self.search} needs --samples: add the number of configurations to train, from 1 to {count}"
            )
        if not 1 <= self.samples <= count:
            raise ValueError(f"samples must be from 1 to {count}, the number of configurations, not {self.samples}")

    def configurations(self) -> list[Values]:
        """Return every configuration that may be trained, without seeds.

        For a random search, these are the configurations that were drawn. For a search with Optuna, these are all
        configurations that Optuna may propose.
        """
        grid = self._grid()
        if self.search != "random":
            return grid
        assert self.samples is not None
        drawn = sorted(random.Random(self.train.seed).sample(range(len(grid)), self.samples))
        return [grid[index] for index in drawn]

    def trials(self) -> list[Values]:
        """Return all trials in the order in which they start.

        All trials at the first seed start before those at the second seed, so that an ablation that ends early can
        still compare the configurations.
        """
        return [{**values, "seed": seed} for seed in self.all_seeds for values in self.configurations()]

    @property
    def known_beforehand(self) -> bool:
        """Whether all of `trials` will be trained; an Optuna search trains only some of them."""
        return self.search != "optuna"

    @property
    def number_of_configurations(self) -> int:
        """Number of configurations that will be trained."""
        return self.samples or len(self._grid())

    @property
    def number_of_trials(self) -> int:
        """Number of trainings: configurations times seeds."""
        return self.number_of_configurations * self.seeds

    @property
    def all_seeds(self) -> list[int]:
        """The seeds of each configuration."""
        return list(range(self.train.seed, self.train.seed + self.seeds))

    def _grid(self) -> list[Values]:
        """Return the cross product of the axes without duplicates, which scales of couplings other than affine make."""
        axes = {axis: getattr(self, name) for name, axis in AXES.items() if getattr(self, name)}
        products = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        found: dict[str, Values] = {}
        for product in products:
            values = self.normal(product)
            found.setdefault(json.dumps(values), values)
        return list(found.values())

    def normal(self, values: Values) -> Values:
        """Return a configuration in a normal form, so that configurations that train the same model are equal.

        The values are in the order of `AXES`. Only affine couplings use `scale`: for any other coupling, a scale in the
        configuration is replaced by the first one that the ablation compares.
        """
        chosen = {axis: values[axis] for axis in AXES.values() if axis in values}
        if "scale" in chosen and chosen.get("coupling", self.train.coupling) != "affine":
            chosen["scale"] = (self.scales or (self.train.scale,))[0]
        return chosen

    def trial_spec(self, values: Values) -> TrainSpec:
        """Return the settings of the training of one trial.

        Raises:
            ValueError: if the values are not allowed.
        """
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
        """Return a trial's label, such as "1x1 K8 w128 s0", which no other trial of this ablation has."""
        named = values if values.keys() - {"seed"} else {"permutation": self.train.permutation, **values}
        return values_label(named)


def make_ablate_spec(preset: str, values: Mapping[str, Any]) -> AblateSpec:
    """Return the settings of an ablation: those of a preset, with some values replaced.

    The trials score the test set after each epoch, so that the summary can show the test NLL by epoch, unless `values`
    contain another `test_every`.

    Args:
        preset: name of the preset.
        values: values by the names of fields, of `AblateSpec` or of `TrainSpec`.

    Raises:
        SpecError: for an unknown preset or a value that is not allowed.
    """
    own, common = own_and_common(values)
    return validated(AblateSpec, {**own, "train": make_train_spec(preset, {"test_every": 1, **common})})


def own_and_common(values: Mapping[str, Any]) -> tuple[JsonObject, JsonObject]:
    """Split settings into those that are fields of `AblateSpec`, and all others, which are for its trainings."""
    own = {name: value for name, value in values.items() if name in AblateSpec.model_fields}
    return own, {name: value for name, value in values.items() if name not in own}
