"""The settings of a training: `TrainSpec`, whose fields are the flags of ``glowctl train``.

A field holds everything that there is to know about a setting: its type, its default, the heading that ``--help`` lists
it under, its help text, and an example. `jobs.specs.presets` has other defaults, and `jobs.specs.evaluation` the
settings of evaluations. Nothing here imports torch, Ray or MLflow, because every command imports this.
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
    Network,
    Optimizer,
    Permutation,
    Scale,
    Schedule,
)
from jobs.specs.base import colour, setting
from jobs.specs.every import every

__all__ = ["ImagesIn", "TrainSpec", "worker_range"]

ImagesIn = Literal["auto", "memory", "files"]
"""Where images are during training."""

MOST_LEVELS = 12
"""Largest number of levels, at which the sides of images are multiples of 4096."""


class TrainSpec(BaseModel):
    """The settings of a training.

    The defaults describe a Glow as in the paper, but small enough for a laptop; presets change them. A value that is
    not allowed raises pydantic's ValidationError, which `jobs.specs.base.validated` turns into a SpecError.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = setting(
        "mnist",
        "Data",
        "Data set to train on: a name that glowctl doctor lists, or your own images as folder:PATH, parquet:PATH, "
        "arrays:PATH or packed:PATH.",
        "folder:photos",
    )
    data_root: str | None = setting(
        None,
        "Data",
        "Folder that contains the data sets. Without it: $GLOW_DATA_ROOT, else ~/.cache/glow/data.",
        "~/data",
    )
    download: bool = setting(True, "Data", "Download files that are missing in the data root.", False)
    per_class: int | None = setting(
        None,
        "Data",
        "Train on only the first N images of each class; 0 is all. Without it: 4000 in presets for mnist, else all.",
        4000,
    )
    leave_out: tuple[str, ...] | None = setting(
        None,
        "Data",
        "Classes to leave out of training and scores, by name or number, with commas between; glowctl ood then tests "
        "whether they are recognized as unknown. Without it: none.",
        "7,8,9",
    )
    image_size: int | None = setting(
        None,
        "Data",
        "Height and width of the images in pixels: smaller images are padded, larger ones shrunk. Without it: the size "
        "of the images in the data set, or 32 for named data sets of 28x28 such as mnist.",
        32,
    )
    images_in: ImagesIn = setting(
        "auto",
        "Data",
        "Where the images are during training. memory: every worker holds all of them, whatever memory is free. files: "
        "workers read batches from a packed data set. auto: files if a packed data set takes more than a tenth of the "
        "free memory, else memory; images that are not packed are refused if they exceed the free memory.",
        "files",
    )
    background: str = setting(
        "white",
        "Data",
        "Background colour for transparent images from folder:PATH or parquet:PATH: white, black, or R,G,B, with each "
        "number from 0 to 255.",
        "black",
    )

    permutation: Permutation = setting(
        "1x1",
        "Model",
        "How each flow step mixes channels: a learned 1x1 convolution, a fixed random shuffle, or a reversal of their "
        "order.",
        "shuffle",
    )
    depth: int = setting(8, "Model", "Number of flow steps per level, K in the paper.", 32)
    levels: int = setting(
        3, "Model", "Number of levels, L in the paper. Each halves height and width, so 2^L must divide both.", 2
    )
    width: int = setting(128, "Model", "Number of hidden channels in the network of each coupling layer.", 512)
    coupling: Coupling = setting(
        "affine",
        "Model",
        "How a coupling layer transforms values: scale and shift (affine), shift alone (additive), or a monotone "
        "rational-quadratic spline.",
        "spline",
    )
    scale: Scale = setting(
        "sigmoid",
        "Model",
        "Scale function of affine couplings. sigmoid: the paper's, in (0, 1). floored: the same but at least e^-2, so "
        "that the inverse of a coupling stretches by at most e^2. bounded: between e^-2 and e^2; deep models can "
        "diverge with it.",
        "floored",
    )
    dequantization: Dequantization = setting(
        "uniform",
        "Model",
        "Noise that is added to the integer grey levels. uniform: uniformly distributed over the width of one "
        "level. variational: drawn by a flow that is learned with the model, which lowers the NLL and takes more time.",
        "variational",
    )
    input: Input = setting(
        "linear",
        "Model",
        "What the first layer receives of each pixel. linear: its value, scaled to [-0.5, 0.5]. logit: the logit of "
        "its value, scaled to (0, 1).",
        "logit",
    )
    checkerboard: int = setting(
        0,
        "Model",
        "Number of coupling layers at full resolution before the first level, which transform one colour of a "
        "checkerboard of pixels, given the other.",
        2,
    )
    network: Network = setting(
        "plain",
        "Model",
        "Network of each coupling layer. plain: the paper's three convolutions. residual: four, of which two are a "
        "residual block. A residual network takes about as long as a plain one of twice its --width.",
        "residual",
    )
    class_conditional: bool = setting(
        False, "Model", "Give each class a separate mean and scale of the topmost latents.", True
    )
    bits: int = setting(
        8,
        "Model",
        "Number of most significant bits that the model sees of each 8-bit value, 1 to 8. NLLs at different numbers of "
        "bits cannot be compared.",
        5,
    )

    epochs: int = setting(8, "Optimisation", "Number of passes over the training images.", 70)
    batch_size: int = setting(128, "Optimisation", "Number of images per step, divided among all workers.", 256)
    learning_rate: float = setting(
        2e-3,
        "Optimisation",
        "Learning rate before the factors of --warmup-steps and --schedule. A training with too few steps after its "
        "warm-up stays below it, and begins with a note that says so.",
        1e-4,
    )
    optimizer: Optimizer = setting("adam", "Optimisation", "Optimizer: Adam, or its variant Adamax.", "adamax")
    schedule: Schedule = setting(
        "cosine",
        "Optimisation",
        "Factor of the learning rate: constant, or cosine, which falls from 1 at the first step to 0 after the last.",
        "constant",
    )
    warmup_steps: int = setting(
        300, "Optimisation", "Number of steps over which the learning rate grows linearly from 0.", 1000
    )
    clip_norm: float | None = setting(
        100.0,
        "Optimisation",
        "Largest norm of the gradient of bits/dim; a longer gradient is scaled down to it. 0 turns this off.",
        1.0,
    )
    ema: float | None = setting(
        None,
        "Optimisation",
        "Decay per step of a moving average of the weights, which then is evaluated and saved in their place. Without "
        "it, or with 0: no average.",
        0.999,
    )
    accumulate: int = setting(
        1,
        "Optimisation",
        "Number of parts into which each worker splits its share of a batch. The worker computes the parts one after "
        "the other, to save memory.",
        4,
    )
    flip: bool = setting(
        False,
        "Optimisation",
        "Mirror a random half of the training images left to right in each epoch. Scores use unmirrored images.",
        True,
    )
    mutation: float = setting(
        0.0,
        "Optimisation",
        "Share of the values of each training image that are replaced by random values, from 0 to below 1. A positive "
        "share makes a background model for glowctl ood --background-model.",
        0.2,
    )
    seed: int = setting(
        0, "Optimisation", "Seed of the initial weights, the order of the images, their noise, flips and mutations.", 1
    )

    workers: str = setting(
        "1",
        "Compute",
        "Number of data-parallel workers, or MIN:MAX for elastic training, which goes on with as many as there is room "
        "for.",
        "2:8",
    )
    gpus_per_worker: float | None = setting(
        None,
        "Compute",
        "GPUs per worker: a whole number, or a fraction, so that workers share a GPU. Without it: 1 if there are GPUs, "
        "else 0.",
        1,
    )
    cpus_per_worker: float | None = setting(
        None,
        "Compute",
        "CPU cores per worker. Without it: 1 for a worker with a GPU, else an equal share of all cores.",
        4,
    )
    precision: FitPrecision = setting(
        "auto",
        "Compute",
        "Number format in the coupling networks. auto: bf16 if the hardware computes in it, else float32.",
        "bf16",
    )
    compile: bool = setting(
        False, "Compute", "Use torch.compile, which makes GPUs faster after a minute or more at the start.", True
    )
    memory: Memory = setting(
        "stored",
        "Compute",
        "What happens to activations. stored: kept for the gradient. reversible: computed again from the outputs, so "
        "that memory does not grow with --depth, in about 1.4 times the time.",
        "reversible",
    )
    gradient_precision: GradientPrecision = setting(
        "float32",
        "Compute",
        "Number format of the gradients that workers exchange. bf16 halves the bytes, and results then depend on the "
        "number of workers.",
        "bf16",
    )
    max_failures: int = setting(
        3,
        "Compute",
        "Number of failures, such as a lost worker, after each of which training restarts from its last checkpoint; "
        "one more ends the run. An ablation counts the failures of each trial.",
        10,
    )

    checkpoint_every: str = setting(
        "1",
        "Record",
        "Interval between checkpoints: epochs such as 5, steps such as 500steps, or a time such as 90s, 10m or 2h.",
        "500steps",
    )
    sample_every: int = setting(
        1, "Record", "Number of epochs between pictures of samples; 0 makes only the last one.", 10
    )
    test_every: int = setting(
        0, "Record", "Number of epochs between scores of the test set; 0 scores it only at the end.", 1
    )
    temperature: float = setting(
        0.7, "Record", "Scale of the latent noise in pictures of samples; 1 samples the model's distribution.", 1.0
    )
    run_name: str | None = setting(
        None, "Record", "Name of the run in MLflow. Without it: made from the settings.", "first"
    )
    experiment: str = setting("glow", "Record", "MLflow experiment to record in, made if it is new.", "mnist-study")
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
        "Folder (made if it is new) for results and checkpoints, or bucket for checkpoints. MLflow has the results in "
        "both cases.",
        "s3://bucket/glow",
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
        _, most = worker_range(self.workers)
        self._check_optimisation()
        if self.batch_size < most:
            raise ValueError(
                f"--batch-size {self.batch_size} cannot be shared by --workers {self.workers}: use at least {most}, or "
                "fewer workers"
            )
        for name in ("max_failures", "sample_every", "test_every", "temperature"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be from 0 to {2**31 - 1}, not {self.seed}")
        for name in ("per_class", "image_size", "cpus_per_worker"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                allowed = "at least 1, or 0 for all images" if name == "per_class" else "above 0"
                raise ValueError(f"{name} must be {allowed}, not {value}")
        gpus = self.gpus_per_worker or 0.0
        if not 0 <= gpus < math.inf or (gpus > 1 and gpus % 1):
            raise ValueError(f"gpus_per_worker must be a whole number or a fraction below 1, not {gpus}")
        if not 1 <= self.levels <= MOST_LEVELS:
            raise ValueError(f"levels must be from 1 to {MOST_LEVELS}, not {self.levels}")
        side = 2**self.levels  # of images that fit, since the data set's own are not known yet
        self.glow_config((1, side, side), num_classes=1)
        return self

    def _check_optimisation(self) -> None:
        """Raise ValueError for what `FitConfig` refuses, first where flags have other words for it than `FitConfig`."""
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be above 0, or 0 for no clipping, not {self.clip_norm}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema must be above 0 and below 1, or 0 for no average, not {self.ema}")
        if self.compile and self.memory == "reversible":
            raise ValueError("--compile cannot be combined with --memory reversible: leave out one of them")
        self.fit_config()

    def fit_config(self) -> FitConfig:
        """Return the settings of the optimisation as the library takes them.

        Raises:
            ValueError: for a value that the library does not allow.
        """
        return FitConfig(**{name: getattr(self, name) for name in FitConfig.__dataclass_fields__})

    def glow_config(self, image_shape: tuple[int, int, int], num_classes: int) -> GlowConfig:
        """Return the architecture of the model.

        Args:
            image_shape: (channels, height, width) of the images.
            num_classes: number of classes, which only a class-conditional model needs.

        Raises:
            ValueError: if 2**levels does not divide height and width.
        """
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
            checkerboard=self.checkerboard,
            network=self.network,
            num_classes=num_classes if self.class_conditional else None,
            seed=self.seed,
            bits=self.bits,
        )

    def to_json(self) -> str:
        """Return the settings as the text of a ``spec.json``, which ``--spec`` reads."""
        return self.model_dump_json(indent=2) + "\n"


def worker_range(workers: str) -> tuple[int, int]:
    """Read the value of ``--workers`` as the smallest and the largest number of workers.

    Raises:
        ValueError: for anything but N or MIN:MAX.

    Example:
        >>> worker_range("4"), worker_range("2:8")
        ((4, 4), (2, 8))
    """
    parts = workers.split(":")
    if not all(part.isascii() and part.isdigit() and int(part) >= 1 for part in parts) or len(parts) > 2:
        raise ValueError(f"workers must be a number such as 4, or MIN:MAX such as 2:8, not {workers!r}")
    least, most = int(parts[0]), int(parts[-1])
    if least > most:
        raise ValueError(f"workers must be MIN:MAX with MIN at most MAX, not {workers!r}")
    return least, most
