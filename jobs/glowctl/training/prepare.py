"""The preparation of a training: its settings, data and model are checked before it starts. The result is a `Work`.

`prepare` is for a new training, `prepare_resume` for one that stopped. Nothing here imports Ray, whose import takes
seconds: Ray starts in a separate process while this one prepares the training.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glow.config import GlowConfig, highest_learning_rate
from glow.datasets import describe, own_channels
from glow.datasets.lazy import one_look
from glow.datasets.names import absolute_dataset
from glow.encoders import Encoder
from glowctl.errors import JobError, SpecError
from glowctl.outputs import Found, KeptRun, find_kept, usable_output
from glowctl.run_labels import training_name
from glowctl.specs.base import colour, refuse, theme_of, validated
from glowctl.specs.training import TrainSpec, worker_range
from glowctl.text import count, megabytes
from glowctl.tracking import metric_names, tag_names
from glowctl.tracking.record import Record
from glowctl.tracking.uris import tracking_uri, without_password
from glowctl.training.content import encoder_of, with_absolute_encoder
from glowctl.training.data import Splits, given_to_workers, is_packed, open_splits, with_background_of_packed
from glowctl.training.progress import whole_checkpoints

if TYPE_CHECKING:
    from glowctl.text import JsonObject

ENOUGH = 0.8
"""Share of ``--learning-rate`` that a training should reach; it starts with a note if it does not."""


@dataclass(frozen=True)
class Work:
    """A training that has been checked.

    Attributes:
        given: the settings as the user gave them.
        spec: the same settings with absolute paths.
        tracking_uri: the URI of the MLflow store.
        config: the configuration of the model.
        original_shape: channels, height and width of the images before they were padded or resized.
        splits: the data sets.
        notes: sentences that tell the user how the data were read.
        resumed: the run that is resumed; None for a new run.
        encoder: the encoder whose features the model keeps; None without ``--encoder``.
        estimated_seconds: the duration that was estimated because the run has a limit; None without an estimate.
    """

    given: TrainSpec
    spec: TrainSpec
    tracking_uri: str
    config: GlowConfig
    original_shape: tuple[int, int, int]
    splits: Splits
    notes: tuple[str, ...] = ()
    resumed: Found | None = None
    encoder: Encoder | None = None
    estimated_seconds: float | None = None

    def estimate(self) -> dict[str, float]:
        """Return the metric of the estimated duration; an empty dictionary if there is no estimate."""
        return {} if self.estimated_seconds is None else {"estimated_seconds": self.estimated_seconds}

    def place_of(self, record: Record) -> str:
        """Return the folder of the run, within `spec.output`, or its URI in a bucket."""
        return self.resumed.place if self.resumed is not None else f"{self.spec.output}/{record.run_id}"

    def to_keep(self, record: Record) -> KeptRun:
        """Return the content of the file ``run.json`` in the run's folder, before the training has a result."""
        # The URI may hold a password.
        first = self.spec.model_dump(mode="json", exclude={"tracking_uri"})
        spec = first if self.resumed is None else self.resumed.kept.spec
        return KeptRun(job="train", run_id=record.run_id, run_name=record.name, spec=spec, images=self.digests())

    def open_record(self) -> Record:
        """Open the run that is resumed, or start a new one if there is none in MLflow."""
        found = self.resumed
        if found is not None and found.run is not None:
            return Record.existing(self.tracking_uri, found.run)
        name = training_name(self.spec) if found is None else found.kept.run_name
        tags = self.tags() | ({} if found is None else {tag_names.FOLDER: found.folder})
        return Record.start(self.tracking_uri, self.spec.experiment, name, tags, self.params())

    def variant(self, given: TrainSpec, spec: TrainSpec) -> Work:
        """Return a training with other settings on the same data, such as a trial of an ablation.

        The arguments become the attributes with the same names.
        """
        config = spec.glow_config(self.config.image_shape, self.config.num_classes or 0)
        return replace(self, given=given, spec=spec, config=config)

    def digests(self) -> dict[str, str]:
        """Return a dictionary from the name of each split in MLflow, such as "mnist train", to its fingerprint."""
        return {f"{self.spec.dataset} {split}": images.fingerprint() for split, images in self.splits.items()}

    def record_datasets(self, record: Record) -> None:
        """Write the splits as inputs of the run into MLflow."""
        for (split, images), (name, digest) in zip(self.splits.items(), self.digests().items(), strict=True):
            shape = (len(images), *images.image_shape)
            record.dataset(shape, name, digest, "training" if split == "train" else split, self.spec.dataset)

    @property
    def to_tell(self) -> tuple[str, ...]:
        """The sentences that the user sees at the start.

        These are `notes`, a sentence if a new training will stay clearly below its learning rate and, for a packed data
        set, a sentence that says whether its images are held in memory.
        """
        return (*self.notes, *self._low_learning_rate(), *self._where_packed_images_are())

    def _low_learning_rate(self) -> list[str]:
        if self.resumed is not None:  # too late to change it
            return []
        config = self.spec.fit_config()
        steps = config.epochs * math.ceil(len(self.splits["train"]) / config.batch_size)
        share = highest_learning_rate(config, steps) / config.learning_rate
        if share >= ENOUGH:
            return []
        return [
            f"the learning rate reaches only {100 * share:.0f} % of its setting, because {config.warmup_steps} warm-up "
            f"steps are too many for a training of {count(steps, 'step')}: fewer --warmup-steps or more --epochs help"
        ]

    def _where_packed_images_are(self) -> list[str]:
        if not is_packed(self.spec.dataset):
            return []
        size = megabytes(sum(images.nbytes for images in self.splits.values()))
        if any(images.mapped for images in self.splits.values()):
            return [f"{size} of images are read from {self.spec.dataset} as they are needed"]
        return [f"{size} of images are held in memory by each worker; --images-in files reads them as they are needed"]

    def check_same_images(self, known: Mapping[str, str]) -> None:
        """Check that the images are the same as when the run began.

        Args:
            known: what `digests` returned when the run began. Splits that it lacks are not checked.

        Raises:
            JobError: if the images of a split differ.
        """
        changed = [name for name, digest in self.digests().items() if known.get(name, digest) != digest]
        if changed:
            raise JobError(
                f"the images of {' and '.join(changed)} have changed since the run began",
                remedy="restore them, or start a new run",
                code="images-changed",
            )

    def tags(self) -> dict[str, str]:
        """Return the tags of the run in MLflow."""
        return {
            tag_names.JOB: "train",
            tag_names.DATASET: self.spec.dataset,
            tag_names.SPEC: json.dumps(self._public()),
            **self.tags_of_notes(),
        }

    def tags_of_notes(self) -> dict[str, str]:
        """Return the tag that contains `notes`, as a dictionary; an empty one if there are no notes."""
        return {tag_names.NOTES: "\n".join(self.notes)} if self.notes else {}

    def params(self) -> JsonObject:
        """Return the parameters of the run in MLflow."""
        return self._public() | {"image_shape": self.config.image_shape}

    def _public(self) -> JsonObject:
        return self.spec.model_dump() | {"tracking_uri": without_password(self.tracking_uri)}


