"""The settings of evaluations of a trained model: one spec per command, `nll`, `sample`, `interpolate` and `ood`.

The fields of a spec are the flags of its command, and ``glowctl evaluate`` has the flags of all four commands. A field
that several specs have has the same help in each. Nothing here imports torch, Ray or MLflow, because every command
imports this.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from jobs.specs.base import colour, numbers, setting
from jobs.specs.training import TrainSpec

__all__ = [
    "USED_WITH",
    "USED_WITHOUT",
    "EvaluationSpec",
    "InterpolateSpec",
    "NllSpec",
    "OodSpec",
    "SampleSpec",
    "ScoringSpec",
]

Precision = Literal["float32", "bf16"]
Split = Literal["train", "validation", "test"]

CORRUPTIONS = ("noise", "blur", "contrast", "brightness", "pixelate", "rotate", "elastic", "jpeg")
"""Names of the corruptions in `glow.datasets.corruptions`, repeated here because that module imports torch."""

USED_WITHOUT = {"temperature": "temperatures", "pairs_per_class": "from_image"}
"""Fields of evaluations -> the field that is used in their place if it has a value."""

USED_WITH = {"corruption_images": "corruptions"}
"""Fields of evaluations -> the field without which they have no use."""

GPUS_PER_WORKER = TrainSpec.model_fields["gpus_per_worker"].description
CPUS_PER_WORKER = TrainSpec.model_fields["cpus_per_worker"].description


class EvaluationSpec(BaseModel):
    """The settings that all evaluations of a trained model have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = setting(
        None,
        "Model",
        "Trained model: the id or name of its run, an MLflow model URI, or a folder with a checkpoint. Without it: the "
        "newest finished training; if that training is a trial of an ablation, the best trial of the ablation.",
        "models:/glow-mnist@champion",
    )
    trained_on: str | None = setting(
        None,
        "Model",
        "Data set that the model was trained on, or a copy of it; --leave-out and --per-class of the training apply to "
        "it. Without it: the one in the settings of the training, which are in its MLflow run or in spec.json beside "
        "the checkpoint.",
        "mnist",
    )
    seed: int = setting(0, "Data", "Seed of everything random: noise, samples, pairs and batches.", 1)
    data_root: str | None = setting(
        None,
        "Data",
        "Folder that contains the data sets. Without it: that of the training, else $GLOW_DATA_ROOT, else "
        "~/.cache/glow/data.",
        "~/data",
    )
    download: bool = setting(True, "Data", "Download files that are missing in the data root.", False)
    background: str | None = setting(
        None,
        "Data",
        "Background colour for transparent images from folder:PATH or parquet:PATH: white, black, or R,G,B, with each "
        "number from 0 to 255. Without it: as in the training.",
        "black",
    )
    precision: Precision = setting(
        "float32", "Compute", "Number format in the coupling networks; bf16 is faster and less accurate.", "bf16"
    )
    gpus_per_worker: float | None = setting(None, "Compute", GPUS_PER_WORKER or "", 1)
    cpus_per_worker: float | None = setting(None, "Compute", CPUS_PER_WORKER or "", 4)
    run_name: str | None = setting(
        None,
        "Record",
        "Name of the run in MLflow. Without it: the command and the model, as in 'ood mnist 1x1'.",
        "first",
    )
    experiment: str = setting(
        "glow", "Record", "MLflow experiment to find the model in and to record in, made if it is new.", "mnist-study"
    )
    tracking_uri: str | None = setting(
        None,
        "Record",
        "MLflow store: the URL of a server or database, such as sqlite:///FILE. Without it: $MLFLOW_TRACKING_URI, else "
        "sqlite:///mlflow.db in this folder.",
        "http://localhost:5000",
    )
    output: str = setting(
        "outputs",
        "Record",
        "Folder (made if it is new) for results, of which MLflow keeps a copy. If it is a bucket, MLflow alone has the "
        "results.",
        "results",
    )

    @field_validator("model", "trained_on", "run_name", "experiment", "output")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("must not be empty")
        return value

    @field_validator("background")
    @classmethod
    def _is_colour(cls, value: str | None) -> str | None:
        if value is not None:
            colour(value)
        return value

    @model_validator(mode="after")
    def _check_common(self) -> Self:
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be from 0 to {2**31 - 1}, not {self.seed}")
        gpus = self.gpus_per_worker or 0.0
        if not 0 <= gpus < math.inf or (gpus > 1 and gpus % 1):
            raise ValueError(f"gpus_per_worker must be a whole number or a fraction below 1, not {gpus}")
        if self.cpus_per_worker is not None and not 0 < self.cpus_per_worker < math.inf:
            raise ValueError(f"cpus_per_worker must be above 0, not {self.cpus_per_worker}")
        return self


