"""Make the experiment of Ray Tune that runs the trials of an ablation which have not ended: its searcher and scheduler.

The searcher decides which trials to run, and the scheduler which to end early.
"""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from operator import attrgetter
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from glowctl.ablation.log import Ended, Failed, OfTrial, TrialQueue
from glowctl.ablation.trial import Shared, trial_loop
from glowctl.outputs import KeptResult, folder_of_trial
from glowctl.specs.ablation import AblateSpec, Values
from glowctl.system.verbosity import unheeded
from glowctl.training.progress import next_name
from glowctl.training.ray_trainer import cause_of, plain_reason
from glowctl.training.worker import COUNTED_EPOCH, SCORE

log = logging.getLogger(__name__)

TRIAL_ITSELF: dict[str, float] = {"memory": 2**20}
"""Resources of the process of a trial whose workers are separate processes, with resources of their own."""

TRIES = 50
"""Number of consecutive proposals of known configurations, after which an untried one is taken instead."""

_queue: ContextVar[TrialQueue] = ContextVar("_queue")
"""The queue of the ablation that this thread runs.

Tune saves its callbacks with the experiment, and a queue cannot be saved.
"""


@contextmanager
def reachable(queue: TrialQueue) -> Iterator[None]:
    """Give the queue of the messages to the driver to the callbacks of the experiments that run inside the block."""
    token = _queue.set(queue)
    try:
        yield
    finally:
        _queue.reset(token)


def _trainable(shared: Shared) -> Any:
    resources: dict[str, float] = {"CPU": shared.resources.cpus, "GPU": shared.resources.gpus}
    return tune.with_resources(
        tune.with_parameters(trial_loop, shared=shared), resources if shared.in_one_process else TRIAL_ITSELF
    )


