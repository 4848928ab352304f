"""The sampling job: grids of images drawn from a model, at one temperature or several.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from PIL import Image

from glow.dequantization import not_finite, quantize
from glow.figures.pictures import image_grid, image_rows
from glow.model import Precision
from glowctl.display.events import Samples, Show
from glowctl.errors import SpecError
from glowctl.evaluation.run import Evaluation, evaluation_run, prepare_evaluation
from glowctl.evaluation.scoring import model_on, put_model, result_of
from glowctl.ray_runtime.resources import resources_for
from glowctl.specs.evaluation import SampleSpec

AT_ONCE = 250
"""Number of images that a worker draws at once, which bounds its memory."""

ROW = 12
"""Number of images per temperature in the picture of a sweep."""


@dataclass(frozen=True)
class SampleWork:
    """A sampling whose settings have been checked.

    Attributes:
        evaluation: the settings and the model.
        label: index of the class to draw. None draws about equally many images of each class that the model was trained
            on, in the order of the classes, or images without a class if the model has no classes.
    """

    evaluation: Evaluation[SampleSpec]
    label: int | None


def prepare(spec: SampleSpec) -> SampleWork:
    """Find the model, and the class if one was named.

    Raises:
        SpecError: if a class was named and the model has no classes, does not have this one, or was not trained on it.
        TrackingError: if the store does not answer, or has no such run or model.
        CheckpointError: if the model is missing, damaged or untrained.
        JobError: if the named run has no model, or the output folder cannot be used.
    """
    work = prepare_evaluation(spec)
    label = None if spec.only_class is None else _label(work, spec.only_class)
    return SampleWork(work, label)


def _label(work: Evaluation[SampleSpec], name: str) -> int:
    classes = work.model.config.num_classes
    if classes is None:
        raise SpecError(
            f"--class {name}: the model {work.model.name} has no classes",
            remedy="leave out --class, or train a model with --class-conditional",
            code="model-without-classes",
        )
    names = [str(label) for label in range(classes)]
    if work.spec.trained_on is not None or work.model.training is not None:
        names = list(work.described(work.trained_on).class_names)
    trained = [known for label, known in enumerate(names[:classes]) if label in work.model.classes]
    advice = f"use one of {', '.join(trained)}"
    if name in names[:classes]:
        label = names.index(name)
    elif name.isascii() and name.isdigit() and int(name) < classes:
        label = int(name)
    else:
        raise SpecError(f"--class {name!r}: the model has no such class", remedy=advice, code="class-not-found")
    if label not in work.model.classes:
        raise SpecError(
            f"--class {name}: the model was trained on no image of this class", remedy=advice, code="class-untrained"
        )
    return label


def run(work: SampleWork, show: Show) -> dict[float, np.ndarray]:
    """Draw the images on Ray and record them. All temperatures start from the same noise.

    Returns:
        Each temperature -> its images, uint8 (N, C, H, W).

    Raises:
        JobError: if a worker fails, or has no room on the machines.
        TrackingError: if the store does not answer.
    """
    evaluation, spec = work.evaluation, work.evaluation.spec
    rows, columns = spec.rows_and_columns
    with evaluation_run(evaluation, "sample", show) as recorded:
        resources = resources_for(spec, (1, 1))
        task = draw.options(**resources.task_options())
        reference = put_model(evaluation.model)
        samples, non_finite = {}, 0
        for temperature in spec.all_temperatures:
            drawn = task.remote(
                reference, rows * columns, temperature, spec.seed, work.label, spec.precision, resources.threads
            )
            images, spoilt = result_of(drawn)
            samples[temperature] = images
            non_finite += spoilt
            np.save(recorded.folder / f"samples-T{temperature:g}.npy", images)
            Image.fromarray(image_grid(images, columns)).save(recorded.folder / f"samples-T{temperature:g}.png")
        pictures = [f"samples-T{temperature:g}.png" for temperature in samples]
        if len(samples) > 1:
            sweep = np.stack([images[:ROW] for images in samples.values()])
            names = [f"T = {temperature:g}" for temperature in samples]
            title = f"The same noise at several temperatures, {evaluation.model.title}"
            recorded.figure(image_rows(sweep, names, title), "temperatures")
            pictures.insert(0, "temperatures.png")
        recorded.metrics({"non_finite": non_finite})
        listed = ", ".join(f"{temperature:g}" for temperature in samples)
        short = f"{rows * columns} images at each of the temperatures {listed}: `{'`, `'.join(pictures)}`"
        result = Samples(
            **recorded.known_as,
            temperatures=list(samples),
            images=rows * columns,
            non_finite=non_finite,
            coupling=evaluation.model.config.coupling,
            scale=evaluation.model.config.scale,
            pictures=[f"{recorded.place}/{picture}" for picture in pictures],
        )
        recorded.finish(result, short)
    return samples


@ray.remote
def draw(
    reference: list[Any],
    n: int,
    temperature: float,
    seed: int,
    label: int | None,
    precision: Precision,
    threads: int,
) -> tuple[np.ndarray, int]:
    """Draw `n` images on a worker from the model that `put_model` stored.

    Returns:
        The images, uint8 (N, C, H, W), and the number of images with pixels that are not finite.
    """
    model = model_on(reference, threads).set_precision(precision)
    generator = torch.Generator().manual_seed(seed)
    classes = model.trained_classes
    parts, non_finite = [], 0
    for of in torch.arange(n).split(AT_ONCE):
        labels = _labels(of, n, classes, label) if len(classes) else None
        x_NCHW = model.sample_real(len(of), temperature, generator, labels)
        non_finite += int(not_finite(x_NCHW).sum())
        parts.append(quantize(x_NCHW, model.config.bits).cpu())
    return torch.cat(parts).numpy(), non_finite


def _labels(positions: torch.Tensor, n: int, classes: torch.Tensor, label: int | None) -> torch.Tensor:
    """Return the class for each position: `label`, or `classes` in order, each for an equal share of the images."""
    return torch.full_like(positions, label) if label is not None else classes[positions * len(classes) // n]
