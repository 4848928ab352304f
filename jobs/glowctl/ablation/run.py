"""The ablation job: train many variants on Ray Tune, and compare them.

Tune decides which trial runs where and when. Every trial trains a model as the training job does. A resumed ablation
is a new experiment of Tune with the trials that have not ended, each of which starts at its last checkpoint.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any

from glowctl.ablation.log import AblationLog
from glowctl.ablation.prepare import Ablation, find_ablation, prepare_found
from glowctl.ablation.summary import summarize_ablation
from glowctl.ablation.trial import Shared
from glowctl.ablation.tuner import make_tuner, reachable
from glowctl.display.displays import forgiving
from glowctl.display.events import Ablating, AblationStopped, Noted, Plan, Show
from glowctl.errors import JobError
from glowctl.outputs import (
    KeptResult,
    claimed,
    find_kept,
    folder_of_trial,
    recall_trial,
    remember,
    results_folder,
    usable_output,
)
from glowctl.ray_runtime.event_queue import Channel
from glowctl.ray_runtime.resources import Resources, waiting
from glowctl.run_labels import ablation_description
from glowctl.run_log import logged
from glowctl.specs.ablation import AblateSpec
from glowctl.specs.base import refuse, validated
from glowctl.specs.training import TrainSpec, worker_range
from glowctl.system.verbosity import unheeded
from glowctl.tracking import tag_names
from glowctl.tracking.record import Record
from glowctl.tracking.runs import child_runs, recorded_images
from glowctl.tracking.uris import tracking_uri
from glowctl.training.prepare import prepare_found as prepare_found_training
from glowctl.training.progress import remove_old_checkpoints, whole_checkpoints
from glowctl.training.ray_trainer import checkpoint_of, death_behind, put_data, worker_settings
from glowctl.training.run import sync as sync_training

logger = logging.getLogger(__name__)


def run(ablation: Ablation, planned: Plan, show: Show) -> str:
    """Run all trials on the Ray cluster that this process is connected to, and compare them.

    Args:
        ablation: the ablation.
        planned: what `glowctl.ablation.plan` planned for it.
        show: receives the events.

    Returns:
        The id of the run of the trial with the lowest validation NLL.

    Raises:
        JobError: if no trial finished, another glowctl drives this ablation, or Ray loses processes too often.
        TrackingError: if the store does not answer.
        KeyboardInterrupt: on Ctrl-C, after a message on how to resume.
    """
    show = forgiving(show)
    resources = Resources((planned.workers, planned.workers), planned.gpus, planned.cpus)
    each = {"cpus_per_worker": resources.cpus, "gpus_per_worker": resources.gpus}
    parent = ablation.open_record(each)
    place = ablation.place_of(parent)
    with claimed(place, parent.run_id, "ablate"), logged(place, parent, show) as (run_log, show):
        show(planned)
        for note in ablation.work.to_tell:
            show(Noted(note))
        try:
            with parent.running(run_log.copy, ablation.spec.train.on_end):
                log = open_log(ablation, resources, parent, show)
                parent.metrics(ablation.work.estimate())
                settled = settled_trials(ablation.spec, place)
                finished = sorted(label for label, ended in settled.items() if ended.state == "finished")
                show(Ablating(parent.name, parent.run_id, finished, {label: e.state for label, e in settled.items()}))
                log.complete(settled, remove_old_checkpoints(place))
                if (wait := waiting(resources)) is not None:
                    show(wait)
                _run_trials(ablation, log, resources, planned.at_a_time, place, parent.run_id)
                summary = summarize_ablation(
                    ablation.work.tracking_uri, parent, ablation.spec, place, names_champion=True
                )
                if summary.best is None:
                    raise JobError(
                        f"no trial finished ({summary.unfinished[0].rstrip('.')})",
                        remedy="correct the settings and start a new ablation, or try again with glowctl ablate "
                        f"--resume {parent.run_id}",
                        code="no-trial-finished",
                    )
        except KeyboardInterrupt:
            show(AblationStopped(parent.run_id))
            raise
        show(summary)
    return str(summary.best["run_id"])


def open_log(ablation: Ablation, resources: Resources, parent: Record, show: Show) -> AblationLog:
    """Record the settings and the data of an ablation, and return the log of its trials."""
    place, before = ablation.place_of(parent), ablation.resumed.run if ablation.resumed is not None else None
    each = {"cpus_per_worker": resources.cpus, "gpus_per_worker": resources.gpus}
    remember(place, ablation.to_keep(parent, each))
    if before is None or not recorded_images(before):
        _record_settings(ablation, parent, place)
    children = [] if before is None else child_runs(ablation.work.tracking_uri, before)
    known = {run.data.tags[tag_names.TRIAL]: run for run in children if tag_names.TRIAL in run.data.tags}
    return AblationLog(ablation.given, ablation.spec, ablation.work, resources, parent, known, show, place)


def settled_trials(spec: AblateSpec, place: str) -> dict[str, KeptResult]:
    """Return how the trials ended that do not run again, by label, from the folder of the ablation or a bucket."""
    labels = [spec.label(values) for values in spec.trials()]
    ends = {label: recall_trial(folder_of_trial(place, label)) for label in labels}
    return {label: end for label, end in ends.items() if end is not None}


def sync(name: str, changes: Mapping[str, Any], show: Show) -> None:
    """Copy the folder of a training, or of an ablation with its trials, to MLflow again.

    Args:
        name: name or id of the run; or the id, path or URI of its folder.
        changes: ``tracking_uri``, ``experiment`` and ``data_root``, if they are not the usual ones.
        show: receives the result of the training, or the new summary of the ablation.

    Raises:
        TrackingError: if there is no such run, or the store does not answer.
        JobError: if the run is a trial or of another job, a command is at work on it, or its folder cannot be read.
        DatasetNotFound, DatasetCorrupt: if the data cannot be read.
    """
    uri = tracking_uri(changes.get("tracking_uri"))
    found = find_kept(name, uri, changes.get("experiment", TrainSpec.model_fields["experiment"].default))
    if found.kept.job == "train":
        sync_training(prepare_found_training(found, changes), show)
        return
    ablation = prepare_found(found, changes)
    taken, workers = found.kept.resources or {}, worker_range(ablation.work.spec.workers)
    resources = Resources(workers, taken.get("gpus_per_worker", 0.0), taken.get("cpus_per_worker", 1.0))
    parent = ablation.open_record(taken)
    place = ablation.place_of(parent)
    with claimed(place, parent.run_id, "ablate"):
        log = open_log(ablation, resources, parent, show)
        log.complete(settled_trials(ablation.spec, place), whole_checkpoints(place), again=True)
        summary = summarize_ablation(uri, parent, ablation.spec, place)
        is_over = len(log.settled) == ablation.spec.number_of_trials and summary.best is not None
        if found.run is None or (is_over and found.run.info.status != "FINISHED"):
            parent.finish("FINISHED" if is_over else "KILLED")
    show(summary)


def summarize_again(name_or_id: str, changes: Mapping[str, Any], show: Show) -> None:
    """Compare the trials of an ablation again, from what MLflow has of them now.

    The alias ``champion`` stays at the model that has it.

    Args:
        name_or_id: id or name of the ablation's run.
        changes: ``tracking_uri``, ``experiment``, and the folder ``output`` of the summary, if they are not the usual
            ones.
        show: receives the summary.

    Raises:
        SpecError: if `changes` has other settings.
        TrackingError: if there is no such run, or the store does not answer.
        JobError: if the run is not an ablation, or the output folder cannot be used.
    """
    refuse(changes.keys() - {"tracking_uri", "experiment", "output"}, "an ablation that is summarized")
    uri, found = find_ablation(name_or_id, changes)
    stored = json.loads(found.data.tags[tag_names.SPEC])
    output = usable_output(changes.get("output", stored["train"]["output"]))
    place = f"{output}/{found.data.tags.get(tag_names.FOLDER, found.info.run_id)}"
    show(summarize_ablation(uri, Record.existing(uri, found), validated(AblateSpec, stored), place))


def _run_trials(
    ablation: Ablation, log: AblationLog, resources: Resources, at_a_time: int, place: str, run_id: str
) -> None:
    """Run a new experiment of Tune with the trials that have not ended, each from its last checkpoint.

    If Ray kills a process because memory is short, more than one trial may end: Tune's loop does not handle that error,
    and the process may be the queue of messages. Then another experiment follows, as after a crash, up to
    `max_failures` times.
    """
    spec = ablation.spec
    data = put_data(ablation.work)
    # Ray and Tune's files do not need the store, whose URI may contain a password.
    private = spec.model_copy(update={"train": spec.train.model_copy(update={"tracking_uri": None})})
    try:
        for _ in range(spec.train.max_failures + 1):
            if spec.known_beforehand and len(log.settled) == spec.number_of_trials:
                return
            log.starts = remove_old_checkpoints(place)
            starts = {label: checkpoint_of(stood) for label, stood in log.starts.items()}
            try:
                with Channel(log.see, log.record) as channel, reachable(channel.queue):
                    common = worker_settings(ablation.work, resources, data, channel.queue)
                    shared = Shared(private, common, channel.queue, resources, place, starts)
                    # At the end Tune reads the errors of trials, which a full disk may not have taken whole.
                    with unheeded(logger, "the errors of trials cannot be read", EOFError, UnpicklingError):
                        make_tuner(shared, log.settled, at_a_time).fit()
                return
            except Exception as error:
                if death_behind(error) is None:
                    raise
        raise JobError(
            f"Ray lost processes more than {spec.train.max_failures} times, most likely because memory is short",
            remedy=f"free some memory and continue with glowctl ablate --resume {run_id}, or start a new ablation with "
            "a lower --concurrent",
            code="processes-lost",
        )
    finally:
        log.close()


def _record_settings(ablation: Ablation, parent: Record, place: str) -> None:
    """Record the data, and the settings that repeat the ablation: as given, but without the store."""
    common = ablation.given.train.model_copy(update={"tracking_uri": None})
    with results_folder(f"{place}/summary") as folder:
        (folder / "spec.json").write_text(ablation.given.model_copy(update={"train": common}).to_json())
        parent.folder(folder)
    parent.describe(ablation_description(ablation.spec, parent.run_id))
    ablation.work.record_datasets(parent)  # last, so that a run with data sets is known to have all of this
