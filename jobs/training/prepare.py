"""What a training is, checked before anything starts: its settings, its data, its model (`Work`).

Nothing here imports Ray, which starts in a process of its own as soon as a training is known to be possible, and while
this one imports it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from glow.config import GlowConfig
from glow.datasets import describe, own_channels
from glow.datasets.names import absolute_dataset
from glow.model import Glow
from jobs.errors import JobError, SpecError
from jobs.outputs import KeptRun, is_remote, place_named, recall, usable_output
from jobs.specs.base import colour, refuse, theme_of, validated
from jobs.specs.training import TrainSpec, worker_range
from jobs.text import megabytes
from jobs.tracking import (
    NoSuchRun,
    Record,
    find_run,
    metric_names,
    recorded_images,
    tag_names,
    tracking_uri,
    without_password,
)
from jobs.training.data import Splits, given_to_workers, is_packed, open_splits

if TYPE_CHECKING:
    from jobs.text import JsonObject
    from jobs.tracking import Run

__all__ = ["Work", "prepare", "prepare_resume"]


@dataclass(frozen=True)
class Work:
    """A training that has been checked: its spec with absolute paths, its data, its model."""

    given: TrainSpec  # as the user gave it
    spec: TrainSpec  # the same with absolute paths
    tracking_uri: str
    config: GlowConfig
    original_shape: tuple[int, int, int]
    splits: Splits
    notes: tuple[str, ...] = ()  # what to know of how the data were read
    resumed: Run | None = None
    kept: KeptRun | None = None  # what storage has of a run that MLflow has lost (jobs.outputs)
    kept_in: str | None = None  # the folder of its checkpoints, where that is not named by the run's id

    def folder_of(self, record: Record) -> str:
        """The folder in the output that a run's checkpoints are in."""
        return self.kept_in or record.run_id

    def to_keep(self, record: Record, finished: bool) -> KeptRun:
        """What storage keeps of the training."""
        return KeptRun(
            job="train",
            run_id=record.run_id,
            run_name=record.name,
            finished=finished,
            spec=self.spec.model_dump(mode="json", exclude={"tracking_uri"}),  # which may hold a password
            images=self.digests(),
        )

    def variant(self, given: TrainSpec, spec: TrainSpec, resumed: Run | None) -> Work:
        """Another training on the same data."""
        config = spec.glow_config(self.config.image_shape, self.config.num_classes or 0)
        return replace(self, given=given, spec=spec, config=config, resumed=resumed)

    @property
    def parameters(self) -> int:
        """Of the model."""
        with torch.device("meta"):  # which makes none
            model = Glow(self.config)
        return sum(parameter.numel() for parameter in model.parameters())

    def digests(self) -> dict[str, str]:
        """The fingerprint of each split, by the name that MLflow shows."""
        return {f"{self.spec.dataset} {split}": images.fingerprint() for split, images in self.splits.items()}

    def record_datasets(self, record: Record) -> None:
        """The splits as inputs of a run."""
        for (split, images), (name, digest) in zip(self.splits.items(), self.digests().items(), strict=True):
            shape = (len(images), *images.image_shape)
            record.dataset(shape, name, digest, "training" if split == "train" else split, self.spec.dataset)

    @property
    def to_tell(self) -> tuple[str, ...]:
        """The notes, and of a packed data set whether its images are held in memory, as those of others always are."""
        if not is_packed(self.spec.dataset):
            return self.notes
        size = megabytes(sum(images.nbytes for images in self.splits.values()))
        if any(images.mapped for images in self.splits.values()):
            return (*self.notes, f"{size} of images are read from {self.spec.dataset} as they are needed")
        held = f"{size} of images are held in memory by each worker; --images-in files reads them as they are needed"
        return (*self.notes, held)

    def check_same_images(self, known: Mapping[str, str]) -> None:
        """Raises JobError if a run began with other images than these; `known` are its `digests`."""
        changed = [name for name, digest in self.digests().items() if known.get(name, digest) != digest]
        if changed:
            raise JobError(
                f"the images of {' and '.join(changed)} are not those that the run began with: start a new run"
            )

    def tags(self) -> dict[str, str]:
        """Of the run in MLflow."""
        return {
            tag_names.JOB: "train",
            tag_names.DATASET: self.spec.dataset,
            tag_names.SPEC: json.dumps(self._public()),
            **self.tags_of_notes(),
        }

    def tags_of_notes(self) -> dict[str, str]:
        """What MLflow keeps of the notes; nothing if there are none."""
        return {tag_names.NOTES: "\n".join(self.notes)} if self.notes else {}

    def params(self) -> JsonObject:
        """Of the run in MLflow."""
        return self._public() | {"image_shape": self.config.image_shape}

    def _public(self) -> JsonObject:
        return self.spec.model_dump() | {"tracking_uri": without_password(self.tracking_uri)}


