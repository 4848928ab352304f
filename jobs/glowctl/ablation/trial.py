"""Run one trial of an ablation: a training in the trial's own process or, with several workers, on Ray Train.

A trial with one worker runs in a single process. Tune reuses this process for the next trial, which therefore starts
within about a second.
"""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import ray
import torch
from ray import tune
from ray.train import Checkpoint, UserCallback
from ray.util.queue import Queue

from glow.checkpoint import UNWRITABLE
from glow.errors import CheckpointError
from glowctl.ablation.log import Failed, OfTrial, TrialOutbox, TrialQueue
from glowctl.outputs import folder_of_trial
from glowctl.ray_runtime.event_queue import make_queue
from glowctl.ray_runtime.resources import Resources
from glowctl.specs.ablation import AblateSpec, Values
from glowctl.training.messages import Stored, WorkerSettings
from glowctl.training.progress import remove_old_checkpoints
from glowctl.training.ray_trainer import NoRetry, cause_of, checkpoint_of, plain_reason, torch_trainer
from glowctl.training.worker import SCORE, Metrics, train_share


@dataclass(frozen=True)
class Shared:
    """Everything that the trials of an ablation have in common.

    Attributes:
        spec: the ablation, without the store.
        settings: settings of the workers; spec, config, outbox, start and trial are replaced for each trial.
        queue: takes messages to the driver.
        resources: the workers of each trial, and their cores and GPUs.
        place: the folder of the ablation, or its URI in a bucket.
        starts: checkpoints of earlier experiments from which trials continue, by label of the trial.
    """

    spec: AblateSpec
    settings: WorkerSettings
    queue: TrialQueue
    resources: Resources
    place: str
    starts: Mapping[str, Checkpoint] = field(default_factory=dict)

    @property
    def in_one_process(self) -> bool:
        """Whether a trial trains in the process of the Tune trial itself, which is the case with one worker."""
        return self.resources.workers == (1, 1)


def trial_loop(config: Mapping[str, Any], shared: Shared) -> None:
    """Train one trial and report to Tune: the epoch's metrics after each checkpoint, and the result at the end.

    The result contains the best score as `SCORE`, ``test_bits_per_dim`` and ``seconds``.

    Tune retries a trial that raises an error. An error that would occur again, such as a wrong setting, is therefore
    not raised: the trial ends normally for Tune, and the driver gets a `Failed` message. But an error of the machine,
    such as a full disk, is raised (`is_of_machine`), so that the trial is trained again if the ablation is resumed.

    Args:
        config: Tune's configuration, with the trial's values at ``values``.
        shared: what all trials have in common.
    """
    label = shared.spec.label(config["values"])
    settings = _settings(shared, config["values"], label)
    try:
        if shared.in_one_process:
            session = TuneSession(settings)
            outcome = train_share(settings, session)
            tune.report({**session.reported, **outcome.metrics()})
        else:
            _train_with_workers(settings, shared)
    except Exception as error:
        cause = cause_of(error)
        if not NoRetry.is_final(cause) or is_of_machine(cause):
            raise
        shared.queue.put(OfTrial(label, Failed(plain_reason(cause))))
        tune.report({SCORE: math.inf, "failed": plain_reason(cause)})


def is_of_machine(error: Exception) -> bool:
    """Return whether an error does not occur again once the machine is in order, such as that of a full disk.

    A checkpoint that cannot be written is one: its writers hide the OSError behind a `CheckpointError`.
    """
    unwritable = isinstance(error, CheckpointError) and error.code == UNWRITABLE
    return unwritable or isinstance(error, OSError)


def _settings(shared: Shared, values: Values, label: str) -> WorkerSettings:
    spec = shared.spec.trial_spec(values)
    common = shared.settings.config
    config = spec.glow_config(common.image_shape, common.num_classes or 0)
    outbox, start = TrialOutbox(shared.queue, label), shared.starts.get(label)
    return replace(shared.settings, spec=spec, config=config, outbox=outbox, start=start, trial=label)


class TuneSession:
    """The `glowctl.training.worker.Session` of a training in the process of a Tune trial.

    Args:
        settings: the settings of the training.

    Attributes:
        reported: the metrics of the last report.
    """

    rank, local_rank, workers = 0, 0, 1

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self.device = torch.device("cuda", 0) if ray.get_gpu_ids() else torch.device("cpu")
        self.reported: Metrics = {}

    def start(self) -> Checkpoint | None:
        """Return the last checkpoint of this experiment of Tune or, at first, the one of an earlier experiment."""
        return tune.get_checkpoint() or self._settings.start

    def last(self) -> Checkpoint | None:
        """Return the last checkpoint."""
        return self.start()

    def report(self, metrics: Metrics, folder: str | None, *, urgent: bool = False) -> None:
        """Report a checkpoint to Tune, which stores every checkpoint at once, so that `urgent` has no effect.

        When Tune's function returns, Tune has deleted the checkpoint before, so that the trial can only continue from
        this one.
        """
        assert folder is not None  # the only worker has rank 0
        self.reported = metrics
        try:
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        stored = tune.get_checkpoint()
        if "epoch" in metrics and stored is not None:  # the checkpoint was not saved inside an epoch
            self._settings.outbox.put(Stored(stored.path))

    def notice(self) -> float | None:
        """Return None, because Tune does not announce that a machine will be taken away."""
        return None


def _train_with_workers(settings: WorkerSettings, shared: Shared) -> None:
    place = folder_of_trial(shared.place, settings.trial)
    # Tune may have started this trial again, so that there may be newer checkpoints than at the start of the ablation.
    newest = remove_old_checkpoints(place).get(settings.trial)
    # Ray Tune restarts the trial. If Ray Train restarted its workers too, N failures would become (N + 1)^2 attempts.
    spec = settings.spec.model_copy(update={"max_failures": 0})
    settings = replace(settings, spec=spec, start=settings.start if newest is None else checkpoint_of(newest))
    with forwarded() as forwarding:
        result = torch_trainer(settings, shared.resources, place, [forwarding]).fit()
    outcome = result.return_value  # type: ignore[attr-defined]  # only the second version of Ray Train has it
    tune.report({**(result.metrics or {}), **outcome.metrics()})


# Ray has `TuneReportCallback` for the way of a training's reports from Ray Train's controller to Ray Tune. With it a
# trial can hang: the thread that takes the reports of a trial for Tune also puts those of the controller into the queue
# that it takes them from, which holds one. If the trial itself has just put its last report there, no thread is left to
# take it. Here a separate thread reports to Tune, and has ended before the trial reports again.


class Forwarding(UserCallback):
    """Puts the metrics of every report of a training into a queue.

    Args:
        queue: the queue, which `forwarded` reads.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Put the metrics of rank 0 into the queue; Ray Train calls this in its controller."""
        self._queue.put(metrics[0])


@contextmanager
def forwarded() -> Iterator[Forwarding]:
    """Yield a callback for a training of this trial, and report to Tune what it receives while the block runs.

    All of it has been reported when the block ends.
    """
    queue = make_queue()

    def forward() -> None:
        while (metrics := queue.get()) is not None:
            tune.report(metrics)

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    try:
        yield Forwarding(queue)
    finally:
        queue.put(None)
        thread.join()
