"""Brings what MLflow has of a run up to what its checkpoints know: a training, or an ablation with its trials.

What runs is brought up to date by itself, and so is what is resumed. This is for what is over: a record that an older
glowctl left with gaps, or a run that nobody wants to resume.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray import tune

from jobs.ablation.messages import Ended
from jobs.ablation.older_versions import know_moved_modules
from jobs.ablation.recovery import end_of
from jobs.ablation.run import summarize_again
from jobs.ablation.tune_state import damaged_file, has_begun
from jobs.ablation.tuner import FOLDER
from jobs.display.events import Repaired, Show
from jobs.errors import JobError
from jobs.outputs import usable_output
from jobs.specs.ablation import AblateSpec
from jobs.specs.base import refuse, validated
from jobs.specs.training import TrainSpec
from jobs.system.verbosity import is_verbose
from jobs.tracking import Record, child_runs, find_run, tag_names, tracking_uri
from jobs.training.history import EpochMetrics
from jobs.training.repair import add_missing, last_history

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = ["repair"]


def repair(name_or_id: str, changes: Mapping[str, Any], show: Show) -> None:
    """Adds what MLflow lacks, says what that was, and compares the trials of an ablation again. `changes` may say where
    the record and the output are.

    Raises:
        TrackingError: for a run that does not exist, or a store that takes no more.
        JobError: for a run that is at work, or that has no checkpoints.
    """
    refuse(changes.keys() - {"tracking_uri", "experiment", "output"}, "a run that is repaired")
    uri = tracking_uri(changes.get("tracking_uri"))
    found = find_run(uri, changes.get("experiment", TrainSpec.model_fields["experiment"].default), name_or_id)
    tags = found.data.tags
    if tags.get(tag_names.JOB) not in ("train", "ablate") or tag_names.SPEC not in tags:
        raise JobError(f"run {name_or_id!r} is neither a training nor an ablation of glowctl")
    if tag_names.TRIAL in tags:
        ablation = tags[tag_names.PARENT]
        raise JobError(f"run {name_or_id!r} is a trial of an ablation: glowctl repair {ablation} repairs all of them")
    if found.info.status == "RUNNING":
        raise JobError(f"run {name_or_id!r} is at work, and brings its record up to date by itself")
    if tags[tag_names.JOB] == "train":
        _repair_training(uri, found, changes, show)
    else:
        _repair_ablation(uri, found, changes, show)


def _repair_training(uri: str, found: Run, changes: Mapping[str, Any], show: Show) -> None:
    output = usable_output(changes.get("output") or json.loads(found.data.tags[tag_names.SPEC])["output"])
    history = last_history(output, found.data.tags.get(tag_names.FOLDER) or found.info.run_id)
    if not history:
        raise JobError(f"no checkpoint of run {found.info.run_id} is in {output}: name the place by --output")
    added = add_missing(Record.existing(uri, found), history)
    show(Repaired(found.info.run_name, found.info.run_id, {found.info.run_name: added} if added else {}))


def _repair_ablation(uri: str, found: Run, changes: Mapping[str, Any], show: Show) -> None:
    stored = json.loads(found.data.tags[tag_names.SPEC])
    spec = validated(AblateSpec, stored)
    output = usable_output(changes.get("output") or spec.train.output)
    place = f"{output}/{found.data.tags.get(tag_names.FOLDER) or found.info.run_id}"
    trials = {run.data.tags.get(tag_names.TRIAL): run for run in child_runs(uri, found)}
    added: dict[str, list[int]] = {}
    for trial, history in _histories(place, spec):
        run = trials.get(trial)
        epochs = add_missing(Record.existing(uri, run), history) if run is not None else []
        if epochs:
            added[trial] = epochs
    show(Repaired(found.info.run_name, found.info.run_id, added))
    if added:
        summarize_again(name_or_id=found.info.run_id, changes=changes, show=show)


def _histories(place: str, spec: AblateSpec) -> list[tuple[str, list[EpochMetrics]]]:
    """The epochs that the last checkpoint of each trial knows. Raises JobError where Tune knows no trials."""
    folder = f"{place}/{FOLDER}"
    if not has_begun(folder) or damaged_file(folder) is not None:
        raise JobError(
            f"what Ray Tune saved of the ablation is not in {place}, or is damaged: name the folder above by --output"
        )
    know_moved_modules()
    if not is_verbose():  # Tune misses tables of its own that nobody asked it for; elsewhere ray.init sees to this
        logging.getLogger("ray").setLevel(logging.ERROR)
    ends = [end_of(trial, spec) for trial in tune.ExperimentAnalysis(folder).trials]
    return [(end.trial, end.message.history()) for end in ends if isinstance(end.message, Ended)]
