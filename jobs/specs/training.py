"""What a job is told: one frozen pydantic model a job, and the presets that fill it (`jobs.specs.evaluation` has the
evaluation jobs' models).

A field is everything there is to know of a setting: its type, its default, the theme that `glowctl --help` lists it
under, what it means and in which unit, and an example. No torch, ray or mlflow here: the command line imports this.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from glow.config import (
    Coupling,
    Dequantization,
    FitConfig,
    FitPrecision,
    GlowConfig,
    GradientPrecision,
    Input,
    Memory,
    Optimizer,
    Permutation,
    Scale,
    Schedule,
)
from jobs.specs.base import colour, setting
from jobs.specs.every import every

__all__ = ["ImagesIn", "TrainSpec", "worker_range"]

ImagesIn = Literal["auto", "memory", "files"]


class TrainSpec(BaseModel):
    """A training job. The defaults are a Glow of the paper's kind at a laptop's size; presets change them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = setting(
        "mnist",
        "Data",
        "Data set to train on, by name, or your own images: folder:PATH, arrays:PATH or packed:PATH.",
        "mnist",
    )
    data_root: str | None = setting(
        None, "Data", "Folder of the data sets; $GLOW_DATA_ROOT, else a cache folder of yours if not given.", "~/data"
    )
    download: bool = setting(True, "Data", "Fetch files that are missing under the data root.", False)
    per_class: int | None = setting(
        None, "Data", "Train on the first N images of each class, 0 for all; the presets of mnist take 4000.", 4000
    )
    leave_out: tuple[str, ...] | None = setting(
        None,
        "Data",
        "Classes to train and score without, by name or number, with commas between; glowctl ood tests on them.",
        "7,8,9",
    )
    image_size: int | None = setting(
        None, "Data", "Side in pixels that images are padded or shrunk to; the data set's own if not given.", 32
    )
    images_in: ImagesIn = setting(
        "auto",
        "Data",
        "Where images are while they are trained on: memory; files, for a packed data set larger than that; auto holds "
        "what is small.",
        "files",
    )
    background: str = setting(
        "white", "Data", "What transparent images of a folder are laid over: white, black, or R,G,B.", "black"
    )

    permutation: Permutation = setting("1x1", "Model", "How a step mixes channels.", "shuffle")
    depth: int = setting(8, "Model", "K, flow steps a level.", 32)
    levels: int = setting(3, "Model", "L, levels; each halves the image's sides.", 3)
    width: int = setting(128, "Model", "Hidden channels of each coupling network.", 512)
    coupling: Coupling = setting("affine", "Model", "Kind of coupling layer.", "spline")
    scale: Scale = setting(
        "sigmoid",
        "Model",
        "Scale of affine couplings; floored and bounded ones have a safe inverse, floored ones train at every depth.",
        "floored",
    )
    dequantization: Dequantization = setting(
        "uniform",
        "Model",
        "Noise between grey levels: uniform, or variational, learned with the model for a lower NLL.",
        "variational",
    )
    input: Input = setting("linear", "Model", "What the first layer sees of a pixel: its value or its logit.", "logit")
    class_conditional: bool = setting(False, "Model", "Condition the top prior on the class.", True)
    bits: int = setting(
        8, "Model", "Bits of each value that the model sees, 1 to 8; NLLs of different ones cannot be compared.", 5
    )

    epochs: int = setting(8, "Optimisation", "Passes over the training images.", 70)
    batch_size: int = setting(128, "Optimisation", "Images a step, over all workers together.", 256)
    learning_rate: float = setting(2e-3, "Optimisation", "Peak learning rate.", 1e-4)
    optimizer: Optimizer = setting("adam", "Optimisation", "Optimizer.", "adamax")
    schedule: Schedule = setting("cosine", "Optimisation", "Learning rate after warm-up.", "constant")
    warmup_steps: int = setting(300, "Optimisation", "Steps of linear warm-up.", 1000)
    clip_norm: float | None = setting(
        100.0, "Optimisation", "Largest gradient norm, of bits/dim; 0 does not clip.", 1.0
    )
    ema: float | None = setting(None, "Optimisation", "Decay of averaged weights; no average if not given.", 0.999)
    accumulate: int = setting(1, "Optimisation", "Parts that a worker's share of a batch is computed in.", 4)
    flip: bool = setting(
        False, "Optimisation", "Mirror half of the images left to right in each epoch; scores never do.", True
    )
    mutation: float = setting(
        0.0,
        "Optimisation",
        "Share of each training image's numbers that is replaced by random ones: a background model for glowctl ood "
        "--background-model.",
        0.2,
    )
    seed: int = setting(0, "Optimisation", "Seed of the weights, the order of the images, their noise and flips.", 1)

    workers: str = setting("1", "Compute", "Data-parallel workers: N, or MIN:MAX for elastic training.", "2:8")
    gpus_per_worker: float | None = setting(
        None, "Compute", "GPUs a worker, fractions allowed; 1 where there are GPUs, else 0 if not given.", 1
    )
    cpus_per_worker: float | None = setting(
        None, "Compute", "Cores a worker; 1 beside a GPU, else all cores shared out if not given.", 4
    )
    precision: FitPrecision = setting(
        "auto", "Compute", "Of the coupling networks; auto is bf16 where hardware has it.", "bf16"
    )
    compile: bool = setting(False, "Compute", "Use torch.compile, for GPUs: a minute or more at the start.", True)
    memory: Memory = setting(
        "stored",
        "Compute",
        "Of activations: reversible makes them again, so that depth costs no memory, for 1.4 times the time.",
        "reversible",
    )
    gradient_precision: GradientPrecision = setting(
        "float32",
        "Compute",
        "Of gradients between workers: bf16 sends half the bytes, and another number of workers takes other steps.",
        "bf16",
    )
    max_failures: int = setting(3, "Compute", "Worker failures that a run survives before it gives up.", 10)

    checkpoint_every: str = setting(
        "1", "Record", "Between checkpoints: epochs as 5, steps as 500steps, or time as 10m.", "500steps"
    )
    sample_every: int = setting(1, "Record", "Epochs between sample grids; 0 for none but the last.", 10)
    test_every: int = setting(0, "Record", "Epochs between scores of the test set; 0 for the end alone.", 1)
    temperature: float = setting(0.7, "Record", "Temperature of the sample grids.", 1.0)
    run_name: str | None = setting(
        None, "Record", "Name of the run in MLflow; made from the settings if not given.", "first"
    )
    experiment: str = setting("glow", "Record", "MLflow experiment.", "mnist-study")
    tracking_uri: str | None = setting(
        None,
        "Record",
        "MLflow store; $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in this folder if not given.",
        "http://localhost:5000",
    )
    output: str = setting(
        "outputs", "Record", "Folder or bucket for results, and for checkpoints while training.", "s3://bucket/glow"
    )

    @field_validator("clip_norm", "ema", "per_class")
    @classmethod
    def _zero_is_none(cls, value: float | None) -> float | None:
        return value or None

    @field_validator("run_name", "experiment", "dataset", "output")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("must not be empty")
        return value

    @field_validator("leave_out", mode="before")
    @classmethod
    def _classes(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip())) or None

    @field_validator("checkpoint_every")
    @classmethod
    def _is_every(cls, value: str) -> str:
        every(value)
        return value

    @field_validator("background")
    @classmethod
    def _is_colour(cls, value: str) -> str:
        colour(value)
        return value

    @field_validator("workers", "checkpoint_every", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        least, most = worker_range(self.workers)
        self.fit_config()
        if self.batch_size < most:
            raise ValueError(
                f"a batch of {self.batch_size} images cannot be shared by {most} workers: raise batch_size"
            )
        for name, least in (
            ("max_failures", 0),
            ("sample_every", 0),
            ("test_every", 0),
            ("temperature", 0),
        ):
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be between 0 and {2**31 - 1}, not {self.seed}")
        for name in ("per_class", "image_size", "cpus_per_worker"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, not {value}")
        gpus = self.gpus_per_worker or 0.0
        if not 0 <= gpus < math.inf or (gpus > 1 and gpus % 1):
            raise ValueError(f"gpus_per_worker is a whole number or a fraction below 1, not {self.gpus_per_worker}")
        side = 2 ** max(1, min(self.levels, 12))
        self.glow_config((1, side, side), num_classes=1)
        return self

    def fit_config(self) -> FitConfig:
        """Raises ValueError for an optimisation that cannot be."""
        return FitConfig(**{name: getattr(self, name) for name in FitConfig.__dataclass_fields__})

    def glow_config(self, image_shape: tuple[int, int, int], num_classes: int) -> GlowConfig:
        """The model for images of this shape. Raises ValueError if the levels do not divide it."""
        return GlowConfig(
            image_shape=image_shape,
            levels=self.levels,
            depth=self.depth,
            width=self.width,
            permutation=self.permutation,
            coupling=self.coupling,
            scale=self.scale,
            dequantization=self.dequantization,
            input=self.input,
            num_classes=num_classes if self.class_conditional else None,
            seed=self.seed,
            bits=self.bits,
        )

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


def worker_range(workers: str) -> tuple[int, int]:
    """ "4" -> (4, 4); "2:8" -> (2, 8). Raises ValueError for anything else."""
    parts = workers.split(":")
    if not all(part.isascii() and part.isdigit() and int(part) >= 1 for part in parts) or len(parts) > 2:
        raise ValueError(f"workers is a number such as 4, or MIN:MAX such as 2:8, not {workers!r}")
    least, most = int(parts[0]), int(parts[-1])
    if least > most:
        raise ValueError(f"workers {workers!r}: the first number must not be above the second")
    return least, most