def prepare(spec: TrainSpec) -> Work:
    """Open the data, read them into memory unless workers map their files, and check what can be checked without Ray.

    Raises:
        SpecError: if settings do not fit the data.
        DatasetNotFound, DatasetCorrupt: if the data are missing or damaged.
        JobError: if the output folder cannot be used.
        EncoderError: if the encoder, or its weights, cannot be opened.
        TrackingError: if a job on a cluster was given no MLflow store.
    """
    spec = given = with_absolute_encoder(spec)
    encoder = encoder_of(spec)
    absolute = {"output": usable_output(spec.output), "dataset": absolute_dataset(spec.dataset)}
    if spec.data_root is not None:
        absolute["data_root"] = str(Path(spec.data_root).expanduser().absolute())
    spec = with_background_of_packed(spec.model_copy(update=absolute))
    given = given.model_copy(update={"background": spec.background})  # evaluations read it from either
    try:
        size = spec.image_size
        with one_look():  # because a file that is added between two listings would move images to other splits
            shape = None if size is None else (own_channels(spec.dataset), size, size)
            info = describe(spec.dataset, spec.data_root, image_shape=shape, background=colour(spec.background))
            opened = open_splits(spec, info.image_shape)
        config = spec.glow_config(info.image_shape, info.num_classes)
        least, _ = worker_range(spec.workers)
        if len(opened["train"]) < least:
            raise SpecError(
                f"{len(opened['train'])} training images are too few for {least} workers",
                remedy="lower --workers",
                code="too-many-workers",
            )
        splits = given_to_workers(spec, opened)
    except SpecError:
        raise
    except ValueError as error:  # of the library
        raise SpecError(str(error), code="settings-unfit-for-data") from error
    of_encoder = [] if encoder is None else [f"encoder {encoder}"]
    of_files = [note for dataset in opened.values() for note in dataset.notes]
    notes = tuple(dict.fromkeys([*info.notes, *of_files, *of_encoder]))
    return Work(
        given, spec, tracking_uri(spec.tracking_uri), config, info.original_shape, splits, notes, encoder=encoder
    )


