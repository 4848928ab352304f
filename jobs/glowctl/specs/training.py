"""The settings of a training: `TrainSpec`, whose fields are the flags of ``glowctl train``, and the presets.

A field has everything that there is to know about a setting: its type, its default, the heading that ``--help`` lists
it under, an example, and its help text. `PRESETS` has other defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

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
    Normalization,
    Optimizer,
    Permutation,
    Scale,
    Schedule,
)
from glowctl.errors import SpecError
from glowctl.specs.base import (
    Cpus,
    Gpus,
    NotNegative,
    Positive,
    Price,
    Seed,
    Several,
    Spec,
    Temperature,
    Text,
    as_text,
    colour,
    every,
    setting,
    validated,
)

ImagesIn = Literal["auto", "memory", "files"]
"""Where images are during training."""

MOST_LEVELS = 12
"""Largest number of levels, at which the sides of images are multiples of 4096."""


def read_encoder(name: str) -> tuple[str, str]:
    """Read the value of ``--encoder``, such as "timm:resnet18", as a library and a name.

    Raises:
        ValueError: for anything but timm:NAME, torchvision:NAME and file:PATH.
    """
    kind, _, called = name.partition(":")
    if kind not in ("timm", "torchvision", "file") or not called:
        raise ValueError(f"must be timm:NAME, torchvision:NAME or file:PATH, not {name!r}")
    return kind, called


def worker_range(workers: str) -> tuple[int, int]:
    """Read the value of ``--workers`` as the smallest and the largest number of workers.

    Raises:
        ValueError: for anything but N or MIN:MAX.

    Examples:
        >>> worker_range("4"), worker_range("2:8")
        ((4, 4), (2, 8))
    """
    parts = workers.split(":")
    if not all(part.isascii() and part.isdigit() and int(part) >= 1 for part in parts) or len(parts) > 2:
        raise ValueError(f"must be a number such as 4, or MIN:MAX such as 2:8, not {workers!r}")
    least, most = int(parts[0]), int(parts[-1])
    if least > most:
        raise ValueError(f"must be MIN:MAX with MIN at most MAX, not {workers!r}")
    return least, most


ZERO_IS_NONE = AfterValidator(lambda value: value or None)
BLANK_IS_NONE = BeforeValidator(lambda value: None if isinstance(value, str) and not value.strip(", ") else value)
NUMBER_IS_TEXT = BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)


class TrainSpec(Spec):
    """The settings of a training.

    The defaults describe a Glow as in the paper, but small enough for a laptop; presets change them. A value that is
    not allowed raises pydantic's ValidationError, which `glowctl.specs.base.validated` turns into a SpecError.
    """

    dataset: Text = setting("mnist", "Data", "folder:photos")
    """Data set to train on: a name that glowctl doctor lists, or your own images as folder:PATH, parquet:PATH,
    arrays:PATH or packed:PATH."""
    data_root: str | None = setting(None, "Data", "~/data")
    """Folder that contains the data sets. Without it: $GLOW_DATA_ROOT, else ~/.cache/glow/data."""
    download: bool = setting(True, "Data", False)
    """Download files that are missing in the data root."""
    per_class: Annotated[NotNegative | None, ZERO_IS_NONE] = setting(None, "Data", 4000)
    """Train on only the first N images of each class; 0 is all. Without it: 4000 in presets for mnist, else all."""
    leave_out: Annotated[Several[str] | None, BLANK_IS_NONE] = setting(None, "Data", "7,8,9")
    """Classes to leave out of training and scores, by name or number, with commas between; glowctl ood then tests
    whether they are recognized as unknown. Without it: none."""
    image_size: Positive | None = setting(None, "Data", 32)
    """Height and width of the images in pixels: smaller images are padded, larger ones shrunk. Without it: the size of
    the images in the data set, or 32 for named data sets of 28x28 such as mnist."""
    images_in: ImagesIn = setting("auto", "Data", "files")
    """Where the images are during training. memory: every worker holds all of them, whatever memory is free. files:
    workers read batches from a packed data set. auto: files if a packed data set takes more than a tenth of the free
    memory, else memory; images that are not packed are refused if they exceed the free memory."""
    background: Annotated[str, as_text(colour)] = setting("white", "Data", "black")
    """Background colour for transparent images from folder:PATH or parquet:PATH: white, black, or R,G,B, with each
    number from 0 to 255."""

    permutation: Permutation = setting("1x1", "Model", "shuffle")
    """How each flow step mixes channels: a learned 1x1 convolution, a fixed random shuffle, or a reversal of their
    order."""
    depth: int = setting(8, "Model", 32)
    """Number of flow steps per level, K in the paper."""
    levels: Annotated[int, Field(ge=1, le=MOST_LEVELS)] = setting(3, "Model", 2)
    """Number of levels, L in the paper. Each halves height and width, so 2^L must divide both."""
    width: int = setting(128, "Model", 512)
    """Number of hidden channels in the network of each coupling layer."""
    coupling: Coupling = setting("affine", "Model", "spline")
    """How a coupling layer transforms values: scale and shift (affine), shift alone (additive), or a monotone
    rational-quadratic spline."""
    scale: Scale = setting("sigmoid", "Model", "floored")
    """Scale function of affine couplings. sigmoid: the paper's, in (0, 1). floored: the same but at least e^-2, so that
    the inverse of a coupling stretches by at most e^2. bounded: between e^-2 and e^2; deep models can diverge with
    it."""
    dequantization: Dequantization = setting("uniform", "Model", "variational")
    """Noise that is added to the integer grey levels. uniform: uniformly distributed over the width of one level.
    variational: drawn by a flow that is learned with the model, which lowers the NLL and takes more time."""
    input: Input = setting("linear", "Model", "logit")
    """What the first layer receives of each pixel. linear: its value, scaled to [-0.5, 0.5]. logit: the logit of its
    value, scaled to (0, 1)."""
    checkerboard: int = setting(0, "Model", 2)
    """Number of coupling layers at full resolution before the first level, which transform one colour of a checkerboard
    of pixels, given the other."""
    network: Network = setting("plain", "Model", "residual")
    """Network of each coupling layer. plain: the paper's three convolutions. residual: four, of which two are a
    residual block. A residual network takes about as long as a plain one of twice its --width. attention: a block of a
    vision transformer between two convolutions."""
    actnorm: Normalization = setting("on", "Model", "off")
    """Whether each step of flow begins with an ActNorm, a learned scale and bias per channel: on or off."""
    heads: int = setting(4, "Model", 8)
    """Number of attention heads of each network with --network attention; it must divide --width."""
    class_conditional: bool = setting(False, "Model", True)
    """Give each class a separate mean and scale of the topmost latents."""
    bits: int = setting(8, "Model", 5)
    """Number of most significant bits that the model sees of each 8-bit value, 1 to 8. NLLs at different numbers of
    bits cannot be compared."""

    encoder: Annotated[str, as_text(read_encoder)] | None = setting(None, "Encoder", "timm:resnet18.a1_in1k")
    """Frozen network whose features tell what images show: timm:NAME, torchvision:NAME, or file:PATH (TorchScript or
    torch.export), with weights on this machine. The model keeps the features of training images, so that ood, check and
    watch have the detectors called features, mahalanobis and combined. Without it: no such detectors."""
    encoder_weights: Text | None = setting(None, "Encoder", "weights.safetensors")
    """File with the weights of a network of timm or torchvision. Without it: those that the library has downloaded
    before."""
    encoder_size: Positive | None = setting(None, "Encoder", 128)
    """Height and width in pixels to which images are resized for the encoder. Without it: what the library or the file
    states."""
    encoder_references: Annotated[int, Field(ge=2)] = setting(10_000, "Encoder", 50_000)
    """Largest number of training images whose features other images are compared with. Of more, as many are drawn at
    random."""
    encoder_download: bool = setting(False, "Encoder", True)
    """Let the library download weights of the encoder that are not on this machine."""

    epochs: int = setting(8, "Optimisation", 70)
    """Number of passes over the training images."""
    batch_size: int = setting(128, "Optimisation", 256)
    """Number of images per step, divided among all workers."""
    learning_rate: float = setting(2e-3, "Optimisation", 1e-4)
    """Learning rate before the factors of --warmup-steps and --schedule. A training with too few steps after its
    warm-up stays below it, and begins with a note that says so."""
    optimizer: Optimizer = setting("adam", "Optimisation", "adamax")
    """Optimizer: Adam, or its variant Adamax."""
    schedule: Schedule = setting("cosine", "Optimisation", "constant")
    """Factor of the learning rate: constant, or cosine, which falls from 1 at the first step to 0 after the last."""
    warmup_steps: int = setting(300, "Optimisation", 1000)
    """Number of steps over which the learning rate grows linearly from 0."""
    clip_norm: Annotated[Annotated[float, Field(ge=0)] | None, ZERO_IS_NONE] = setting(100.0, "Optimisation", 1.0)
    """Largest norm of the gradient of bits/dim; a longer gradient is scaled down to it. 0 turns this off."""
    ema: Annotated[Annotated[float, Field(ge=0, lt=1)] | None, ZERO_IS_NONE] = setting(None, "Optimisation", 0.999)
    """Decay per step of a moving average of the weights, which then is evaluated and saved in their place. Without it,
    or with 0: no average."""
    accumulate: int = setting(1, "Optimisation", 4)
    """Number of parts into which each worker splits its share of a batch. The worker computes the parts one after the
    other, to save memory."""
    flip: bool = setting(False, "Optimisation", True)
    """Mirror a random half of the training images left to right in each epoch. Scores use unmirrored images."""
    mutation: float = setting(0.0, "Optimisation", 0.2)
    """Share of the values of each training image that are replaced by random values, from 0 to below 1. A positive
    share makes a background model for glowctl ood --background-model."""
    seed: Seed = setting(0, "Optimisation", 1)
    """Seed of the initial weights, the order of the images, their noise, flips and mutations."""

    workers: Annotated[str, NUMBER_IS_TEXT, as_text(worker_range)] = setting("1", "Compute", "2:8")
    """Number of data-parallel workers, or MIN:MAX for elastic training, which goes on with as many as there is room
    for."""
    gpus_per_worker: Gpus | None = setting(None, "Compute", 1)
    """GPUs per worker: a whole number, or a fraction, so that workers share a GPU. Without it: 1 if there are GPUs,
    else 0."""
    cpus_per_worker: Cpus | None = setting(None, "Compute", 4)
    """CPU cores per worker. Without it: 1 for a worker with a GPU, else an equal share of all cores."""
    precision: FitPrecision = setting("auto", "Compute", "bf16")
    """Number format in the coupling networks. auto: bf16 if the hardware computes in it, else float32."""
    compile: bool = setting(False, "Compute", True)
    """Use torch.compile, which makes GPUs faster after a minute or more at the start."""
    memory: Memory = setting("stored", "Compute", "reversible")
    """What happens to activations. stored: kept for the gradient. reversible: computed again from the outputs, so that
    memory does not grow with --depth, in about 1.4 times the time."""
    gradient_precision: GradientPrecision = setting("float32", "Compute", "bf16")
    """Number format of the gradients that workers exchange. bf16 halves the bytes, and results then depend on the
    number of workers."""
    max_failures: NotNegative = setting(3, "Compute", 10)
    """Number of failures, such as a lost worker, after each of which training restarts from its last checkpoint; one
    more ends the run. An ablation counts the failures of each trial."""

    price: Price | None = setting(None, "Compute", 1.2)
    """Price per hour of a GPU, or of a core if no GPU is used: the estimate and the record then have the price of the
    run."""
    max_hours: Price | None = setting(None, "Compute", 12)
    """Time some steps first, and refuse a new run that would take more hours."""
    max_price: Price | None = setting(None, "Compute", 50)
    """Time some steps first, and refuse a new run that would cost more; needs --price."""

    checkpoint_every: Annotated[str, NUMBER_IS_TEXT, as_text(every)] = setting("1", "Record", "500steps")
    """Interval between checkpoints: epochs such as 5, steps such as 500steps, or a time such as 90s, 10m or 2h."""
    sample_every: NotNegative = setting(1, "Record", 10)
    """Number of epochs between pictures of samples; 0 makes only the last one."""
    test_every: NotNegative = setting(0, "Record", 1)
    """Number of epochs between scores of the test set; 0 scores it only at the end."""
    temperature: Temperature = setting(0.7, "Record", 1.0)
    """Scale of the latent noise in pictures of samples; 1 samples the model's distribution."""
    run_name: Text | None = setting(None, "Record", "first")
    """Name of the run in MLflow. Without it: made from the settings."""
    experiment: Text = setting("glow", "Record", "mnist-study")
    """MLflow experiment to record in, made if it is new."""
    tracking_uri: str | None = setting(None, "Record", "http://localhost:5000")
    """MLflow store: the URL of a server or database, such as sqlite:///FILE. Without it: $MLFLOW_TRACKING_URI, else
    sqlite:///mlflow.db in this folder."""
    on_end: Text | None = setting(None, "Record", "https://example.org/ended")
    """Address or command that is told how the run ended, also if it was killed: JSON, as the body of a POST or on
    standard input. The run in MLflow shows it, so it must not contain a secret. Without it: nothing is told."""
    output: Text = setting("outputs", "Record", "s3://bucket/glow")
    """Folder (made if it is new) for results and checkpoints, or bucket for checkpoints. MLflow has the results in both
    cases."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.compile and self.memory == "reversible":
            raise ValueError("--compile cannot be combined with --memory reversible: leave out one of them")
        if self.max_price is not None and self.price is None:
            raise ValueError("--max-price needs the price of an hour: add --price, such as --price 1.2")
        self.fit_config()
        _, most = worker_range(self.workers)
        if self.batch_size < most:
            raise ValueError(
                f"--batch-size {self.batch_size} cannot be shared by --workers {self.workers}: use at least {most}, or "
                "fewer workers"
            )
        side = 2**self.levels  # of images that fit, since the data set's own are not known yet
        self.glow_config((1, side, side), num_classes=1)
        return self

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
        names = GlowConfig.__dataclass_fields__.keys() - {"image_shape", "num_classes"}
        return GlowConfig(
            image_shape=image_shape,
            num_classes=num_classes if self.class_conditional else None,
            **{name: getattr(self, name) for name in names},
        )


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


def apart_from_seed(settings: Mapping[str, Any]) -> str:
    """Return what a training learns from, as text that is equal for trainings which differ in nothing but their seed.

    Args:
        settings: values by the names of fields of `TrainSpec`, as JSON has them.
    """
    themes = {
        name: extra["theme"]
        for name, field in TrainSpec.model_fields.items()
        if isinstance(extra := field.json_schema_extra, dict)
    }
    learnt = {"Data", "Model", "Optimisation"}
    left_out = {"seed", "data_root", "download"}
    return json.dumps({name: settings.get(name) for name in themes if themes[name] in learnt and name not in left_out})
