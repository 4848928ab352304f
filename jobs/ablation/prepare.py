"""Check the settings and the data of an ablation, new or resumed, before anything starts. Nothing here imports Ray."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import JobError
from jobs.outputs import KeptRun, is_remote, place_named, recall
from jobs.specs.ablation import AblateSpec
from jobs.specs.base import refuse, validated
from jobs.specs.training import TrainSpec
from jobs.tracking import (
    NoSuchRun,
    Record,
    child_runs,
    find_run,
    recorded_images,
    tag_names,
    tracking_uri,
)
from jobs.training.prepare import Work
from jobs.training.prepare import prepare as prepare_training

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = ["Ablation", "find_ablation", "prepare", "prepare_resume"]


@dataclass(frozen=True)
class Ablation:
    """An ablation whose settings and data have been checked.

    Attributes:
        given: the settings as the user gave them.
        spec: the settings with absolute paths.
        work: the data, which all trials share.
        resumed: the run in MLflow that is resumed; None if there is none.
        kept: the content of the file ``run.json`` in the folder of the trials, if MLflow has lost the run; else None.
        kept_in: the name of that folder within the output folder, if the name is not the id of the run; else None.
    """

    given: AblateSpec
    spec: AblateSpec
    work: Work
    resumed: Run | None = None
    kept: KeptRun | None = None
    kept_in: str | None = None

    def folder_of(self, parent: Record) -> str:
        """Return the name of the folder of the trials within the output folder; `parent` is the run of the ablation."""
        return self.kept_in or parent.run_id

    @property
    def taken(self) -> Mapping[str, float] | None:
        """The resources of each worker with which the trials of a resumed ablation began; None for a new ablation."""
        if self.resumed is not None:
            found: dict[str, float] = json.loads(self.resumed.data.tags[tag_names.RESOURCES])
            return found
        return None if self.kept is None else self.kept.resources

    def to_keep(self, resources: Mapping[str, float]) -> KeptRun:
        """Return the content of ``run.json``, from which the ablation can be resumed if MLflow has lost its run.

        Args:
            resources: the resources of each worker.
        """
        spec = self.spec.model_dump(mode="json")
        spec["train"]["tracking_uri"] = None  # it may contain a password
        return KeptRun(job="ablate", spec=spec, images=self.work.digests(), resources=dict(resources))


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


def prepare_resume(name_or_id: str, changes: Mapping[str, Any]) -> Ablation:
    """Prepare an interrupted ablation, so that it can continue.

    Args:
        name_or_id: id or name of its run, or the folder or bucket of its trials if MLflow has lost the run.
        changes: settings to change: ``tracking_uri``, ``experiment``, ``data_root`` or ``download``.

    Raises:
        SpecError: if `changes` has other settings, or for the same reason as in `prepare`.
        TrackingError: if there is no such run.
        JobError: if the run is not an ablation, its trials are gone, the images have changed, or for the same reason as
            in `prepare`.
        DatasetNotFound, DatasetCorrupt: for the same reason as in `prepare`.
    """
    refuse(changes.keys() - {"tracking_uri", "experiment", "data_root", "download"}, "a resumed ablation")
    try:
        uri, found = find_ablation(name_or_id, changes)
    except NoSuchRun as error:
        return _prepare_kept(name_or_id, changes, error)
    stored = json.loads(found.data.tags[tag_names.SPEC])
    stored["train"] |= {**changes, "tracking_uri": uri}
    spec = validated(AblateSpec, stored)
    kept_in = found.data.tags.get(tag_names.FOLDER)
    folder = Path(spec.train.output, kept_in or found.info.run_id)
    if not is_remote(spec.train.output) and not folder.exists() and child_runs(uri, found):
        raise JobError(
            f"the trials of {name_or_id!r} are gone from {spec.train.output}",
            remedy="start a new ablation",
            code="trials-missing",
        )
    ablation = prepare(spec)
    ablation.work.check_same_images(recorded_images(found))
    return Ablation(spec, ablation.spec, ablation.work, found, kept_in=kept_in)


def _prepare_kept(name: str, changes: Mapping[str, Any], unknown: NoSuchRun) -> Ablation:
    """Prepare an ablation that MLflow does not have, from what the folder of its trials keeps."""
    place = place_named(name)
    kept = recall(place)
    if kept is None or kept.job != "ablate":
        raise NoSuchRun(
            f"{unknown.problem}, and {place} does not contain the trials of an ablation",
            remedy="give --resume a run from the list of glowctl runs --job ablate, or the folder of an ablation's "
            "trials",
            code="run-not-found",
        )
    output, _, folder = place.rpartition("/")
    stored = {**kept.spec, "train": {**kept.spec["train"], "output": output, **changes}}
    ablation = prepare(validated(AblateSpec, stored))
    ablation.work.check_same_images(kept.images)
    return replace(ablation, kept=kept, kept_in=folder)


def find_ablation(name_or_id: str, changes: Mapping[str, Any]) -> tuple[str, Run]:
    """Find the run of an ablation.

    Args:
        name_or_id: id or name of the run.
        changes: ``tracking_uri`` and ``experiment``, if they are not the usual ones.

    Returns:
        The URI of the store, and the run.

    Raises:
        TrackingError: if there is no such run.
        JobError: if the run is not an ablation.
    """
    uri = tracking_uri(changes.get("tracking_uri"))
    found = find_run(uri, changes.get("experiment", TrainSpec.model_fields["experiment"].default), name_or_id)
    if found.data.tags.get(tag_names.JOB) != "ablate" or tag_names.SPEC not in found.data.tags:
        raise JobError(
            f"run {name_or_id!r} is not an ablation of glowctl",
            remedy="choose a run from the list of glowctl runs --job ablate",
            code="run-of-another-job",
        )
    return uri, found