def prepare(spec: TrainSpec) -> Work:
    """Opens the data, reads what is held in memory, and checks everything that needs no Ray.

    Raises:
        SpecError: for settings that do not fit the data.
        DatasetNotFound, DatasetCorrupt: for data that cannot be had.
        JobError: for an output folder that cannot be used.
    """
    given = spec
    absolute = {"output": usable_output(spec.output), "dataset": absolute_dataset(spec.dataset)}
    if spec.data_root is not None:
        absolute["data_root"] = str(Path(spec.data_root).expanduser().absolute())
    spec = spec.model_copy(update=absolute)
    try:
        size = spec.image_size
        shape = None if size is None else (own_channels(spec.dataset), size, size)
        info = describe(spec.dataset, spec.data_root, image_shape=shape, background=colour(spec.background))
        opened = open_splits(spec, info.image_shape)
        config = spec.glow_config(info.image_shape, info.num_classes)
        least, _ = worker_range(spec.workers)
        if len(opened["train"]) < least:
            raise ValueError(f"{len(opened['train'])} training images cannot be shared by {least} workers")
        splits = given_to_workers(spec, opened)
    except ValueError as error:
        raise SpecError(str(error)) from error
    notes = tuple(dict.fromkeys([*info.notes, *(note for dataset in opened.values() for note in dataset.notes)]))
    return Work(given, spec, tracking_uri(spec.tracking_uri), config, info.original_shape, splits, notes)


def prepare_resume(name_or_id: str, changes: Mapping[str, Any]) -> Work:
    """The work of a run that stopped. `changes` may say where it runs and is recorded, not what it computes.

    Raises what `prepare` raises, TrackingError for a run that does not exist, and JobError for one that is finished.
    """
    free = ("tracking_uri", "experiment", "data_root", "download")
    fixed = [name for name in changes if theme_of(TrainSpec, name) != "Compute" and name not in free]
    refuse(fixed, "a resumed run")
    uri = tracking_uri(changes.get("tracking_uri"))
    try:
        found = find_run(uri, changes.get("experiment", TrainSpec.model_fields["experiment"].default), name_or_id)
    except NoSuchRun as error:
        return _prepare_kept(name_or_id, changes, uri, error)
    stored = found.data.tags.get(tag_names.SPEC)
    if stored is None:
        raise JobError(f"run {name_or_id!r} is not a training of glowctl: it has no tag glow.spec")
    if tag_names.TRIAL in found.data.tags:
        parent = found.data.tags[tag_names.PARENT]
        raise JobError(f"run {name_or_id!r} is a trial of an ablation: go on by glowctl ablate --resume {parent}")
    if found.info.status == "FINISHED":
        raise JobError(f"run {name_or_id!r} is finished: there is nothing left to train")
    spec = validated(TrainSpec, {**json.loads(stored), **changes, "tracking_uri": uri})
    kept_in = found.data.tags.get(tag_names.FOLDER)
    folder = Path(spec.output, kept_in or found.info.run_id)
    if not is_remote(spec.output) and metric_names.VALIDATION in found.data.metrics and not folder.exists():
        raise JobError(f"the checkpoints of run {name_or_id!r} are gone from {folder}: start a new run")
    work = replace(prepare(spec), resumed=found, kept_in=kept_in)
    work.check_same_images(recorded_images(found))
    return work


def _prepare_kept(name: str, changes: Mapping[str, Any], uri: str, unknown: NoSuchRun) -> Work:
    """The work of a run that MLflow does not know, by what is beside its checkpoints."""
    place = place_named(name)
    kept = recall(place)
    if kept is None or kept.job != "train":
        raise NoSuchRun(f"{unknown}, and no checkpoints of a training in {place}")
    if kept.finished:
        raise JobError(f"run {name!r} is finished: there is nothing left to train; its model is under {place}")
    output, _, folder = place.rpartition("/")
    spec = validated(TrainSpec, {**kept.spec, "output": output, **changes, "tracking_uri": uri})
    work = replace(prepare(spec), kept=kept, kept_in=folder)
    work.check_same_images(kept.images)
    return work
