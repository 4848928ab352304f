"""The ablation job: train many variants on Ray Tune, and compare them.

Tune decides which trial runs where and when. After a crash it continues from the state that it has saved. Every trial
trains a model as the training job does.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from jobs.ablation.log import AblationLog, settled_among
from jobs.ablation.prepare import Ablation, find_ablation
from jobs.ablation.recovery import catch_up
from jobs.ablation.summary import summarize_ablation
from jobs.ablation.trial import Shared
from jobs.ablation.tuner import FOLDER, make_tuner, reachable
from jobs.display.displays import forgiving
from jobs.display.events import Ablating, AblationStopped, Noted, Plan, Show
from jobs.errors import JobError
from jobs.outputs import claimed, remember, results_folder, usable_output
from jobs.ray_runtime.event_queue import Channel
from jobs.ray_runtime.resources import Resources
from jobs.run_labels import ablation_description, ablation_name, varied
from jobs.specs.ablation import AblateSpec
from jobs.specs.base import refuse, validated
from jobs.system.verbosity import unheeded
from jobs.text import JsonObject
from jobs.tracking import (
    Record,
    child_runs,
    recorded_images,
    tag_names,
    without_password,
)
from jobs.training.ray_trainer import death_behind, put_data, worker_settings

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = ["run", "summarize_again"]

logger = logging.getLogger(__name__)


def run(ablation: Ablation, planned: Plan, show: Show) -> str:
    """Run all trials on the Ray cluster that this process is connected to, and compare them.

    Args:
        ablation: the ablation.
        planned: what `jobs.ablation.plan.plan` planned for it.
        show: receives the events.

    Returns:
        The id of the run of the trial with the lowest validation NLL.

    Raises:
        JobError: if no trial finished, another glowctl drives this ablation, or Ray loses processes too often.
        TrackingError: if the store does not answer.
        KeyboardInterrupt: on Ctrl-C, after a message on how to resume.
    """
    show = forgiving(show)
    show(planned)
    for note in ablation.work.to_tell:
        show(Noted(note))
    resources = Resources((planned.workers, planned.workers), planned.gpus, planned.cpus)
    each = {"cpus_per_worker": resources.cpus, "gpus_per_worker": resources.gpus}
    parent = _open_record(ablation, each)
    folder = ablation.folder_of(parent)
    with claimed(ablation.spec.train.output, folder, "ablate"):
        try:
            with parent.running():
                if ablation.resumed is None or not recorded_images(ablation.resumed):
                    _record_settings(ablation, parent)
                known = _known_trials(ablation)
                settled = settled_among(known)
                finished = sorted(label for label, state in settled.items() if state == "finished")
                show(Ablating(parent.name, parent.run_id, finished, settled))
                remember(f"{ablation.spec.train.output}/{folder}", ablation.to_keep(each))
                log = AblationLog(ablation.given, ablation.spec, ablation.work, resources, parent, known, show, folder)
                _run_trials(ablation, log, resources, planned.at_a_time, folder, parent.run_id)
                summary = summarize_ablation(ablation.work.tracking_uri, parent, ablation.spec, names_champion=True)
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


def _known_trials(ablation: Ablation) -> dict[str, Run]:
    """Return the runs that trials have from before the ablation was resumed, by label."""
    if ablation.resumed is None:
        return {}
    children = child_runs(ablation.work.tracking_uri, ablation.resumed)
    return {run.data.tags[tag_names.TRIAL]: run for run in children if tag_names.TRIAL in run.data.tags}


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
    stored["train"]["output"] = usable_output(changes.get("output", stored["train"]["output"]))
    summary = summarize_ablation(uri, Record.existing(uri, found), validated(AblateSpec, stored))
    show(summary)


def _run_trials(
    ablation: Ablation, log: AblationLog, resources: Resources, at_a_time: int, folder: str, run_id: str
) -> None:
    """Run the experiment to its end.

    If Ray kills a process because memory is short, more than one trial may end: Tune's loop does not handle that error,
    and the process may be the queue of messages. Then the experiment is restored, as after a crash, up to
    `max_failures` times.
    """
    spec = ablation.spec
    data = put_data(ablation.work)
    storage = f"{spec.train.output}/{folder}"
    # Ray and Tune's files do not need the store, whose URI may contain a password.
    private = spec.model_copy(update={"train": spec.train.model_copy(update={"tracking_uri": None})})
    try:
        for _ in range(spec.train.max_failures + 1):
            try:
                with Channel(log.see, log.record) as channel, reachable(channel.queue):
                    stood = catch_up(f"{storage}/{FOLDER}", spec, channel.queue, run_id)
                    common = worker_settings(ablation.work, resources, data, channel.queue)
                    shared = Shared(private, common, channel.queue, resources, f"{storage}/train", log.finished, stood)
                    tuner = make_tuner(shared, at_a_time, storage)
                    # At the end Tune reads the errors of trials, which a full disk may not have taken whole.
                    with unheeded(logger, "the errors of trials cannot be read", EOFError, UnpicklingError):
                        tuner.fit()
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


def _open_record(ablation: Ablation, resources: Mapping[str, float]) -> Record:
    """Return the run that is resumed, or start one with all that `prepare_resume` needs."""
    uri, spec = ablation.work.tracking_uri, ablation.spec
    if ablation.resumed is not None:
        return Record.existing(uri, ablation.resumed)
    public = spec.model_dump(mode="json")
    public["train"]["tracking_uri"] = without_password(uri)
    own = {name: value for name, value in public.items() if name != "train" and value is not None}
    params = _common(spec) | {"tracking_uri": without_password(uri)} | own
    tags = {tag_names.JOB: "ablate", tag_names.DATASET: spec.train.dataset, tag_names.SPEC: json.dumps(public)}
    tags[tag_names.RESOURCES] = json.dumps(resources)
    tags |= ablation.work.tags_of_notes()
    tags |= {tag_names.FOLDER: ablation.kept_in} if ablation.kept_in else {}
    return Record.start(uri, spec.train.experiment, ablation_name(spec), tags, params)


def _common(spec: AblateSpec) -> JsonObject:
    """Return the settings that all trials have in common, with the values that the trials have.

    These differ from those of `spec.train` where an axis has a single value, and in the resources of a worker.
    """
    trial = spec.trial_spec(spec.trials()[0]).model_dump(mode="json") | {"run_name": spec.train.run_name}
    return {name: value for name, value in trial.items() if name not in varied(spec)}


def _record_settings(ablation: Ablation, parent: Record) -> None:
    """Record the data, and the settings that repeat the ablation: as given, but without the store."""
    common = ablation.given.train.model_copy(update={"tracking_uri": None})
    with results_folder(ablation.spec.train.output, f"{parent.run_id}/summary") as folder:
        (folder / "spec.json").write_text(ablation.given.model_copy(update={"train": common}).to_json())
        parent.folder(folder)
    parent.describe(ablation_description(ablation.spec, parent.run_id))
    ablation.work.record_datasets(parent)  # last, so that a run with data sets is known to have all of this