class ScoringSpec(EvaluationSpec):
    """The settings of evaluations that need the scores of many images."""

    workers: int | None = setting(
        None, "Compute", "Number of workers that compute scores. Without it: one per GPU, else one per machine.", 4
    )
    rescore: bool = setting(
        False, "Compute", "Compute all scores, including those that MLflow has from earlier runs.", True
    )

    @field_validator("workers")
    @classmethod
    def _some_workers(cls, value: int | None) -> int | None:
        if value is not None and value < 1:
            raise ValueError(f"must be at least 1, not {value}")
        return value


class NllSpec(ScoringSpec):
    """The settings of ``glowctl nll``, which computes the bits/dim of data sets."""

    datasets: tuple[str, ...] | None = setting(
        None,
        "Data",
        "Data sets to score, with commas between. Without it: the one that the model was trained on.",
        "mnist,fashion-mnist",
    )
    split: Split = setting("test", "Data", "Split of each data set to score: train, validation or test.", "validation")
    noise_samples: int = setting(
        1,
        "Data",
        "Number K of dequantisation noises per image, 1 to 1000. With more than 1, the importance-weighted bound is "
        "computed too, which is tighter, in K times the time.",
        16,
    )

    @field_validator("datasets", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return _names(value)

    @field_validator("noise_samples")
    @classmethod
    def _some_samples(cls, value: int) -> int:
        if not 1 <= value <= 1000:
            raise ValueError(f"must be from 1 to 1000, not {value}")
        return value


class OodSpec(ScoringSpec):
    """The settings of ``glowctl ood``: the typicality test, and detectors to compare it with."""

    ood_datasets: tuple[str, ...] | None = setting(
        None,
        "Data",
        "Data sets to test as out-of-distribution, with commas between. Without it: data sets on this machine that are "
        "similar to the one trained on, noise, and constant images.",
        "fashion-mnist,noise",
    )
    background_model: str | None = setting(
        None,
        "Model",
        "Model trained on the same data with --mutation, named as in --model. It adds the detector called ratio, which "
        "is the likelihood ratio of the two models. Without it: no such detector.",
        "background",
    )
    gradients: bool = setting(
        False,
        "Test",
        "Add the detector called gradients, which needs a backward pass per image: scoring takes about 15 times as "
        "long.",
        True,
    )
    benchmark: bool = setting(
        False,
        "Data",
        "Also test on every data set on this machine whose images have the model's shape without resizing.",
        True,
    )
    batch_sizes: tuple[int, ...] = setting(
        (1, 2, 5, 10, 25),
        "Test",
        "Numbers M of images that are judged together, with commas between; each M is a separate test.",
        "2,5,10,25",
    )
    alpha: float = setting(
        0.99, "Test", "Share of in-distribution batches that the test shall accept, between 0 and 1.", 0.95
    )
    protocol: Literal["held-out", "split-test"] = setting(
        "held-out",
        "Test",
        "Images that tests use. held-out: thresholds from images held out of training, tests on whole test sets. "
        "split-test: bootstrapped thresholds from one half of the model's own test set, tests on the other half and as "
        "many images of each other data set, drawn anew in each repeat.",
        "split-test",
    )
    bootstraps: int | None = setting(
        None,
        "Test",
        "Number of random batches from which a threshold is computed, and of random choices of images from which a "
        "p-value is computed. There are at least 10 / (1 - alpha) choices. Without it: 10000.",
        1000,
    )
    center: Literal["train", "validation"] = setting(
        "train", "Test", "Images whose mean NLL estimates the entropy of the model.", "validation"
    )
    corruptions: tuple[str, ...] | None = setting(
        None,
        "Test",
        "Corruptions of test images to detect, each at five severities, with commas between: all, or some of "
        f"{', '.join(CORRUPTIONS)}. Without it: none.",
        "noise,blur",
    )
    corruption_images: int = setting(
        1000,
        "Test",
        "With --corruptions: number of test images that each corruption changes at each severity. It is at least the "
        "largest of --batch-sizes.",
        200,
    )
    repeats: int | None = setting(
        None,
        "Test",
        "Number of times that thresholds and batches are drawn anew. Without it: 1.",
        10,
    )

    @field_validator("ood_datasets", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return _names(value)

    @field_validator("corruptions", mode="before")
    @classmethod
    def _corruptions(cls, value: Any) -> Any:
        names = CORRUPTIONS if value == "all" else _names(value)
        unknown = sorted(set(names or ()) - set(CORRUPTIONS))
        if unknown:
            raise ValueError(f"must be all, or some of {', '.join(CORRUPTIONS)}, not {unknown[0]!r}")
        return names

    @field_validator("corruption_images")
    @classmethod
    def _some_images(cls, value: int) -> int:
        if value < 1:
            raise ValueError(f"must be at least 1, not {value}")
        return value

    @field_validator("batch_sizes", mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        return numbers(value, int, "whole numbers such as 2,5,10")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be above 0 and below 1, not {self.alpha}")
        for name in ("bootstraps", "repeats"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if min(self.batch_sizes) < 1:
            raise ValueError(f"batch_sizes must be at least 1, not {min(self.batch_sizes)}")
        return self


class SampleSpec(EvaluationSpec):
    """The settings of ``glowctl sample``, which draws images from a model."""

    temperature: float = setting(
        0.7,
        "Samples",
        "Scale of the latent noise: 1 samples the model's distribution, 0 takes the means of the latents.",
        1.0,
    )
    temperatures: tuple[float, ...] | None = setting(
        None,
        "Samples",
        "Several temperatures, with commas between, each from the same noise. Without it: --temperature alone.",
        "0,0.5,0.7,0.9,1",
    )
    grid: str = setting("10x10", "Samples", "Rows and columns of images in the picture, as ROWSxCOLUMNS.", "4x8")
    only_class: str | None = setting(
        None,
        "Samples",
        "Class to draw, by name or number, from a class-conditional model. Without it: as many images of each class "
        "that it was trained on.",
        "3",
        flag="--class",
    )

    @field_validator("temperatures", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return value if value is None else numbers(value, float, "numbers such as 0,0.5,0.7")

    @field_validator("grid")
    @classmethod
    def _rows_and_columns(cls, value: str) -> str:
        if not re.fullmatch(r"[1-9]\d{0,2}x[1-9]\d{0,2}", value):
            raise ValueError(f"must be ROWSxCOLUMNS such as 10x10, each from 1 to 999, not {value!r}")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        name = "temperatures" if self.temperatures else "temperature"
        for temperature in self.all_temperatures:
            if not 0 <= temperature < math.inf:
                raise ValueError(f"{name} must be at least 0, not {temperature}")
        return self

    @property
    def rows_and_columns(self) -> tuple[int, int]:
        """The numbers of rows and columns in `grid`."""
        rows, columns = self.grid.split("x")
        return int(rows), int(columns)

    @property
    def all_temperatures(self) -> tuple[float, ...]:
        """The temperatures to sample at: `temperatures`, or else `temperature` alone."""
        return self.temperatures or (self.temperature,)


class InterpolateSpec(EvaluationSpec):
    """The settings of ``glowctl interpolate``, which draws images between two images."""

    pairs_per_class: int = setting(
        1,
        "Images",
        "Number of random pairs of test images from each class with at least two; the picture has one row per pair.",
        3,
    )
    from_image: str | None = setting(
        None, "Images", "Image file to start from, in place of random pairs; needs --to.", "A.png", flag="--from"
    )
    to_image: str | None = setting(
        None, "Images", "Image file to end at, in place of random pairs; needs --from.", "B.png", flag="--to"
    )
    steps: int = setting(10, "Images", "Number of images per row, both ends included.", 16)
    mode: Literal["linear", "slerp"] = setting(
        "linear", "Images", "Path between the two latents: a straight line, or the arc between them.", "slerp"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.from_image is None) != (self.to_image is None):
            given, missing = ("--from", "--to") if self.to_image is None else ("--to", "--from")
            raise ValueError(f"{given} needs the other end too: add {missing}, such as {missing} B.png")
        if self.pairs_per_class < 1:
            raise ValueError(f"pairs_per_class must be at least 1, not {self.pairs_per_class}")
        if self.steps < 2:
            raise ValueError(f"steps must be at least 2, both ends included, not {self.steps}")
        return self


def _names(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    if not names:
        raise ValueError(f"must contain a name, not {value!r}")
    return names
