"""The ablation job: trains in many variants on Ray Tune, and compares them.

Tune decides what runs where and when, and goes on where it stood after a crash; every trial is the training job.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.experiment import Trial

from jobs.ablation.log import AblationLog, finished_among
from jobs.ablation.search import make_scheduler, make_search
from jobs.ablation.summary import summarize_ablation
from jobs.ablation.trial import Shared, trial_loop
from jobs.ablation.trial_checkpoint import last_whole, put_back
from jobs.ablation.tune_state import damaged_file, has_begun
from jobs.display.displays import Event, forgiving
from jobs.errors import JobError
from jobs.outputs import claimed, is_remote, results_folder, usable_output
from jobs.ray_runtime.event_queue import Channel
from jobs.ray_runtime.resources import Resources, trial_resources
from jobs.run_files import FOLDER_TAG, place_named, recall, remember
from jobs.run_names import ablation_name, varied
from jobs.run_pages import ablation_description
from jobs.specs.ablation import TRIAL_TAG, AblateSpec
from jobs.specs.training import TrainSpec, refuse, validated
from jobs.system.signals import in_a_thread
from jobs.tracking import (
    NoSuchRun,
    Record,
    child_runs,
    find_run,
    recorded_images,
    tracking_uri,
    without_password,
)
from jobs.training.prepare import Work
from jobs.training.prepare import prepare as prepare_training
from jobs.training.ray_trainer import cause_of, death_behind, plain_reason, put_data, worker_settings

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = ["Ablation", "find_ablation", "plan", "prepare", "prepare_resume", "run", "summarize_again"]

FOLDER = "tune"
TRIAL_ITSELF = {"memory": 2**20}
"""What a trial takes beside its workers where these are processes of their own."""

RESOURCES_TAG = "glow.resources"
"""On an ablation's run: what each worker of a trial gets, in the words of `TrainSpec`."""

channels: dict[str, Any] = {}
"""The queues of the ablations that this process runs, by the folder of their trials: Tune's callbacks are saved and
restored with an experiment, which a queue would not survive."""


@dataclass(frozen=True)
class Ablation:
    """An ablation that has been checked: its spec as it was given and with absolute paths, and its data."""

    given: AblateSpec
    spec: AblateSpec
    work: Work
    resumed: Run | None = None
    kept: Mapping[str, Any] | None = None  # what storage has of an ablation that MLflow has lost (jobs.run_files)
    kept_in: str | None = None  # the folder of its trials, where that is not named by the run's id

    def folder_of(self, parent: Record) -> str:
        """The folder in the output that the trials are in."""
        return self.kept_in or parent.run_id

    @property
    def nbytes(self) -> int:
        return self.work.nbytes


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
    stored = json.loads(found.data.tags["glow.spec"])
    stored["train"] |= {**changes, "tracking_uri": uri}
    spec = validated(AblateSpec, stored)
    kept_in = found.data.tags.get(FOLDER_TAG)
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
    if kept is None or kept["job"] != "ablate":
        raise NoSuchRun(f"{unknown}, and no trials of an ablation in {place}")
    output, _, folder = place.rpartition("/")
    stored = {**kept["spec"], "train": {**kept["spec"]["train"], "output": output, **changes}}
    ablation = prepare(validated(AblateSpec, stored))
    ablation.work.check_same_images(kept["images"])
    return replace(ablation, kept=kept, kept_in=folder)


def find_ablation(name_or_id: str, changes: Mapping[str, Any]) -> tuple[str, Run]:
    """The store's URI and the run of an ablation. Raises TrackingError, and JobError for a run that is none."""
    uri = tracking_uri(changes.get("tracking_uri"))
    found = find_run(uri, changes.get("experiment", TrainSpec.model_fields["experiment"].default), name_or_id)
    if found.data.tags.get("glow.job") != "ablate" or "glow.spec" not in found.data.tags:
        raise JobError(f"run {name_or_id!r} is not an ablation of glowctl")
    return uri, found


def plan(ablation: Ablation) -> tuple[Event, Resources]:
    """How many trials there will be, what each gets, and how many run at a time: an event ``plan``.

    Raises JobError if there is no room for one.
    """
    spec = ablation.spec
    asked = spec.trial_spec(spec.trials()[0])
    if ablation.resumed is not None:  # its trials take what they took
        asked = asked.model_copy(update=json.loads(ablation.resumed.data.tags[RESOURCES_TAG]))
    elif ablation.kept is not None:
        asked = asked.model_copy(update=ablation.kept["resources"])
    resources, at_a_time = trial_resources(asked, spec.number_of_trials, spec.concurrent)
    return {
        "event": "plan",
        "trials": spec.number_of_trials,
        "configurations": spec.number_of_configurations,
        "seeds": spec.seeds,
        "at_a_time": at_a_time,
        "workers": resources.workers[0],
        "cpus": resources.cpus,
        "gpus": resources.gpus,
        "epochs": spec.train.epochs,
        "labels": [spec.label(values) for values in spec.trials()] if spec.known_beforehand else [],
    }, resources


