"""`glowctl repair`: add to MLflow the epochs of a training, or of an ablation's trials, that only checkpoints contain.

A run that goes on or is resumed completes its record itself. The command is for runs that are over: those in whose
records an older glowctl left gaps, and those that will not be resumed.
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
    """Add to MLflow the epochs that a run lacks there; if trials of an ablation lacked any, compare the trials again.

    Args:
        name_or_id: id or name of a training or an ablation.
        changes: ``tracking_uri``, ``experiment`` and ``output``, if they are not the usual ones.
        show: receives a `Repaired` event with what was added, and the new summary.

    Raises:
        SpecError: if `changes` has other settings.
        TrackingError: if there is no such run, or the store does not answer.
        JobError: if the run is of another job, is a single trial of an ablation, still runs, or has no checkpoints, or
            if the files of Ray Tune are missing or damaged.
    """
    refuse(changes.keys() - {"tracking_uri", "experiment", "output"}, "a run that is repaired")
    uri = tracking_uri(changes.get("tracking_uri"))
    found = find_run(uri, changes.get("experiment", TrainSpec.model_fields["experiment"].default), name_or_id)
    tags = found.data.tags
    if tags.get(tag_names.JOB) not in ("train", "ablate") or tag_names.SPEC not in tags:
        raise JobError(
            f"run {name_or_id!r} is neither a training nor an ablation of glowctl",
            remedy="choose a run from the list of glowctl runs --job train,ablate",
            code="run-of-another-job",
        )
    if tag_names.TRIAL in tags:
        ablation = tags[tag_names.PARENT]
        raise JobError(
            f"run {name_or_id!r} is a trial of an ablation",
            remedy=f"repair all trials of the ablation with glowctl repair {ablation}",
            code="run-is-trial",
        )
    if found.info.status == "RUNNING":
        raise JobError(
            f"run {name_or_id!r} still runs, and completes its record itself",
            remedy="wait until it ends",
            code="run-is-running",
        )
    if tags[tag_names.JOB] == "train":
        _repair_training(uri, found, changes, show)
    else:
        _repair_ablation(uri, found, changes, show)


def _repair_training(uri: str, found: Run, changes: Mapping[str, Any], show: Show) -> None:
    output = usable_output(changes.get("output") or json.loads(found.data.tags[tag_names.SPEC])["output"])
    history = last_history(output, found.data.tags.get(tag_names.FOLDER) or found.info.run_id)
    if not history:
        raise JobError(
            f"there is no checkpoint of run {found.info.run_id} in {output}",
            remedy="if the folder of the run was moved, name its parent folder with --output",
            code="checkpoint-missing",
        )
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
    """Return the label of each trial and the epochs in its last checkpoint."""
    folder = f"{place}/{FOLDER}"
    if not has_begun(folder) or damaged_file(folder) is not None:
        raise JobError(
            f"{place} does not contain the files in which Ray Tune saves an ablation, or they are damaged",
            remedy="if the folder of the run was moved, name its parent folder with --output",
            code="tune-state-missing",
        )
    know_moved_modules()
    # Tune warns about tables of its own that are not used here. Elsewhere ray.init sets this level.
    if not is_verbose():
        logging.getLogger("ray").setLevel(logging.ERROR)
    ends = [end_of(trial, spec) for trial in tune.ExperimentAnalysis(folder).trials]
    return [(end.trial, end.message.progress().history) for end in ends if isinstance(end.message, Ended)]
