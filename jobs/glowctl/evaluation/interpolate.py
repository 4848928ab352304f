"""The interpolation job: rows of images between two real images, through the latents of all levels.

Shapes: P pairs, S images per row, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import ray
import torch

from glow.datasets import LazyDataset, read_image
from glow.dequantization import reduced
from glow.figures.pictures import image_rows
from glow.interpolation import Mode, interpolate
from glow.model import Precision
from glowctl.display.events import Interpolation, Show
from glowctl.display.tables import ends_sentence
from glowctl.errors import SpecError
from glowctl.evaluation.run import Evaluation, evaluation_run, prepare_evaluation
from glowctl.evaluation.scoring import model_on, put_model, result_of
from glowctl.ray_runtime.resources import resources_for
from glowctl.specs.evaluation import InterpolateSpec
from glowctl.text import count

ROWS = 10
"""Number of pairs that a worker decodes at once, which bounds its memory."""

NAMED = 5
"""Largest number of classes that the note on classes without pairs names."""


@dataclass(frozen=True)
class InterpolateWork:
    """An interpolation whose settings have been checked.

    Attributes:
        evaluation: the settings and the model.
        ends: uint8 (2, P, C, H, W), the real images at the start and at the end of each row.
        pairs: one row per pair with the columns ``class_name``, ``from`` and ``to``: the class and the positions of two
            test images, or None and the paths of two files.
    """

    evaluation: Evaluation[InterpolateSpec]
    ends: torch.Tensor
    pairs: pd.DataFrame


def prepare(spec: InterpolateSpec) -> InterpolateWork:
    """Find the model and the pairs of images.

    Raises:
        SpecError: if an image file does not have the model's shape, or there are too few test images for the pairs.
        DatasetNotFound, DatasetCorrupt: if an image file or the test images cannot be read.
        TrackingError, CheckpointError, JobError: if the store does not answer, or the model or the output
            folder cannot be used.
    """
    work = prepare_evaluation(spec)
    if spec.from_image is not None and spec.to_image is not None:
        shape = work.model.config.image_shape
        try:
            over = work.backdrop
            ends = torch.stack([read_image(path, shape, over)[None] for path in (spec.from_image, spec.to_image)])
        except ValueError as error:
            raise SpecError(str(error), code="image-unusable") from error
        pair = {"class_name": None, "from": spec.from_image, "to": spec.to_image}
        return InterpolateWork(work, ends, pd.DataFrame([pair]))
    images = work.opened(work.trained_on, "test")
    work = work.with_notes([images], [work.described(work.trained_on)])
    work = replace(work, notes=(*work.notes, *_without_pairs(images, work.left_out_of(work.trained_on))))
    chosen = _choose(images, spec.pairs_per_class, spec.seed)
    # One image at a time, so that no more files of a folder are read than are needed.
    ends = torch.stack([torch.cat([images.images(i, i + 1) for i in side]) for side in zip(*chosen, strict=True)])
    pairs = [
        {"class_name": images.class_names[int(images.labels[start])], "from": start, "to": end} for start, end in chosen
    ]
    return InterpolateWork(work, ends, pd.DataFrame(pairs))


def _choose(images: LazyDataset, pairs_per_class: int, seed: int) -> list[tuple[int, int]]:
    """Draw for each pair the positions of two different test images of one class, in order of the classes.

    Classes with fewer than two test images have no pairs.
    """
    rng = np.random.default_rng(seed)
    labels = images.labels.numpy()
    sizes = {label: size for label, size in zip(*np.unique(labels, return_counts=True), strict=True) if size > 1}
    if not sizes:
        raise SpecError(
            "no class has two test images for a pair",
            remedy="name two image files with --from and --to",
            code="too-few-images",
        )
    smallest = min(sizes, key=lambda label: sizes[label])
    if sizes[smallest] < 2 * pairs_per_class:
        raise SpecError(
            f"--pairs-per-class {pairs_per_class} takes {2 * pairs_per_class} test images of each class, and class "
            f"{images.class_names[smallest]!r} has {sizes[smallest]}",
            remedy=f"give --pairs-per-class {sizes[smallest] // 2} or less, or name two files with --from and --to",
            code="too-few-images",
        )
    chosen = []
    for label in sizes:
        picked = rng.choice(np.flatnonzero(labels == label), (pairs_per_class, 2), replace=False)
        chosen += [(int(start), int(end)) for start, end in picked]
    return chosen


def _without_pairs(images: LazyDataset, left_out: Sequence[str]) -> list[str]:
    """Return a note that names the classes with fewer than two test images, except those of ``--leave-out``, if any."""
    names = images.class_names
    wanted = set(names) - {name if name in names else names[int(name)] for name in left_out}
    sizes = images.labels.bincount(minlength=len(names)).tolist()
    few = [name for name, size in zip(names, sizes, strict=True) if size < 2 and name in wanted]
    if not few:
        return []
    told = ", ".join([*few[:NAMED], *(["..."] if len(few) > NAMED else [])])
    what = "class has" if len(few) == 1 else "classes have"
    return [f"{len(few)} {what} fewer than two test images and no pair of them: {told}"]


def run(work: InterpolateWork, show: Show) -> np.ndarray:
    """Decode the rows on Ray, and record the picture, the images and a table.

    Returns:
        uint8 (P, S, C, H, W).

    Raises:
        JobError: if a worker fails.
        TrackingError: if the store does not answer.
    """
    evaluation, spec = work.evaluation, work.evaluation.spec
    with evaluation_run(evaluation, "interpolate", show) as recorded:
        resources = resources_for(spec, (1, 1))
        task = between.options(**resources.task_options())
        reference = put_model(evaluation.model)
        decoded = task.remote(reference, work.ends.numpy(), spec.steps, spec.mode, spec.precision, resources.threads)
        images, end_error, non_finite = result_of(decoded)
        real = reduced(work.ends, evaluation.model.config.bits).numpy()
        exact = (images[:, [0, -1]] == real.swapaxes(0, 1)).all(axis=(1, 2, 3, 4))
        names = [str(name or "") for name in work.pairs["class_name"]]
        title = f"{spec.mode} interpolation between real images, {evaluation.model.title}"
        recorded.figure(image_rows(images, names, title), "interpolation")
        np.save(recorded.folder / "interpolation.npy", images)
        recorded.table(work.pairs.assign(end_error=end_error, ends_exact=exact), "interpolation")
        recorded.metrics({"end_error": float(end_error.max()), "non_finite": non_finite})
        result = Interpolation(
            **recorded.known_as,
            pairs=len(images),
            steps=spec.steps,
            mode=spec.mode,
            end_error=float(end_error.max()),
            inexact_rows=int((~exact).sum()),
            non_finite=non_finite,
            coupling=evaluation.model.config.coupling,
            scale=evaluation.model.config.scale,
            bits=evaluation.model.config.bits,
            picture=f"{recorded.place}/interpolation.png",
        )
        ends = ends_sentence(result.end_error, result.inexact_rows, 2**result.bits)
        rows = f"{count(len(images), 'row')} of {spec.steps} images, {spec.mode}"
        recorded.finish(result, f"{rows}: `interpolation.png`. {ends}")
    return np.asarray(images)


@ray.remote
def between(
    reference: list[Any], ends: np.ndarray, steps: int, mode: Mode, precision: Precision, threads: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Interpolate between pairs of images on a worker.

    Args:
        reference: the model in Ray's object store, from `put_model`.
        ends: uint8 (2, P, C, H, W), the images at the two ends of each row.
        steps: number of images per row.
        mode: the path between the latents.
        precision: the type in which the coupling networks compute.
        threads: number of torch's threads.

    Returns:
        The images (P, S, C, H, W); per row (P,) the largest difference between an end and its real image, in grey
        levels; and the number of images with pixels that are not finite.
    """
    model = model_on(reference, threads).set_precision(precision)
    start, end = (torch.tensor(side) for side in ends)
    rows = [interpolate(model, *pair, steps, mode) for pair in zip(start.split(ROWS), end.split(ROWS), strict=True)]
    return (
        torch.cat([row.images for row in rows]).numpy(),
        torch.cat([row.end_error for row in rows]).numpy(),
        sum(row.non_finite for row in rows),
    )
