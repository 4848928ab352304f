"""Make the experiment of Ray Tune that runs the trials of an ablation which have not ended."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from operator import attrgetter
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from jobs.ablation.log import Ended, Failed, OfTrial, TrialQueue
from jobs.ablation.search import make_scheduler, make_search
from jobs.ablation.trial import Shared, trial_loop
from jobs.outputs import KeptResult, folder_of_trial
from jobs.system.verbosity import unheeded
from jobs.training.progress import next_name
from jobs.training.ray_trainer import cause_of, plain_reason

__all__ = []

log = logging.getLogger(__name__)

TRIAL_ITSELF: dict[str, float] = {"memory": 2**20}
"""Resources of the process of a trial whose workers are separate processes, with resources of their own."""

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
