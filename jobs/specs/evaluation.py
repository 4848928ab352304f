"""What an evaluation job is told: one frozen pydantic model a job. No torch, ray or mlflow here."""

from __future__ import annotations

import math
import re
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from jobs.specs.base import colour, numbers, setting
from jobs.specs.training import TrainSpec

__all__ = ["EvaluationSpec", "InterpolateSpec", "NllSpec", "OodSpec", "SampleSpec", "ScoringSpec"]

Precision = Literal["float32", "bf16"]
Split = Literal["train", "validation", "test"]

CORRUPTIONS = ("noise", "blur", "contrast", "brightness", "pixelate", "rotate", "elastic", "jpeg")
"""Those of `glow.datasets.corruptions`, which imports torch."""

GPUS_PER_WORKER = TrainSpec.model_fields["gpus_per_worker"].description
CPUS_PER_WORKER = TrainSpec.model_fields["cpus_per_worker"].description


class EvaluationSpec(BaseModel):
    """What every evaluation of a trained model is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = setting(
        None,
        "Model",
        "Trained model: a run's id or name, an MLflow model URI, or a folder; the newest finished training run if not "
        "given, or the best trial where that is an ablation's.",
        "models:/glow-mnist@champion",
    )
    trained_on: str | None = setting(
        None, "Model", "Data set that the model was trained on; what its run says if not given.", "mnist"
    )
    seed: int = setting(0, "Data", "Seed of all that is drawn.", 1)
    data_root: str | None = setting(
        None, "Data", "Folder of the data sets; $GLOW_DATA_ROOT, else a cache folder of yours if not given.", "~/data"
    )
    download: bool = setting(True, "Data", "Fetch files that are missing under the data root.", False)
    background: str | None = setting(
        None,
        "Data",
        "What transparent images of a folder are laid over: white, black, or R,G,B; as in the training if not given.",
        "black",
    )
    precision: Precision = setting(
        "float32", "Compute", "Of the coupling networks; bf16 is faster and rougher.", "bf16"
    )
    gpus_per_worker: float | None = setting(None, "Compute", GPUS_PER_WORKER or "", 1)
    cpus_per_worker: float | None = setting(None, "Compute", CPUS_PER_WORKER or "", 4)
    run_name: str | None = setting(
        None, "Record", "Name of the run in MLflow; made from the model's if not given.", "first"
    )
    experiment: str = setting("glow", "Record", "MLflow experiment, of the model and of this run.", "mnist-study")
    tracking_uri: str | None = setting(
        None,
        "Record",
        "MLflow store; $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in this folder if not given.",
        "http://localhost:5000",
    )
    output: str = setting("outputs", "Record", "Folder for the results, beside MLflow.", "results")

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
            raise ValueError(f"seed must be between 0 and {2**31 - 1}, not {self.seed}")
        gpus = self.gpus_per_worker or 0.0
        if not 0 <= gpus < math.inf or (gpus > 1 and gpus % 1):
            raise ValueError(f"gpus_per_worker is a whole number or a fraction below 1, not {self.gpus_per_worker}")
        if self.cpus_per_worker is not None and not 0 < self.cpus_per_worker < math.inf:
            raise ValueError(f"cpus_per_worker must be above 0, not {self.cpus_per_worker}")
        return self


class ScoringSpec(EvaluationSpec):
    """What a job is told that needs the score of many images."""

    workers: int | None = setting(
        None, "Compute", "Workers that score at once; one a GPU, else one a machine if not given.", 4
    )
    rescore: bool = setting(False, "Compute", "Score again, also what MLflow has scores of.", True)

    @field_validator("workers")
    @classmethod
    def _some_workers(cls, value: int | None) -> int | None:
        if value is not None and value < 1:
            raise ValueError(f"must be at least 1, not {value}")
        return value


class NllSpec(ScoringSpec):
    """Bits/dim of data sets."""

    datasets: tuple[str, ...] | None = setting(
        None, "Data", "Data sets, with commas between; the one trained on if not given.", "mnist,fashion-mnist"
    )
    split: Split = setting("test", "Data", "Which of their images.", "validation")
    noise_samples: int = setting(
        1,
        "Data",
        "K, dequantisation noises per image: more than one also give the importance-weighted bound, which is tighter, "
        "for K times the time.",
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
            raise ValueError(f"must be between 1 and 1000, not {value}")
        return value


class OodSpec(ScoringSpec):
    """The typicality test, and detectors to compare it with."""

    ood_datasets: tuple[str, ...] | None = setting(
        None,
        "Data",
        "Data sets to tell from the one trained on, with commas between; those that make sense and are there if not "
        "given.",
        "fashion-mnist,noise",
    )
    background_model: str | None = setting(
        None,
        "Model",
        "A model of the same data that was trained with --mutation, by any name that --model takes: adds the detector "
        "ratio.",
        "background",
    )
    benchmark: bool = setting(
        False,
        "Data",
        "Test on every data set that is there and whose images are of the model's own shape, beside --ood-datasets.",
        True,
    )
    batch_sizes: tuple[int, ...] = setting(
        (1, 2, 5, 10, 25), "Test", "Every M, images that are judged together, with commas between.", "2,5,10,25"
    )
    alpha: float = setting(0.99, "Test", "Share of in-distribution batches that shall pass.", 0.95)
    protocol: Literal["held-out", "report"] = setting(
        "held-out",
        "Test",
        "held-out: thresholds from images held out of training, tests on whole test sets. report: the course report's, "
        "thresholds from half of the test set by 50 bootstraps, 5000 images of each set, 2 repeats.",
        "report",
    )
    bootstraps: int | None = setting(
        None, "Test", "Batches behind a threshold; 10000, or the report's 50, if not given.", 1000
    )
    center: Literal["train", "validation"] = setting(
        "train", "Test", "Images that the model's entropy is taken from.", "validation"
    )
    corruptions: tuple[str, ...] | None = setting(
        None,
        "Test",
        "Corruptions of the model's own test images to test at five severities, with commas between, or all: "
        f"{', '.join(CORRUPTIONS)}.",
        "all",
    )
    corruption_images: int = setting(1000, "Test", "Test images that are corrupted, by each at each severity.", 200)
    repeats: int | None = setting(
        None, "Test", "Times that thresholds and batches are drawn anew; 1, or the report's 2, if not given.", 10
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
            raise ValueError(f"names {unknown[0]!r}, which there is not: choose from all, {', '.join(CORRUPTIONS)}")
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
            raise ValueError(f"alpha must be between 0 and 1, both excluded, not {self.alpha}")
        for name in ("bootstraps", "repeats"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if min(self.batch_sizes) < 1:
            raise ValueError(f"batch_sizes must be at least 1, not {min(self.batch_sizes)}")
        return self


class SampleSpec(EvaluationSpec):
    """Images drawn from a model."""

    temperature: float = setting(0.7, "Samples", "Scale of the noise at every level.", 1.0)
    temperatures: tuple[float, ...] | None = setting(
        None, "Samples", "A sweep in place of one temperature, with commas between.", "0,0.5,0.7,0.9,1"
    )
    grid: str = setting("10x10", "Samples", "Rows x columns of images.", "4x8")
    only_class: str | None = setting(
        None, "Samples", "Class to draw, by name or number, of a class-conditional model.", "3", flag="--class"
    )

    @field_validator("temperatures", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return value if value is None else numbers(value, float, "numbers such as 0,0.5,0.7")

    @field_validator("grid")
    @classmethod
    def _rows_and_columns(cls, value: str) -> str:
        if not re.fullmatch(r"[1-9]\d{0,2}x[1-9]\d{0,2}", value):
            raise ValueError(f"is ROWSxCOLUMNS such as 10x10, each from 1 to 999, not {value!r}")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        for temperature in self.all_temperatures:
            if not 0 <= temperature < math.inf:
                raise ValueError(f"temperature must be at least 0, not {temperature}")
        return self

    @property
    def rows_and_columns(self) -> tuple[int, int]:
        rows, columns = self.grid.split("x")
        return int(rows), int(columns)

    @property
    def all_temperatures(self) -> tuple[float, ...]:
        return self.temperatures or (self.temperature,)


class InterpolateSpec(EvaluationSpec):
    """Images between two images."""

    pairs_per_class: int = setting(
        1, "Images", "Pairs of test images of each class, drawn at random; a row of the picture each.", 3
    )
    from_image: str | None = setting(None, "Images", "An image file of your own to start from.", "A.png", flag="--from")
    to_image: str | None = setting(None, "Images", "An image file of your own to end at.", "B.png", flag="--to")
    steps: int = setting(10, "Images", "Images a row, both ends counted.", 16)
    mode: Literal["linear", "slerp"] = setting(
        "linear", "Images", "Straight between the latents, or along the arc.", "slerp"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.from_image is None) != (self.to_image is None):
            raise ValueError("--from and --to name the two ends: give both")
        if self.pairs_per_class < 1:
            raise ValueError(f"pairs_per_class must be at least 1, not {self.pairs_per_class}")
        if self.steps < 2:
            raise ValueError(f"steps counts both ends, so it is at least 2, not {self.steps}")
        return self


def _names(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    if not names:
        raise ValueError("names no data set")
    return names
