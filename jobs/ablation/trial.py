"""Run one trial of an ablation: a training in the trial's own process or, with several workers, on Ray Train.

A trial with one worker runs in a single process. Tune reuses this process for the next trial, which therefore starts
within about a second.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from glow.checkpoint import UNWRITABLE, save_checkpoint
from glow.errors import CheckpointError
from glow.training import Trainer
from jobs.ablation.forwarding import forwarded
from jobs.ablation.messages import Failed, OfTrial, TrialOutbox, TrialQueue
from jobs.ablation.trial_checkpoint import TrialFacts, read_facts, write_facts
from jobs.outputs import remove_unfinished_checkpoints
from jobs.ray_runtime.resources import Resources
from jobs.specs.ablation import AblateSpec, Values
from jobs.training.controller import NoRetry
from jobs.training.messages import Outbox, Saved
from jobs.training.progress import Metrics, Progress
from jobs.training.ray_trainer import cause_of, copy_model, plain_reason, torch_trainer
from jobs.training.worker import SCORE, save, train_share
from jobs.training.worker_settings import WorkerSettings

__all__ = ["BEST", "Shared", "trial_loop"]

BEST = "best"
"""Name of the folder in a trial's checkpoint that contains the best model so far."""


@dataclass(frozen=True)
class Shared:
    """Everything that the trials of an ablation have in common.

    Attributes:
        spec: the ablation, without the store.
        settings: settings of the workers; spec, config and outbox are replaced for each trial.
        queue: takes messages to the driver.
        resources: the workers of each trial, and their cores and GPUs.
        storage: folder or bucket for the checkpoints of trials with several workers.
        finished: labels of trials that have nothing left to do.
        stood: checkpoints from which trials without a checkpoint of Tune continue, by label of the trial. Tune does not
            know these, because its files were damaged and its experiment began anew.
    """

    spec: AblateSpec
    settings: WorkerSettings
    queue: TrialQueue
    resources: Resources
    storage: str
    finished: frozenset[str] = frozenset()
    stood: Mapping[str, tune.Checkpoint] = field(default_factory=dict)

    @property
    def in_one_process(self) -> bool:
        """Whether a trial trains in the process of the Tune trial itself, which is the case with one worker."""
        return self.resources.workers == (1, 1)


def trial_loop(config: Mapping[str, Any], shared: Shared) -> None:
    """Train one trial and report to Tune: the epoch's metrics after each checkpoint, and the result at the end.

    The result contains ``test_bits_per_dim`` and, as ``best``, the metrics of the best epoch.

    Tune retries a trial that raises an error. An error that would occur again, such as a wrong setting, is therefore
    not raised: the trial ends normally for Tune, and the driver gets a `Failed` message. But an error of the machine,
    such as a full disk, is raised (`is_of_machine`), so that the trial is trained again if the ablation is resumed.

    Args:
        config: Tune's configuration, with the trial's values at ``values``.
        shared: what all trials have in common.
    """
    values = config["values"]
    label = shared.spec.label(values)
    if label in shared.finished:  # Tune was killed before it saved that this trial is finished
        return
    settings = _settings(shared, values, label)
    try:
        if shared.in_one_process:
            _train_here(settings, label, tune.get_checkpoint() or shared.stood.get(label))
        else:
            _train_with_workers(settings, shared, label)
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
    return replace(shared.settings, spec=spec, config=config, outbox=TrialOutbox(shared.queue, label))


def _train_here(settings: WorkerSettings, label: str, checkpoint: tune.Checkpoint | None) -> None:
    with TuneSession(label, checkpoint, settings.outbox) as session:
        outcome = train_share(settings, session)
        tune.report({**session.last, **outcome.metrics()})


def _train_with_workers(settings: WorkerSettings, shared: Shared, label: str) -> None:
    # Ray Tune restarts the trial. If Ray Train restarted its workers too, N failures would become (N + 1)^2 attempts.
    spec = settings.spec.model_copy(update={"output": shared.storage, "max_failures": 0})
    settings = replace(settings, spec=spec)
    name = label.replace(" ", "-")
    remove_unfinished_checkpoints(shared.storage, name)
    with forwarded() as forwarding:
        result = torch_trainer(settings, shared.resources, name, callbacks=[forwarding]).fit()
    assert result.best_checkpoints is not None
    assert result.metrics is not None
    best, _ = min(result.best_checkpoints, key=lambda entry: entry[1][SCORE])
    with tempfile.TemporaryDirectory() as folder, best.as_directory() as source:
        copy_model(source, Path(folder, BEST))
        outcome = result.return_value  # type: ignore[attr-defined]  # only the second version of Ray Train has it
        outcome.progress.write(folder)
        tune.report({**result.metrics, **outcome.metrics()}, checkpoint=tune.Checkpoint.from_directory(folder))


class TuneSession:
    """The `jobs.training.worker.Session` of a training in the process of a Tune trial.

    Tune keeps only the last checkpoint, so each checkpoint also contains the best model so far. The session is a
    context manager: inside its block, a temporary folder holds that model.

    Args:
        label: label of the trial.
        checkpoint: where the trial continues; None at its start.
        outbox: the queue to the driver.
    """

    rank, local_rank, workers = 0, 0, 1

    def __init__(self, label: str, checkpoint: tune.Checkpoint | None, outbox: Outbox) -> None:
        self._label, self._checkpoint, self._outbox = label, checkpoint, outbox
        self.device = torch.device("cuda", 0) if ray.get_gpu_ids() else torch.device("cpu")
        self.last: Metrics = {}  # metrics of the last checkpoint
        self._best: Metrics = {}

    def __enter__(self) -> TuneSession:
        self._scratch = tempfile.TemporaryDirectory()
        self._folder = Path(self._scratch.name, BEST)
        return self

    def __exit__(self, *exception: object) -> None:
        self._scratch.cleanup()

    @contextmanager
    def restored(self) -> Iterator[str | None]:
        """Yield the folder of the checkpoint to continue from; None at the start."""
        with nullcontext() if self._checkpoint is None else self._checkpoint.as_directory() as folder:
            if folder is not None:
                shutil.copytree(Path(folder, BEST), self._folder)
                facts = read_facts(folder)
                self.last, self._best = facts.last, facts.best
            yield folder

    def report(self, trainer: Trainer, progress: Progress, metrics: Metrics, *, urgent: bool = False) -> None:
        """Report a checkpoint to Tune; first replace the best model if the current one has a lower validation NLL.

        Tune stores every checkpoint immediately, so `urgent` has no effect. When Tune's function returns, Tune has
        deleted the checkpoint before, so that the trial can only continue from this one.
        """
        self.last = metrics
        if not self._best or metrics[SCORE] < self._best[SCORE]:
            self._best = metrics
            save_checkpoint(trainer.evaluated_model, self._folder)
        with tempfile.TemporaryDirectory() as folder:
            save(trainer, progress, folder)
            shutil.copytree(self._folder, Path(folder, BEST))
            write_facts(folder, TrialFacts(self._label, self.last, self._best))
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))
        if "epoch" in metrics:  # the checkpoint was not saved inside an epoch
            self._outbox.put(Saved(int(metrics["epoch"])))

    @contextmanager
    def best(self) -> Iterator[tuple[Path, Metrics]]:
        """Yield the folder of the best model and its metrics."""
        yield self._folder, self._best

    def notice(self) -> float | None:
        """Return None, because Tune does not announce that a machine will be taken away."""
        return None
