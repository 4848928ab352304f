"""An ablation that has been checked: its settings and its data. Nothing here imports Ray."""

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
    """An ablation that has been checked: its spec as it was given and with absolute paths, and its data."""

    given: AblateSpec
    spec: AblateSpec
    work: Work
    resumed: Run | None = None
    kept: KeptRun | None = None  # what storage has of an ablation that MLflow has lost (jobs.outputs)
    kept_in: str | None = None  # the folder of its trials, where that is not named by the run's id

    def folder_of(self, parent: Record) -> str:
        """The folder in the output that the trials are in."""
        return self.kept_in or parent.run_id

    @property
    def taken(self) -> Mapping[str, float] | None:
        """The resources of each worker, where trials have begun."""
        if self.resumed is not None:
            found: dict[str, float] = json.loads(self.resumed.data.tags[tag_names.RESOURCES])
            return found
        return None if self.kept is None else self.kept.resources

    def to_keep(self, resources: Mapping[str, float]) -> KeptRun:
        """What storage keeps of the ablation; `resources` are those of each worker."""
        spec = self.spec.model_dump(mode="json")
        spec["train"]["tracking_uri"] = None  # which may hold a password
        return KeptRun(job="ablate", spec=spec, images=self.work.digests(), resources=dict(resources))


def prepare(spec: AblateSpec) -> Ablation:
    """Loads the data and checks everything that needs no Ray. Raises what `jobs.training.prepare.prepare` raises."""
    work = prepare_training(spec.trial_spec(spec.trials()[0]))
    paths = {name: getattr(work.spec, name) for name in ("output", "dataset", "data_root")}
    return Ablation(spec, spec.model_copy(update={"train": spec.train.model_copy(update=paths)}), work)


def prepare_resume(name_or_id: str, changes: Mapping[str, Any]) -> Ablation:
    """An ablation that stopped. `changes` may say where it is recorded, not what it computes.

    Raises what `prepare` raises, TrackingError for a run that does not exist, and JobError for one that cannot go on.
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
        raise JobError(f"the trials of {name_or_id!r} are gone from {spec.train.output}: start a new ablation")
    ablation = prepare(spec)
    ablation.work.check_same_images(recorded_images(found))
    return Ablation(spec, ablation.spec, ablation.work, found, kept_in=kept_in)


def _prepare_kept(name: str, changes: Mapping[str, Any], unknown: NoSuchRun) -> Ablation:
    """An ablation that MLflow does not know, by what is beside its trials."""
    place = place_named(name)
    kept = recall(place)
    if kept is None or kept.job != "ablate":
        raise NoSuchRun(f"{unknown}, and no trials of an ablation in {place}")
    output, _, folder = place.rpartition("/")
    stored = {**kept.spec, "train": {**kept.spec["train"], "output": output, **changes}}
    ablation = prepare(validated(AblateSpec, stored))
    ablation.work.check_same_images(kept.images)
    return replace(ablation, kept=kept, kept_in=folder)


def find_ablation(name_or_id: str, changes: Mapping[str, Any]) -> tuple[str, Run]:
    """The store's URI and the run of an ablation. Raises TrackingError, and JobError for a run that is none."""
    uri = tracking_uri(changes.get("tracking_uri"))
    found = find_run(uri, changes.get("experiment", TrainSpec.model_fields["experiment"].default), name_or_id)
    if found.data.tags.get(tag_names.JOB) != "ablate" or tag_names.SPEC not in found.data.tags:
        raise JobError(f"run {name_or_id!r} is not an ablation of glowctl")
    return uri, found
