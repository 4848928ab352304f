"""The settings of evaluations of a trained model: one spec per command, `nll`, `sample`, `interpolate` and `ood`.

The fields of a spec are the flags of its command, and ``glowctl evaluate`` has the flags of all four commands. A field
that several specs have has the same help in each. Nothing here imports torch, Ray or MLflow, because every command
imports this.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from glowctl.specs.base import (
    Cpus,
    Gpus,
    Positive,
    Seed,
    Several,
    Share,
    Spec,
    Temperature,
    Text,
    as_text,
    colour,
    same_as,
    setting,
)
from glowctl.specs.training import TrainSpec, read_encoder

Precision = Literal["float32", "bf16"]
Split = Literal["train", "validation", "test"]

Corruption = Literal["noise", "blur", "contrast", "brightness", "pixelate", "rotate", "elastic", "jpeg"]

CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)
"""Names of the corruptions in `glow.datasets.corruptions`, repeated here because that module imports torch."""

USED_WITHOUT = {"temperature": "temperatures", "pairs_per_class": "from_image"}
"""Fields of evaluations -> the field that is used in their place if it has a value."""

USED_WITH = {
    "corruption_images": "corruptions",
    **dict.fromkeys(("encoder_size", "encoder_references"), "encoder"),
}
"""Fields of evaluations -> the field without which they have no use."""


def read_grid(grid: str) -> tuple[int, int]:
    """Read the value of ``--grid``, such as "4x8", as numbers of rows and columns.

    Raises:
        ValueError: for anything but ROWSxCOLUMNS, each from 1 to 999.
    """
    found = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d{0,2})", grid)
    if found is None:
        raise ValueError(f"must be ROWSxCOLUMNS such as 10x10, each from 1 to 999, not {grid!r}")
    return int(found[1]), int(found[2])


class ModelSpec(Spec):
    """The settings that all jobs with a trained model have."""

    model: Text | None = setting(None, "Model", "models:/glow-mnist@champion")
    """Trained model: the id or name of its run, an MLflow model URI, a folder with a checkpoint, or pretrained:NAME
    for a model that comes with glowctl (mnist, fashion-mnist, cifar10). Without it: the newest finished training; if
    that training is a trial of an ablation, the best trial of the ablation."""
    seed: Seed = setting(0, "Data", 1)
    """Seed of everything random: noise, samples, pairs and batches."""
    data_root: str | None = setting(None, "Data", "~/data")
    """Folder that contains the data sets. Without it: that of the training, else $GLOW_DATA_ROOT, else
    ~/.cache/glow/data."""
    download: bool = same_as(TrainSpec, "download")
    background: Annotated[str, as_text(colour)] | None = setting(None, "Data", "black")
    """Background colour for transparent images from folder:PATH or parquet:PATH: white, black, or R,G,B, with each
    number from 0 to 255. Without it: as in the training."""
    run_name: Text | None = setting(None, "Record", "first")
    """Name of the run in MLflow. Without it: the command and the model, as in 'ood mnist 1x1'."""
    experiment: Text = setting("glow", "Record", "mnist-study")
    """MLflow experiment to find the model in and to record in, made if it is new."""
    tracking_uri: str | None = same_as(TrainSpec, "tracking_uri")
    on_end: Text | None = same_as(TrainSpec, "on_end")
    output: Text = setting("outputs", "Record", "results")
    """Folder (made if it is new) for results, of which MLflow keeps a copy. If it is a bucket, MLflow alone has the
    results."""


class EvaluationSpec(ModelSpec):
    """The settings that all evaluations of a trained model have."""

    model: Text | None = setting(None, "Model", "models:/glow-mnist@champion")
    """Trained model: the id or name of its run, an MLflow model URI, a folder with a checkpoint, or pretrained:NAME
    for a model that comes with glowctl (mnist, fashion-mnist, cifar10). Several, with commas between, or the name of an
    ablation for all its trials, are evaluated in turn. Without it: the newest finished training; if that training is a
    trial of an ablation, the best trial of the ablation."""
    trained_on: Text | None = setting(None, "Model", "mnist")
    """Data set that the model was trained on, or a copy of it; --leave-out and --per-class of the training apply to it.
    Without it: the one in the settings of the training, which are in its MLflow run or in spec.json beside the
    checkpoint."""
    precision: Precision = setting("float32", "Compute", "bf16")
    """Number format in the coupling networks; bf16 is faster and less accurate."""
    gpus_per_worker: Gpus | None = same_as(TrainSpec, "gpus_per_worker")
    cpus_per_worker: Cpus | None = same_as(TrainSpec, "cpus_per_worker")


class CheckSpec(ModelSpec):
    """The settings of ``glowctl check``: whether a batch of images belongs, and which of its images do not."""

    sources: Several[Text] = setting(..., "Data", "photos")
    """Images to check: files, a folder, a bucket, the name of a data set, or - for paths on standard input."""
    reference: Text | None = setting(None, "Test", "folder:healthy")
    """Images that belong, named as those to check, with which these are compared. Without it: the images that were held
    out of the training."""
    detector: Text | None = setting(None, "Test", "joint")
    """Detector that judges the batch in addition to the typicality test, and single images. Without it: the one
    that separates corrupted held-out images best, as glowctl ood recommends."""
    encoder_weights: Text | None = setting(None, "Encoder", "weights.safetensors")
    """File with the weights of the encoder that the model was trained with, if its detectors are used. Without it: the
    file of the training, or what the library has downloaded before."""
    encoder_download: bool = same_as(TrainSpec, "encoder_download")
    alpha: Share = setting(0.99, "Test", 0.999)
    """Share of batches of images that belong which shall be found to belong, between 0 and 1."""
    fdr: Share = setting(0.1, "Test", 0.05)
    """Largest share, on average, of images on the list which belong after all (false discovery rate)."""
    record: bool = setting(True, "Record", False)
    """Write a run in MLflow and a folder in --output."""
    table: Text | None = setting(None, "Results", "check.csv")
    """File for a table with one row per image, which ends in .csv or .parquet. A file of this name is replaced."""
    sheet: Text | None = setting(None, "Results", "check.png")
    """Image file for a picture of the furthest images. A file of this name is replaced."""

    @field_validator("table")
    @classmethod
    def _known_format(cls, value: str | None) -> str | None:
        if value is not None and not value.endswith((".csv", ".parquet")):
            raise ValueError(f"must end in .csv or .parquet, not {value!r}")
        return value


class ScoringSpec(EvaluationSpec):
    """The settings of evaluations that need the scores of many images."""

    workers: Positive | None = setting(None, "Compute", 4)
    """Number of workers that compute scores. Without it: one per GPU, else one per machine."""
    rescore: bool = setting(False, "Compute", True)
    """Compute all scores, including those that MLflow has from earlier runs."""


class NllSpec(ScoringSpec):
    """The settings of ``glowctl nll``, which computes the bits/dim of data sets."""

    datasets: Several[str] | None = setting(None, "Data", "mnist,fashion-mnist")
    """Data sets to score, with commas between. Without it: the one that the model was trained on."""
    split: Split = setting("test", "Data", "validation")
    """Split of each data set to score: train, validation or test."""
    noise_samples: Annotated[int, Field(ge=1, le=1000)] = setting(1, "Data", 16)
    """Number K of dequantisation noises per image, 1 to 1000. With more than 1, the importance-weighted bound is
    computed too, which is tighter, in K times the time."""


class OodSpec(ScoringSpec):
    """The settings of ``glowctl ood``: the typicality test, and detectors to compare it with."""

    ood_datasets: Several[str] | None = setting(None, "Data", "fashion-mnist,noise")
    """Data sets to test as out-of-distribution, with commas between. Without it: data sets on this machine that are
    similar to the one trained on, noise, and constant images."""
    near: Several[str] | None = setting(None, "Data", "arrays:cifar100")
    """Data sets to test whose content is near to that of the model's, with commas between. The means over them and over
    the others, which are far, are reported for each detector. Without it: for cifar10 and cifar100 those that OpenOOD
    calls near, if they are tested; else no means."""
    background_model: str | None = setting(None, "Model", "background")
    """Model trained on the same data with --mutation, named as in --model. It adds the detector called ratio, which is
    the likelihood ratio of the two models. Without it: no such detector."""
    gradients: bool = setting(False, "Test", True)
    """Add the detector called gradients, which needs a backward pass per image: scoring takes about 15 times as
    long."""
    encoder: Annotated[str, as_text(read_encoder)] | None = setting(None, "Encoder", "timm:resnet18.a1_in1k")
    """Frozen network whose features tell what images show: timm:NAME, torchvision:NAME, or file:PATH (TorchScript or
    torch.export), with weights on this machine. It adds the detectors called features, mahalanobis and combined.
    Without it: that of the training, or no such detectors."""
    encoder_weights: Text | None = same_as(TrainSpec, "encoder_weights")
    encoder_size: Positive | None = same_as(TrainSpec, "encoder_size")
    encoder_references: Annotated[int, Field(ge=2)] = same_as(TrainSpec, "encoder_references")
    encoder_download: bool = same_as(TrainSpec, "encoder_download")
    benchmark: bool = setting(False, "Data", True)
    """Also test on every data set on this machine whose images have the model's shape without resizing."""
    batch_sizes: Several[Positive] = setting((1, 2, 5, 10, 25), "Test", "2,5,10,25")
    """Numbers M of images that are judged together, with commas between; each M is a separate test."""
    alpha: Share = setting(0.99, "Test", 0.95)
    """Share of in-distribution batches that the test shall accept, between 0 and 1."""
    protocol: Literal["held-out", "split-test"] = setting("held-out", "Test", "split-test")
    """Images that tests use. held-out: thresholds from images held out of training, tests on whole test sets.
    split-test: bootstrapped thresholds from one half of the model's own test set, tests on the other half and as many
    images of each other data set, drawn anew in each repeat."""
    bootstraps: Positive | None = setting(None, "Test", 1000)
    """Number of random batches from which a threshold is computed, and of random choices of images from which a p-value
    is computed. There are at least 10 / (1 - alpha) choices. Without it: 10000."""
    center: Literal["train", "validation"] = setting("train", "Test", "validation")
    """Images whose mean NLL estimates the entropy of the model."""
    corruptions: Several[Corruption] | None = setting(None, "Test", "noise,blur")
    """Corruptions of test images to detect, each at five severities, with commas between: all, or some of noise, blur,
    contrast, brightness, pixelate, rotate, elastic, jpeg. Without it: none."""
    corruption_images: Positive = setting(1000, "Test", 200)
    """With --corruptions: number of test images that each corruption changes at each severity. It is at least the
    largest of --batch-sizes."""
    repeats: Positive | None = setting(None, "Test", 10)
    """Number of times that thresholds and batches are drawn anew. Without it: 1."""

    @field_validator("corruptions", mode="before")
    @classmethod
    def _all(cls, value: Any) -> Any:
        return CORRUPTIONS if value == "all" else value


