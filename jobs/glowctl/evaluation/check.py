"""The check job: whether a batch of images belongs to what a model was trained on, and which images do not.

The statistics are in `glow.ood.check` and `glow.ood.conformal`. The images are scored in this process, piece by piece:
to start Ray takes longer than to score some thousand images. With ``--no-record`` nothing is written to a store or an
output folder.

Shapes: R rows of S images in a picture, C channels, H rows, W columns of an image.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from glow.datasets.incoming import UNREADABLE, Incoming, open_incoming, pieces
from glow.encoders import Encoder
from glow.features import FeatureReferences
from glow.figures.pictures import image_rows
from glow.model import Glow
from glow.ood import Calibration, ImageCheck
from glow.scoring import score
from glowctl.display.events import Check, Noted, Scoring, Show
from glowctl.display.tables import as_markdown, furthest_table, verdict_sentence
from glowctl.errors import JobError, SpecError
from glowctl.evaluation.content import encoder_for
from glowctl.evaluation.find_model import TrainedModel
from glowctl.evaluation.run import Evaluation, evaluation_run, prepare_evaluation
from glowctl.evaluation.scoring import made_of
from glowctl.specs.evaluation import CheckSpec
from glowctl.system.process_setup import set_up_computing
from glowctl.text import rows_of

LISTED = 1000
"""Largest number of images that the event names; the table has all."""

SHOWN = 10
"""Number of furthest images that are reported even if they are not on the list; also images per row of a picture."""

ROWS = 20
"""Largest number of rows of a picture."""

NAMED = 20
"""Largest number of unreadable files that the event names."""


@dataclass(frozen=True)
class CheckWork:
    """A check whose settings have been checked.

    Attributes:
        evaluation: the settings and the model.
        scorer: what scores images.
        parts: the images to check.
        reference: images that belong, in place of those that were held out of the training; empty for the latter.
    """

    evaluation: Evaluation[CheckSpec]
    scorer: Scorer
    parts: Sequence[Incoming]
    reference: Sequence[Incoming]


@dataclass(frozen=True)
class Scorer:
    """A model that scores images as those of its calibration have been scored.

    Attributes:
        model: the model.
        calibration: the scores by which the model judges new images.
        encoder: the encoder whose features the detector needs; None if it needs none.
        device: where to compute.
    """

    model: Glow
    calibration: Calibration
    encoder: Encoder | None
    device: str

    @cached_property
    def references(self) -> FeatureReferences:
        """The features that those of images are compared with."""
        return FeatureReferences.from_arrays(self.calibration.references)

    def __call__(self, images_NCHW: torch.Tensor, first: int) -> pd.DataFrame:
        """Return the score table of images whose first one has the position `first`, which its noise depends on."""
        indices = torch.arange(first, first + len(images_NCHW))
        table = score(self.model, images_NCHW, indices_N=indices, seed=self.calibration.noise_seed)
        if self.encoder is None:
            return table
        return table.assign(**self.references.distances(self.encoder.features(images_NCHW, self.device)))


@dataclass(frozen=True)
class Scores:
    """Images and their scores.

    Attributes:
        table: score table of the images that could be read. Its first columns are the name of each ``image``, its
            ``class``, and its ``shape`` before it was converted ("" where a class or shape is not known).
        where: for each of these images, its part and its position in the part.
        unreadable: the name of each image that could not be read, and the reason.
    """

    table: pd.DataFrame
    where: Sequence[tuple[Incoming, int]]
    unreadable: Sequence[tuple[str, str]]


def prepare(spec: CheckSpec, lines: Iterable[str] = ()) -> CheckWork:
    """Find the model and the images.

    Args:
        spec: the settings.
        lines: standard input, which has paths if a source is "-".

    Raises:
        SpecError: if images cannot be brought into the model's shape.
        DatasetNotFound, DatasetCorrupt: if a data set cannot be opened.
        JobError: if there are no images, or the model has no scores to compare them with.
        TrackingError, CheckpointError: if the store does not answer, or there is no such model.
        EncoderError: if the encoder that the detector needs cannot be opened.
    """
    evaluation = prepare_evaluation(spec, records=spec.record)
    scorer = scorer_of(evaluation)
    parts = opened(evaluation, spec.sources, lines)
    reference = [] if spec.reference is None else opened(evaluation, [spec.reference])
    notes = [note for part in (*parts, *reference) for note in (*part.notes, *part.images.notes)]
    return CheckWork(replace(evaluation, notes=tuple(dict.fromkeys(notes))), scorer, parts, reference)


def calibration_of(model: TrainedModel) -> Calibration:
    """Return the scores by which a model judges new images.

    Raises:
        JobError: if they are not with the weights.
    """
    if model.calibration is None:
        raise JobError(
            f"the model {model.name} has no scores of held-out images to compare others with",
            remedy="give --model a run, or a model in MLflow such as models:/NAME@champion",
            code="model-without-scores",
        )
    return model.calibration


def opened(evaluation: Evaluation[Any], sources: Sequence[str], lines: Iterable[str] = ()) -> list[Incoming]:
    """Open images in the model's shape.

    Args:
        evaluation: the settings and the model.
        sources: the images, as `CheckSpec.sources` has them.
        lines: standard input.

    Raises:
        SpecError: if images cannot be brought into the model's shape.
        DatasetNotFound, DatasetCorrupt: if a data set cannot be opened.
        JobError: if there are no images.
    """
    try:
        parts = open_incoming(
            sources,
            evaluation.model.config.image_shape,
            paths=lines,
            root=evaluation.data_root,
            download=evaluation.spec.download,
            background=evaluation.backdrop,
        )
    except ValueError as error:
        raise SpecError(str(error), code="data-set-unusable") from error
    if not any(part.names for part in parts):
        raise JobError(f"there are no images in {_named(sources)}", remedy=NAME_IMAGES, code="no-images")
    return parts


NAME_IMAGES = "name image files, a folder that contains some, or a data set"
"""A remedy if there is nothing to check."""


def _named(sources: Sequence[str]) -> str:
    return ", ".join("standard input" if source == "-" else source for source in sources)


def run(work: CheckWork, show: Show) -> bool:
    """Score the images, judge them, and record the result.

    Returns:
        Whether the batch belongs.

    Raises:
        SpecError: if there is no such detector, or too few images are held out for ``--alpha``.
        JobError: if none of the images could be read, or a file cannot be written.
        TrackingError: if the store does not answer.
    """
    if not work.evaluation.spec.record:
        for note in work.evaluation.notes:
            show(Noted(note))
        event, _, _ = _judged(work, show)
        show(event)
        return event.belongs
    with evaluation_run(work.evaluation, "check", show) as recorded:
        event, table, picture = _judged(work, recorded.show)
        table.to_parquet(recorded.folder / "check.parquet", index=False)
        recorded.table(pd.DataFrame(event.furthest), "check_furthest")
        recorded.figure(picture(), "furthest")
        counts = ("belongs", "images", "flagged", "unreadable", "non_finite")
        recorded.metrics({"p_value": event.p_value} | {name: float(getattr(event, name)) for name in counts})
        recorded.metrics({f"p_value/{name}": value for name, value in event.p_values.items()})
        event = replace(event, **recorded.known_as, place=recorded.place)
        recorded.finish(event, verdict_sentence(event), as_markdown(furthest_table(event)))
    return event.belongs


def _judged(work: CheckWork, show: Show) -> tuple[Check, pd.DataFrame, Callable[[], Figure]]:
    """Return the verdict, the table of all images, and what draws the furthest; write --table and --sheet."""
    spec, model = work.evaluation.spec, work.evaluation.model
    set_up_computing(joblib.cpu_count())
    calibration = work.scorer.calibration
    if work.reference:
        held_out = scored(work.scorer, work.reference, show, str(spec.reference)).table
        calibration = replace(calibration, held_out=held_out)
    scores = scored(work.scorer, work.parts, show, _named(spec.sources))
    try:
        detector = spec.detector or work.scorer.calibration.recommended  # which does not depend on --reference
        verdict = ImageCheck(calibration, detector)(scores.table, spec.alpha, spec.fdr, spec.seed)
    except ValueError as error:
        remedy = "lower --alpha, check more images at once, or give more images that belong with --reference"
        remedy = "correct --detector" if "detector" in str(error) else remedy
        raise SpecError(f"no check is possible ({error})", remedy=remedy, code="check-impossible") from error
    table = pd.concat(
        [scores.table[["image", "class", "shape", "nll", "bits_per_dim", "finite"]], verdict.images], axis=1
    )
    flagged = int(table["flagged"].sum())
    furthest = table.iloc[verdict.furthest[: min(LISTED, max(SHOWN, flagged))]]
    judged = {field.name: getattr(verdict, field.name) for field in fields(verdict) if field.name != "images"}
    event = Check(
        **judged,
        sources=list(spec.sources),
        model=model.name,
        images=len(table),
        alpha=spec.alpha,
        fdr=spec.fdr,
        flagged=flagged,
        furthest=rows_of(furthest.drop(columns=["shape", "finite"])),
        image_shape=model.config.image_shape,
        shapes=dict(Counter(table.loc[table["shape"] != "", "shape"]).most_common()),
        non_finite=int((~table["finite"]).sum()),
        unreadable=len(scores.unreadable),
        unreadable_images=[{"image": name, "reason": reason} for name, reason in scores.unreadable[:NAMED]],
    )
    if spec.table is not None:
        write = table.to_csv if spec.table.endswith(".csv") else table.to_parquet
        _write("--table", spec.table, lambda path: write(path, index=False))

    def picture() -> Figure:
        return _picture(scores, verdict.furthest, f"The furthest images, {model.title}")

    if spec.sheet is not None:
        _write("--sheet", spec.sheet, lambda path: picture().savefig(path, dpi=120))
    return event, table, picture


def scorer_of(evaluation: Evaluation[Any]) -> Scorer:
    """Make what scores images with the model of an evaluation, on the GPU if there is one.

    Raises:
        JobError: if the model has no scores to compare images with, or needs another encoder.
        EncoderError: if the encoder that the detector needs cannot be opened.
    """
    model, calibration = evaluation.model, calibration_of(evaluation.model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = encoder_for(model, calibration, evaluation.spec)
    return Scorer(made_of(model.config, model.weights).to(device), calibration, encoder, device)


def scored(scorer: Scorer, parts: Sequence[Incoming], show: Show, name: str) -> Scores:
    """Score images in this process.

    Args:
        scorer: the model. The noise of an image depends on its position among those that could be read.
        parts: the images.
        show: receives a `Scoring` event after each piece.
        name: what the event calls the images.

    Raises:
        JobError: if none of the images could be read.
    """
    tables: list[pd.DataFrame] = []
    where: list[tuple[Incoming, int]] = []
    unreadable: list[tuple[str, str]] = []
    images, of, started = 0, sum(len(part.names) for part in parts), time.monotonic()
    for piece in pieces(parts, threads=joblib.cpu_count() + 1):
        stop = images + len(piece.images)
        table = scorer(piece.images, images)
        table.insert(0, "image", piece.names)
        table.insert(1, "class", piece.classes)
        table.insert(2, "shape", ["" if shape is None else shape_text(shape) for shape in piece.shapes])
        tables.append(table)
        where += [(piece.part, position) for position in piece.positions]
        unreadable += piece.unreadable
        images = stop
        pace = images / (time.monotonic() - started)
        show(Scoring(dataset=name, split="", images=images + len(unreadable), of=of, images_per_second=pace))
    if not images:
        raise JobError(
            f"none of the {of} images of {name} could be read (such as {unreadable[0][0]}: {unreadable[0][1]})",
            remedy=NAME_IMAGES,
            code="nothing-readable",
        )
    return Scores(pd.concat(tables, ignore_index=True), where, unreadable)


def shape_text(shape: Iterable[int]) -> str:
    """Return a shape as text, such as "3x32x32"."""
    return "x".join(map(str, shape))


def _picture(scores: Scores, furthest: np.ndarray, title: str) -> Figure:
    """Draw the furthest images, the furthest first; those of each class in a row if there are classes."""
    classes = scores.table["class"].iloc[furthest].to_numpy()
    if len(set(classes)) > 1:
        names = list(dict.fromkeys(classes))[:ROWS]
        rows = {str(name): furthest[classes == name][:SHOWN] for name in names}
    else:
        starts = range(0, min(len(furthest), SHOWN * ROWS // 4), SHOWN)
        rows = {f"{start + 1}": furthest[start : start + SHOWN] for start in starts}
    shape = scores.where[0][0].images.image_shape
    images_RSCHW = np.full((len(rows), max(map(len, rows.values())), *shape), 255, np.uint8)
    for row, positions in zip(images_RSCHW, rows.values(), strict=True):
        for cell, (part, position) in zip(row, (scores.where[each] for each in positions), strict=False):
            try:
                cell[:] = part.images.images(position, position + 1)[0].numpy()
            except UNREADABLE:  # the file has been moved since it was scored
                continue
    return image_rows(images_RSCHW, list(rows), title)


def _write(flag: str, path: str, write: Callable[[str], Any]) -> None:
    try:
        write(path)
    except (OSError, ValueError) as error:
        raise JobError(
            f"{flag} {path} cannot be written ({error})", remedy="name another file", code="file-not-written"
        ) from error