FREE = ("tracking_uri", "experiment", "data_root", "download", "on_end")
"""Settings of a resumed run that can change; those of a training that ``--help`` lists under "Compute" can too."""


def prepare_resume(name: str, changes: Mapping[str, Any]) -> Work:
    """Prepare to continue a run that stopped.

    Args:
        name: the name or the id of the run in MLflow; or the id, path or URI of its folder.
        changes: settings to change, of those that `FREE` describes.

    Raises:
        TrackingError: if there is no such run, or the store cannot be used.
        JobError: if the run is finished, is not a training, is a trial of an ablation, or has lost its checkpoints; if
            its images have changed; or for the reasons of `prepare`.
        SpecError: if `changes` has a setting that must not change, or for the reasons of `prepare`.
        DatasetNotFound, DatasetCorrupt: for the reasons of `prepare`.
    """
    fixed = [name for name in changes if theme_of(TrainSpec, name) != "Compute" and name not in FREE]
    refuse(fixed, "a resumed run")
    found = find_stopped(name, "train", changes)
    finished = found.kept.result is not None if found.run is None else found.run.info.status == "FINISHED"
    if finished:
        raise JobError(
            f"run {name!r} is finished, so there is nothing left to train; its model is under {found.place}",
            remedy=f"start a new run with glowctl train, or record this one again with glowctl sync {name}",
            code="run-finished",
        )
    return prepare_found(found, changes)


def find_stopped(name: str, job: str, changes: Mapping[str, Any]) -> Found:
    """Find a run of the job "train" or "ablate" that began earlier; arguments and errors are those of `find_kept`."""
    uri = tracking_uri(changes.get("tracking_uri"))
    found = find_kept(name, uri, changes.get("experiment", TrainSpec.model_fields["experiment"].default))
    if found.kept.job != job:
        kind = {"train": "a training", "ablate": "an ablation"}
        raise JobError(
            f"run {name!r} is {kind[found.kept.job]} and not {kind[job]}",
            remedy=f"continue it with glowctl {found.kept.job} --resume {name}",
            code="run-of-another-job",
        )
    has_epochs = found.run is not None and metric_names.VALIDATION in found.run.data.metrics
    if job == "train" and has_epochs and not whole_checkpoints(found.place):
        raise JobError(
            f"the checkpoints of run {name!r} are gone from {found.place}, or they are damaged",
            remedy="start a new run with glowctl train",
            code="checkpoints-gone",
        )
    return found


def prepare_found(found: Found, changes: Mapping[str, Any]) -> Work:
    """Prepare a training that began earlier, with the settings that its folder has and some changes."""
    uri = tracking_uri(changes.get("tracking_uri"))
    spec = validated(TrainSpec, {**found.kept.spec, "output": found.output, **changes, "tracking_uri": uri})
    work = replace(prepare(spec), resumed=found)
    work.check_same_images(found.kept.images)
    return work