def run(ablation: Ablation, show: Callable[[Event], None]) -> str:
    """Runs all trials, in the Ray that this process is connected to, and compares them; the id of the best one's run.

    Raises:
        JobError: for resources that there are not, or if not one trial came to its end.
        TrackingError: if the store takes no more.
    """
    show = forgiving(show)
    planned, resources = plan(ablation)
    show(planned)
    each = {"cpus_per_worker": resources.cpus, "gpus_per_worker": resources.gpus}
    parent = _open_record(ablation, each)
    folder = ablation.folder_of(parent)
    with claimed(ablation.spec.train.output, folder, "ablate"):
        try:
            with parent.running():
                if ablation.resumed is None or not recorded_images(ablation.resumed):
                    _record_settings(ablation, parent)
                known = _known_trials(ablation)
                finished = sorted(finished_among(known))
                show({"event": "ablating", "run": parent.name, "run_id": parent.run_id, "finished": finished})
                remember(f"{ablation.spec.train.output}/{folder}", _facts(ablation, each))
                log = AblationLog(ablation.given, ablation.spec, ablation.work, resources, parent, known, show, folder)
                _run_trials(ablation, log, resources, planned["at_a_time"], folder, parent.run_id)
                summary = summarize_ablation(ablation.work.tracking_uri, parent, ablation.spec)
                if summary.best is None:
                    raise JobError(f"no trial came to its end: {summary.unfinished[0]}")
        except KeyboardInterrupt:
            show({"event": "ablation_stopped", "run_id": parent.run_id})
            raise
    show({"event": "ablated", **summary.to_dict()})
    return str(summary.best["run_id"])


def _facts(ablation: Ablation, resources: Mapping[str, float]) -> dict[str, Any]:
    """What storage keeps of an ablation."""
    spec = ablation.spec.model_dump(mode="json")
    spec["train"]["tracking_uri"] = None  # which may hold a password
    return {"job": "ablate", "spec": spec, "images": ablation.work.digests(), "resources": dict(resources)}


def _known_trials(ablation: Ablation) -> dict[str, Run]:
    """The runs that trials have already, by label."""
    if ablation.resumed is None:
        return {}
    children = child_runs(ablation.work.tracking_uri, ablation.resumed)
    return {run.data.tags[TRIAL_TAG]: run for run in children if TRIAL_TAG in run.data.tags}


def summarize_again(name_or_id: str, changes: Mapping[str, Any], show: Callable[[Event], None]) -> None:
    """Compares the trials of an ablation by what MLflow has of them now. `changes` may say where that is, and where the
    summary goes. Raises what `find_ablation` raises."""
    refuse(changes.keys() - {"tracking_uri", "experiment", "output"}, "an ablation that is summarized")
    uri, found = find_ablation(name_or_id, changes)
    stored = json.loads(found.data.tags["glow.spec"])
    stored["train"]["output"] = usable_output(changes.get("output", stored["train"]["output"]))
    summary = summarize_ablation(uri, Record.existing(uri, found), validated(AblateSpec, stored))
    show({"event": "ablated", **summary.to_dict()})


def _run_trials(
    ablation: Ablation, log: AblationLog, resources: Resources, at_a_time: int, folder: str, run_id: str
) -> None:
    """Runs the experiment to its end.

    A process that Ray kills because memory is short may end more than its trial: Tune's loop knows no such error, and
    it may be the queue of events. Tune's own way to go on after a crash then does.

    Raises JobError if that happens more than `max_failures` times.
    """
    spec = ablation.spec
    settings = worker_settings(ablation.work, resources, put_data(ablation.work), queue=None)
    storage = f"{spec.train.output}/{folder}"
    # Ray and Tune's files have no need of the store, whose URI may hold a password.
    private = spec.model_copy(update={"train": spec.train.model_copy(update={"tracking_uri": None})})
    try:
        for _ in range(spec.train.max_failures + 1):
            try:
                with Channel(log.see, log.record) as channel, _reachable(folder, channel.queue):
                    own = {**settings, "queue": channel.queue}
                    stood = _catch_up(f"{storage}/{FOLDER}", spec, log.settled, channel.queue, run_id)
                    shared = Shared(private, own, resources, f"{storage}/train", log.finished, stood)
                    in_a_thread(_tuner(shared, at_a_time, storage, folder).fit)
                return
            except Exception as error:
                if death_behind(error) is None:
                    raise
        raise JobError(
            f"Ray lost processes more than {spec.train.max_failures} times, most likely because memory is short: free "
            f"some and go on with glowctl ablate --resume {run_id}, or start anew with a lower --concurrent"
        )
    finally:
        log.close()


@contextmanager
def _reachable(folder: str, queue: Any) -> Iterator[None]:
    channels[folder] = queue
    try:
        yield
    finally:
        del channels[folder]


def _trainable(shared: Shared) -> Any:
    resources = {"CPU": shared.resources.cpus, "GPU": shared.resources.gpus}
    return tune.with_resources(
        tune.with_parameters(trial_loop, shared=shared), resources if shared.in_one_process else TRIAL_ITSELF
    )