class SampleSpec(EvaluationSpec):
    """The settings of ``glowctl sample``, which draws images from a model."""

    temperature: Temperature = setting(0.7, "Samples", 1.0)
    """Scale of the latent noise: 1 samples the model's distribution, 0 takes the means of the latents."""
    temperatures: Several[Temperature] | None = setting(None, "Samples", "0,0.5,0.7,0.9,1")
    """Several temperatures, with commas between, each from the same noise. Without it: --temperature alone."""
    grid: Annotated[str, as_text(read_grid)] = setting("10x10", "Samples", "4x8")
    """Rows and columns of images in the picture, as ROWSxCOLUMNS."""
    only_class: str | None = setting(None, "Samples", "3", flag="--class")
    """Class to draw, by name or number, from a class-conditional model. Without it: as many images of each class that
    it was trained on."""

    @property
    def rows_and_columns(self) -> tuple[int, int]:
        """The numbers of rows and columns in `grid`."""
        return read_grid(self.grid)

    @property
    def all_temperatures(self) -> tuple[float, ...]:
        """The temperatures to sample at: `temperatures`, or else `temperature` alone."""
        return self.temperatures or (self.temperature,)


class InterpolateSpec(EvaluationSpec):
    """The settings of ``glowctl interpolate``, which draws images between two images."""

    pairs_per_class: Positive = setting(1, "Images", 3)
    """Number of random pairs of test images from each class with at least two; the picture has one row per pair."""
    from_image: str | None = setting(None, "Images", "A.png", flag="--from")
    """Image file to start from, in place of random pairs; needs --to."""
    to_image: str | None = setting(None, "Images", "B.png", flag="--to")
    """Image file to end at, in place of random pairs; needs --from."""
    steps: Annotated[int, Field(ge=2)] = setting(10, "Images", 16)
    """Number of images per row, both ends included."""
    mode: Literal["linear", "slerp"] = setting("linear", "Images", "slerp")
    """Path between the two latents: a straight line, or the arc between them."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.from_image is None) != (self.to_image is None):
            given, missing = ("--from", "--to") if self.to_image is None else ("--to", "--from")
            raise ValueError(f"{given} needs the other end too: add {missing}, such as {missing} B.png")
        return self
