"""`glowctl repair`: complete the record in MLflow of a training, or of an ablation's trials, from their checkpoints.

A run that goes on or is resumed completes its record itself. The command is for runs that are over: those in whose
records an older glowctl left gaps, and those that will not be resumed. It adds what a resume would add, except for
scores and models, which need the images, and says what it could not add.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray import tune

from jobs.ablation.older_versions import know_moved_modules
from jobs.ablation.run import summarize_again
from jobs.ablation.tune_state import damaged_file, has_begun
from jobs.ablation.tuner import FOLDER
from jobs.display.events import Repaired, Show
from jobs.errors import JobError
from jobs.outputs import usable_output
from jobs.specs.ablation import AblateSpec
from jobs.specs.base import refuse, validated
from jobs.specs.training import TrainSpec, worker_range
from jobs.system.verbosity import is_verbose
from jobs.text import numbers
from jobs.tracking import Record, child_runs, find_run, metric_names, tag_names, tracking_uri
from jobs.training.repair import Kept, Lack, complete_record, kept_by_checkpoints

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = ["repair"]


def repair(name_or_id: str, changes: Mapping[str, Any], show: Show) -> None:
    """Add to MLflow what a run lacks there and its checkpoints contain; compare the trials of an ablation again.

    Args:
        name_or_id: id or name of a training or an ablation.
        changes: ``tracking_uri``, ``experiment`` and ``output``, if they are not the usual ones.
        show: receives a `Repaired` event, and the new summary if anything was added to trials of an ablation.

    Raises:
        SpecError: if `changes` has other settings.
        TrackingError: if there is no such run, or the store does not answer.
        JobError: if the run is of another job, is a single trial of an ablation, still runs, or has no checkpoints that
            can be read, or if the files of Ray Tune are missing or damaged.
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
    spec = validated(TrainSpec, json.loads(found.data.tags[tag_names.SPEC]))
    output = usable_output(changes.get("output") or spec.output)
    kept = kept_by_checkpoints(f"{output}/{found.data.tags.get(tag_names.FOLDER) or found.info.run_id}")
    if kept.is_empty:
        unread = f" that can be read; {kept.damaged[0]} is damaged" if kept.damaged else ""
        raise JobError(
            f"there is no checkpoint of run {found.info.run_id} in {output}{unread}",
            remedy="if the folder of the run was moved, name its parent folder with --output",
            code="checkpoint-missing",
        )
    repaired = Repaired(found.info.run_name, found.info.run_id)
    _complete(uri, found, kept, found.info.run_name, spec, repaired)
    if found.info.status != "FINISHED":
        repaired.left.append(
            "the training did not finish, so there is no result and no model to record: glowctl train --resume "
            f"{found.info.run_id} continues it"
        )
    show(repaired)


def _repair_ablation(uri: str, found: Run, changes: Mapping[str, Any], show: Show) -> None:
    spec = validated(AblateSpec, json.loads(found.data.tags[tag_names.SPEC]))
    output, run_id = usable_output(changes.get("output") or spec.train.output), found.info.run_id
    place = f"{output}/{found.data.tags.get(tag_names.FOLDER) or run_id}"
    repaired = Repaired(found.info.run_name, run_id)
    saved = _saved_trials(place, spec)
    trial = spec.trial_spec(spec.trials()[0])  # all trials have as many workers and epochs
    runs = {run.data.tags[tag_names.TRIAL]: run for run in child_runs(uri, found) if tag_names.TRIAL in run.data.tags}
    for label in dict.fromkeys((*saved, *runs)):
        # Trials of several workers also have checkpoints of Ray Train, in a folder with the name of the trial.
        folders = [saved[label].folder] if label in saved else []
        kept = kept_by_checkpoints(*folders, f"{place}/train/{label.replace(' ', '-')}")
        run = runs.get(label)
        if run is not None:
            _complete(uri, run, kept, label, trial, repaired)
        elif not kept.is_empty:
            repaired.left.append(f"{label} has no run in MLflow: glowctl ablate --resume {run_id} makes one")
        if run is not None and run.info.status != "FINISHED" and label in saved and saved[label].finished:
            repaired.left.append(
                f"{label} finished, but MLflow lacks its result: glowctl ablate --resume {run_id} adds it"
            )
    show(repaired)
    if repaired.is_change:
        summarize_again(name_or_id=run_id, changes=changes, show=show)


def _complete(uri: str, run: Run, kept: Kept, name: str, spec: TrainSpec, repaired: Repaired) -> None:
    """Complete the record of one training, and note in `repaired` what was added to it and what it still lacks.

    Args:
        uri: the store.
        run: the run of the training.
        kept: what its checkpoints contain.
        name: the name by which the user knows the training.
        spec: the settings of the training.
        repaired: receives the notes.
    """
    record, (least, most) = Record.existing(uri, run), worker_range(spec.workers)
    lack = Lack.of(record, kept)
    number = least if least == most and not kept.is_empty else None
    restarts = int(run.data.metrics.get("restarts", 0))
    complete_record(record, kept.progress, kept.config, number, restarts)
    figures = [figure for figure in lack.figures if record.metric_steps(figure)]
    repaired.added.update({name: lack.epochs} if lack.epochs else {})
    repaired.samples.update({name: lack.samples} if lack.samples else {})
    repaired.figures.update({name: figures} if figures else {})
    repaired.left.extend(f"{name}: {file} is damaged" for file in kept.damaged)
    known = record.metric_steps(metric_names.VALIDATION)
    last = spec.epochs if run.info.status == "FINISHED" else max(known, default=0)
    gap = [epoch for epoch in range(1, last + 1) if epoch not in known]
    missing = [numbers("epoch", gap)] if gap else []
    missing += [f"the number of {figure}" for figure in lack.figures if figure not in figures]
    if missing and (last or not kept.is_empty):
        repaired.left.append(f"{name}: MLflow lacks {' and '.join(missing)}, which no readable checkpoint contains")


@dataclass(frozen=True)
class Saved:
    """What Ray Tune has saved of a trial.

    Attributes:
        folder: the folder of the trial's checkpoints, or its URI in a bucket. The path of the last checkpoint, which
            Tune saves too, is not used: after a kill it can be that of a folder that is gone.
        finished: whether the trial reported its result.
    """

    folder: str
    finished: bool


def _saved_trials(place: str, spec: AblateSpec) -> dict[str, Saved]:
    """Return what Ray Tune has saved of each trial, by the label of the trial."""
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
    return {
        spec.label(trial.config["values"]): Saved(
            f"{folder}/{trial.trial_id}", "test_bits_per_dim" in trial.last_result
        )
        for trial in tune.ExperimentAnalysis(folder).trials
    }