def _catch_up(
    place: str, spec: AblateSpec, settled: frozenset[str], queue: Any, run_id: str
) -> dict[str, tune.Checkpoint]:
    """Does what a kill may have left undone of the experiment in this folder, if one has begun there. `settled` are the
    labels of trials whose end MLflow has.

    If Tune cannot read what it saved, it begins anew; given are then the last checkpoints of the trials, by label.
    Raises JobError where more was lost than which trials there are.
    """
    if not has_begun(place):
        return {}
    damaged = damaged_file(place)
    if damaged is None:
        for trial in tune.ExperimentAnalysis(place).trials:
            if trial.checkpoint is not None:
                put_back(trial.checkpoint)
            # Others are run again from their last checkpoint, also if they had said their last.
            if trial.status == Trial.TERMINATED and (event := _end_of(trial, spec))["trial"] not in settled:
                queue.put(event)
        return {}
    if is_remote(place) or spec.scheduler != "none" or not spec.known_beforehand:
        raise JobError(
            f"{damaged} is damaged, as it is if Ray Tune is killed while it writes: start a new ablation; "
            f"glowctl ablate --summarize {run_id} compares the trials that came to their end"
        )
    return last_whole(Path(place).rename(f"{place}-until-{time.time():.0f}"))


def _end_of(trial: Trial, spec: AblateSpec) -> Event:
    label = spec.label(trial.config["values"])
    return {"event": "ended", "trial": label, "metrics": dict(trial.last_result), "checkpoint": trial.checkpoint}


def _tuner(shared: Shared, at_a_time: int, storage: str, folder: str) -> tune.Tuner:
    """The experiment as Tune saved it where it has begun, else a new one."""
    if has_begun(f"{storage}/{FOLDER}"):
        return tune.Tuner.restore(
            f"{storage}/{FOLDER}", _trainable(shared), resume_unfinished=True, resume_errored=True
        )
    spec = shared.spec
    return tune.Tuner(
        _trainable(shared),
        param_space={"values": tune.grid_search(spec.trials())} if spec.known_beforehand else {},
        tune_config=tune.TuneConfig(
            search_alg=make_search(spec),
            scheduler=make_scheduler(spec),
            num_samples=1 if spec.known_beforehand else spec.number_of_trials,
            # Workers of their own are not among a trial's resources; a trial of one process waits for its by itself.
            max_concurrent_trials=None if shared.in_one_process and spec.concurrent is None else at_a_time,
            reuse_actors=True,
            trial_dirname_creator=attrgetter("trial_id"),
        ),
        run_config=tune.RunConfig(
            name=FOLDER,
            storage_path=storage,
            callbacks=[Notices(folder, spec)],
            failure_config=tune.FailureConfig(max_failures=spec.train.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            verbose=0,
        ),
    )


class Notices(tune.Callback):
    """Puts what Tune knows of a trial's end into the queue, behind what the trial said itself."""

    def __init__(self, folder: str, spec: AblateSpec) -> None:
        self._folder, self._spec = folder, spec

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        channels[self._folder].put(_end_of(trial, self._spec))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        error = trial.get_pickled_error() or trial.get_error() or RuntimeError("Tune does not say why")
        cause = getattr(error, "cause", None)  # of a RayTaskError
        reason, label = plain_reason(cause_of(cause or error)), self._spec.label(trial.config["values"])
        channels[self._folder].put({"event": "failed", "trial": label, "reason": reason})


def _open_record(ablation: Ablation, resources: Mapping[str, float]) -> Record:
    """A new run with all that is known beforehand and that `prepare_resume` needs, or the one that is resumed."""
    uri, spec = ablation.work.tracking_uri, ablation.spec
    if ablation.resumed is not None:
        return Record.existing(uri, ablation.resumed)
    public = spec.model_dump(mode="json")
    public["train"]["tracking_uri"] = without_password(uri)
    common = {name: value for name, value in public["train"].items() if name not in varied(spec)}
    params = common | {name: value for name, value in public.items() if name != "train" and value is not None}
    tags = {"glow.job": "ablate", "glow.dataset": spec.train.dataset, "glow.spec": json.dumps(public)}
    tags[RESOURCES_TAG] = json.dumps(resources)
    tags |= {FOLDER_TAG: ablation.kept_in} if ablation.kept_in else {}
    return Record.start(uri, spec.train.experiment, ablation_name(spec), tags, params)


def _record_settings(ablation: Ablation, parent: Record) -> None:
    """The data, and what it takes to repeat the ablation: the spec as it was given, less where it was recorded."""
    common = ablation.given.train.model_copy(update={"tracking_uri": None})
    with results_folder(ablation.spec.train.output, f"{parent.run_id}/summary") as folder:
        (folder / "spec.json").write_text(ablation.given.model_copy(update={"train": common}).to_json())
        parent.folder(folder)
    parent.describe(ablation_description(ablation.spec, parent))
    ablation.work.record_datasets(parent)  # last: a run that has them has all of this