def make_tuner(shared: Shared, settled: Mapping[str, KeptResult], at_a_time: int) -> tune.Tuner:
    """Make a new experiment, in a new folder within that of the ablation.

    Args:
        shared: what all trials have in common.
        settled: how trials ended that do not run again, by label.
        at_a_time: the largest number of trials that run at the same time. It is ignored if each trial trains in one
            process and the user has set no limit: then the cores and GPUs that each trial reserves are the limit.
    """
    spec, name = shared.spec, next_name(shared.place, "tune")
    left = [values for values in spec.trials() if spec.label(values) not in settled]
    return tune.Tuner(
        _trainable(shared),
        param_space={"values": tune.grid_search(left)} if spec.known_beforehand else {},
        tune_config=tune.TuneConfig(
            search_alg=make_search(spec, settled, shared.starts),
            scheduler=make_scheduler(spec),
            num_samples=1 if spec.known_beforehand else spec.number_of_trials,
            # Separate workers are not among a trial's resources, so their number must be limited here. A trial in one
            # process waits for its own resources.
            max_concurrent_trials=None if shared.in_one_process and spec.concurrent is None else at_a_time,
            reuse_actors=True,
            trial_dirname_creator=attrgetter("trial_id"),
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=shared.place,
            callbacks=[Notices(shared, f"{shared.place}/{name}")],
            failure_config=tune.FailureConfig(max_failures=spec.train.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            verbose=0,
        ),
    )


class Notices(tune.Callback):
    """Puts a message about the end of a trial into the queue of `reachable`, after the messages of the trial itself.

    Args:
        shared: what all trials have in common.
        experiment: the folder of the experiment, or its URI in a bucket.
    """

    def __init__(self, shared: Shared, experiment: str) -> None:
        self._spec, self._place = shared.spec, shared.place
        self._experiment = experiment if shared.in_one_process else None

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Send the last metrics of a trial that ended without an error, and where its checkpoints are."""
        label = self._spec.label(trial.config["values"])
        of_workers = folder_of_trial(self._place, label)
        place = of_workers if self._experiment is None else f"{self._experiment}/{trial.trial_id}"
        _queue.get().put(OfTrial(label, Ended(dict(trial.last_result), place)))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Send the reason why a trial failed."""
        error = _error_of(trial)
        cause = getattr(error, "cause", None)  # a RayTaskError has one
        reason, label = plain_reason(cause_of(cause or error)), self._spec.label(trial.config["values"])
        _queue.get().put(OfTrial(label, Failed(reason)))


def _error_of(trial: Trial) -> Exception:
    """Return the error that ended a trial.

    Tune writes it into a folder for temporary files and copies it into the output. If the disk of the output is full,
    only the first of the two files is whole.
    """
    try:
        with open(trial.pickled_error_file, "rb") as file:
            error = pickle.load(file)
        if isinstance(error, Exception):
            return error
    except Exception as damaged:  # a pickle that is cut short can raise anything
        log.debug("the error of trial %s cannot be read: %s", trial.trial_id, damaged)
    text = None
    with unheeded(log, "the text of the error cannot be read"):
        text = trial.get_error()  # of an error that cannot be pickled
    return RuntimeError(str(text).strip().splitlines()[-1] if text else "Ray Tune gives no reason")


# The searcher and the schedulers: which trials to run, and which to end early.


def make_search(spec: AblateSpec, settled: Mapping[str, KeptResult], begun: Collection[str]) -> Searcher | None:
    """Make the searcher of an ablation whose trials are proposed one by one.

    Args:
        spec: the ablation.
        settled: how trials ended that do not run again, by label; the searcher receives their scores.
        begun: labels of trials that have checkpoints. Their configurations are proposed first.

    Returns:
        The searcher, or None if all trials are known beforehand. In that case Tune makes its own generator of
        trials, which obeys `max_concurrent_trials`. Tune would ignore this limit for a generator that is passed to it.
    """
    if spec.known_beforehand:
        return None
    axes = spec.configurations()[0]
    first = [values for values in spec.trials() if spec.label(values) in settled.keys() | set(begun)]
    configurations = [{axis: values[axis] for axis in axes} for values in first]
    unique = [each for index, each in enumerate(configurations) if each not in configurations[:index]]
    return SeededSearch(spec, _optuna(spec, unique), {label: end.score for label, end in settled.items()})


def make_scheduler(spec: AblateSpec) -> TrialScheduler:
    """Make the scheduler, which may end trials early if their validation bits/dim are worse than those of others.

    No trial is ended before it has trained a quarter of its epochs.

    - "none" ends no trial (FIFO).
    - "asha" is asynchronous successive halving (Li et al. 2020), which keeps the better half at each rung.
    - "median" ends a trial whose best bits/dim are worse than the median of the other trials' mean bits/dim (Golovin et
      al. 2017).
    """
    epochs = spec.train.epochs
    common: dict[str, Any] = {"time_attr": COUNTED_EPOCH, "metric": SCORE, "mode": "min"}
    common["grace_period"] = max(1, math.ceil(epochs / 4))
    if spec.scheduler == "asha":
        return AsyncHyperBandScheduler(max_t=max(epochs, common["grace_period"] + 1), reduction_factor=2, **common)
    if spec.scheduler == "median":
        # A finite min_time_slice would pause trials until others have run, and a pause looks like a restart.
        return MedianRule(min_samples_required=3, min_time_slice=math.inf, **common)  # type: ignore[arg-type]
    return FIFOScheduler()


def _optuna(spec: AblateSpec, first: list[dict[str, Any]]) -> Searcher:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    choices = {axis: list(dict.fromkeys(c[axis] for c in spec.configurations())) for axis in spec.configurations()[0]}
    space = {axis: tune.choice(values) for axis, values in choices.items()}
    converted = OptunaSearch.convert_search_space(space)  # OptunaSearch would do it too, with a warning
    return OptunaSearch(
        space=converted, metric=SCORE, mode="min", seed=spec.train.seed, points_to_evaluate=first or None
    )


class MedianRule(MedianStoppingRule):
    """Ray's median rule, which needs the metric `COUNTED_EPOCH`: a last result without this metric is ignored."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Pass the last result of a trial to Ray's rule, but only if the result has the metric `COUNTED_EPOCH`."""
        if COUNTED_EPOCH in result:
            super().on_trial_complete(tune_controller, trial, result)


class SeededSearch(Searcher):
    """A searcher that runs each configuration at every seed, and reports the mean score.

    Another searcher proposes the configurations and receives the mean scores. If it proposes a configuration again, the
    configuration is not run again: that searcher at once receives the mean of the scores so far, or an error if there
    are none or a trial failed. Ray's `Repeater` would run the configuration again. If the ablation is resumed, trials
    that have ended are not run again either.

    Args:
        spec: the ablation.
        searcher: the searcher that proposes configurations.
        ended: the scores of trials that have ended before, by label; infinite if a trial failed.
    """

    def __init__(self, spec: AblateSpec, searcher: Searcher, ended: Mapping[str, float]) -> None:
        super().__init__(metric=SCORE, mode="min")
        self._spec, self._searcher, self._ended = spec, searcher, ended
        self._proposed = 0
        self._to_come: list[tuple[str, Values]] = []  # (group, values) of trials that have not begun
        self._groups: dict[str, str] = {}  # trial -> group
        self._scores: dict[str, dict[str, float]] = {}  # group -> trial -> score, infinite if it failed
        self._own_groups: set[str] = set()  # groups that the searcher did not propose
        self._group_of: dict[str, str] = {}  # configuration -> group

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Ignore what Tune asks for and return True, since this searcher always minimizes `SCORE`."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a str
        """Return the values of the next trial under the key ``values``, or `Searcher.FINISHED` after the last trial."""
        while not self._to_come:
            if self._proposed == self._spec.number_of_configurations:
                return Searcher.FINISHED
            self._proposed += 1
            group, configuration = self._new_configuration(f"{trial_id}-{self._proposed}")
            self._group_of[self._spec.label(configuration)] = group
            trials = [{**configuration, "seed": seed} for seed in self._spec.all_seeds]
            labels = [self._spec.label(values) for values in trials]
            self._scores[group] = {label: self._ended[label] for label in labels if label in self._ended}
            pairs = zip(labels, trials, strict=True)
            self._to_come = [(group, values) for label, values in pairs if label not in self._ended]
            self._tell_if_over(group)
        self._groups[trial_id], values = self._to_come.pop(0)
        return {"values": values}

    def _new_configuration(self, name: str) -> tuple[str, Values]:
        for attempt in range(TRIES):
            group = f"{name}-{attempt}"
            configuration = self._spec.normal(self._searcher.suggest(group) or {})
            known = self._group_of.get(self._spec.label(configuration))
            if known is None:
                return group, configuration
            self._tell(group, self._scores[known])
        untried = [c for c in self._spec.configurations() if self._spec.label(c) not in self._group_of]
        self._own_groups.add(name)
        return name, untried[0]

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Store the score of a trial; once all trials of its configuration have ended, report to the other searcher.

        The report is the mean score of the configuration, or an error if one of its trials failed. A configuration that
        the other searcher did not propose is not reported.
        """
        group = self._groups[trial_id]
        last = result or {}
        self._scores[group][trial_id] = math.inf if error else last.get(SCORE, math.inf)
        self._tell_if_over(group)

    def _tell_if_over(self, group: str) -> None:
        if len(self._scores[group]) == len(self._spec.all_seeds):
            self._tell(group, self._scores[group])

    def _tell(self, group: str, scores: Mapping[str, float]) -> None:
        """Report a configuration to the searcher: its mean, or an error if a trial failed or none has ended yet."""
        if group in self._own_groups:
            return
        mean = sum(scores.values()) / len(scores) if scores else math.inf
        known = math.isfinite(mean)
        self._searcher.on_trial_complete(group, result={SCORE: mean} if known else None, error=not known)

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file, because Tune asks for one: a search that is resumed begins with the trials' results."""
        Path(checkpoint_path).touch()
