"""Check the settings and the data of an ablation, new or resumed, before anything starts. Nothing here imports Ray."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glowctl.errors import JobError
from glowctl.outputs import Found, KeptRun, is_remote
from glowctl.run_labels import ablation_name, varied
from glowctl.specs.ablation import AblateSpec
from glowctl.specs.base import refuse, validated
from glowctl.specs.training import TrainSpec
from glowctl.text import JsonObject
from glowctl.tracking import tag_names
from glowctl.tracking.record import Record
from glowctl.tracking.runs import child_runs, find_run
from glowctl.tracking.uris import tracking_uri, without_password
from glowctl.training.prepare import FREE, Work, find_stopped
from glowctl.training.prepare import prepare as prepare_training

if TYPE_CHECKING:
    from glowctl.tracking.runs import Run


@dataclass(frozen=True)
class Ablation:
    """An ablation whose settings and data have been checked.

    Attributes:
        given: the settings as the user gave them.
        spec: the settings with absolute paths.
        work: the data, which all trials share.
        resumed: the ablation that is resumed; None for a new one.
    """

    given: AblateSpec
    spec: AblateSpec
    work: Work
    resumed: Found | None = None

    def place_of(self, parent: Record) -> str:
        """Return the folder of the ablation in the output folder, or its URI in a bucket; `parent` is its run."""
        return f"{self.spec.train.output}/{parent.run_id}" if self.resumed is None else self.resumed.place

    @property
    def taken(self) -> Mapping[str, float] | None:
        """The resources of each worker with which the trials of a resumed ablation began; None for a new ablation."""
        return None if self.resumed is None else self.resumed.kept.resources

    def to_keep(self, parent: Record, resources: Mapping[str, float]) -> KeptRun:
        """Return the content of ``run.json``; `resources` are those of each worker."""
        spec = self.spec.model_dump(mode="json")
        spec["train"]["tracking_uri"] = None  # it may contain a password
        images, each = self.work.digests(), dict(resources)
        return KeptRun(
            job="ablate", run_id=parent.run_id, run_name=parent.name, spec=spec, images=images, resources=each
        )

    def open_record(self, resources: Mapping[str, float]) -> Record:
        """Return the run that is resumed, or start one with all that `prepare_resume` needs."""
        uri, spec, found = self.work.tracking_uri, self.spec, self.resumed
        if found is not None and found.run is not None:
            return Record.existing(uri, found.run)
        public = spec.model_dump(mode="json")
        public["train"]["tracking_uri"] = without_password(uri)
        own = {name: value for name, value in public.items() if name != "train" and value is not None}
        params = _common(spec) | {"tracking_uri": without_password(uri)} | own
        tags = {tag_names.JOB: "ablate", tag_names.DATASET: spec.train.dataset, tag_names.SPEC: json.dumps(public)}
        tags |= {tag_names.RESOURCES: json.dumps(resources)} | self.work.tags_of_notes()
        tags |= {} if found is None else {tag_names.FOLDER: found.folder}
        name = ablation_name(spec) if found is None else found.kept.run_name
        return Record.start(uri, spec.train.experiment, name, tags, params)


def _common(spec: AblateSpec) -> JsonObject:
    """Return the settings that all trials have in common, with the values that the trials have.

    These differ from those of `spec.train` where an axis has a single value, and in the resources of a worker.
    """
    trial = spec.trial_spec(spec.trials()[0]).model_dump(mode="json") | {"run_name": spec.train.run_name}
    return {name: value for name, value in trial.items() if name not in varied(spec)}


def prepare(spec: AblateSpec) -> Ablation:
    """Open the data, and check everything that can be checked without Ray.

    Raises:
        SpecError: if the settings do not fit the data.
        DatasetNotFound, DatasetCorrupt: if the data cannot be read.
        JobError: if the output folder cannot be used.
    """
    work = prepare_training(spec.trial_spec(spec.trials()[0]))
    background = {"background": work.spec.background}  # for a packed data set, that with which it was packed
    paths = {name: getattr(work.spec, name) for name in ("output", "dataset", "data_root")}
    given, checked = (
        spec.model_copy(update={"train": spec.train.model_copy(update=update)})
        for update in (background, background | paths)
    )
    return Ablation(given, checked, work)


def prepare_resume(name: str, changes: Mapping[str, Any]) -> Ablation:
    """Prepare an interrupted ablation, so that it can continue.

    Args:
        name: name or id of its run; or the id, path or URI of its folder.
        changes: settings to change: ``tracking_uri``, ``experiment``, ``data_root`` or ``download``.

    Raises:
        SpecError: if `changes` has other settings, or for the same reason as in `prepare`.
        TrackingError: if there is no such run.
        JobError: if the run is not an ablation, its trials are gone, the images have changed, or for the same reason as
            in `prepare`.
        DatasetNotFound, DatasetCorrupt: for the same reason as in `prepare`.
    """
    refuse(changes.keys() - set(FREE), "a resumed ablation")
    found = find_stopped(name, "ablate", changes)
    gone = found.run is not None and not is_remote(found.output) and not Path(found.place).exists()
    if gone and found.run is not None and child_runs(tracking_uri(changes.get("tracking_uri")), found.run):
        raise JobError(
            f"the trials of {name!r} are gone from {found.output}",
            remedy="start a new ablation",
            code="trials-missing",
        )
    return prepare_found(found, changes)


def prepare_found(found: Found, changes: Mapping[str, Any]) -> Ablation:
    """Prepare an ablation that began earlier, with the settings that its folder has and some changes."""
    changes = {**changes, "tracking_uri": tracking_uri(changes.get("tracking_uri"))}
    train = {**found.kept.spec["train"], "output": found.output, **changes}
    ablation = prepare(validated(AblateSpec, {**found.kept.spec, "train": train}))
    ablation.work.check_same_images(found.kept.images)
    return replace(ablation, resumed=found)


def find_ablation(name: str, changes: Mapping[str, Any]) -> tuple[str, Run]:
    """Find the run of an ablation in MLflow.

    Args:
        name: id or name of the run.
        changes: ``tracking_uri`` and ``experiment``, if they are not the usual ones.

    Returns:
        The URI of the store, and the run.

    Raises:
        TrackingError: if there is no such run.
        JobError: if the run is not an ablation.
    """
    uri = tracking_uri(changes.get("tracking_uri"))
    found = find_run(uri, changes.get("experiment", TrainSpec.model_fields["experiment"].default), name)
    if found.data.tags.get(tag_names.JOB) != "ablate" or tag_names.SPEC not in found.data.tags:
        raise JobError(
            f"run {name!r} is not an ablation of glowctl",
            remedy="choose a run from the list of glowctl runs --job ablate",
            code="run-of-another-job",
        )
    return uri, found
