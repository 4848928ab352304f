"""Show the messages of an ablation's trials while they run, and record each trial as a run in MLflow.

All messages, from the workers of trials and from Ray Tune, arrive in order in one queue (`jobs.ablation.messages`).
`AblationLog.see` shows each as it arrives; `AblationLog.record` writes it to MLflow, and is called again with the same
message if the MLflow store did not answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.ablation.messages import Ended, Failed, OfTrial
from jobs.ablation.trial import BEST
from jobs.display.events import Show, TrialEnded, TrialEvent
from jobs.outputs import results_folder
from jobs.ray_runtime.resources import Resources
from jobs.run_labels import training_name, varied
from jobs.specs.ablation import AblateSpec
from jobs.tracking import Record, TrackingError, recorded_images, tag_names, taken_for_dead
from jobs.training.history import EpochMetrics
from jobs.training.log import CHECKPOINT, TrainingLog
from jobs.training.messages import Attempt
from jobs.training.prepare import Work
from jobs.training.progress import Progress
from jobs.training.ray_trainer import copy_model

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = ["AblationLog", "settled_among"]

ENDED = ("finished", "stopped", "failed")
"""States of a trial that has ended."""


@dataclass
class Trial:
    """A trial that has begun.

    Attributes:
        work: the settings and data of the trial's training.
        log: shows and records the messages of the training.
        record: the trial's run in MLflow; None until the first of the trial's messages is recorded.
        state: "running", "finished", "stopped" or "failed".
        reason: why the trial failed or was stopped; None if it did neither.
        described: whether MLflow has the settings and the data sets of the trial.
        recorded: whether the trial is finished and MLflow has all its results.
    """

    work: Work
    log: TrainingLog
    record: Record | None
    state: str = "running"
    reason: str | None = None
    described: bool = False
    recorded: bool = False


class AblationLog:
    """Shows and records the messages of all trials of an ablation.

    `see` and `record` are called in two threads, each with every message in order.

    Args:
        given: the settings of the ablation as the user gave them.
        spec: the same settings with absolute paths.
        work: the data, which all trials share, with the settings of the first trial.
        resources: number of workers of each trial, and their cores and GPUs.
        parent: the ablation's own run in MLflow.
        known: if the ablation is resumed, the runs that its trials already have in MLflow, by the label of the trial;
            else empty.
        show: is called with each event.
        folder: name of the ablation's folder in the output folder. The results of a trial are in a folder of its own,
            in the subfolder ``trials``.
    """

    def __init__(
        self,
        given: AblateSpec,
        spec: AblateSpec,
        work: Work,
        resources: Resources,
        parent: Record,
        known: Mapping[str, Run],
        show: Show,
        folder: str,
    ) -> None:
        self._folder_name = folder
        self._given, self._spec, self._work, self._resources = given, spec, work, resources
        self._parent, self._known, self._show = parent, known, show
        self._values = {spec.label(values): values for values in spec.trials()}
        self._trials: dict[str, Trial] = {}
        self._settled_before = settled_among(known)
        self._finished_before = frozenset(label for label, state in self._settled_before.items() if state == "finished")
        self._over = set(self._finished_before)  # also trials that had ended otherwise and do not run again

    @property
    def finished(self) -> frozenset[str]:
        """The labels of the finished trials whose results MLflow has."""
        return self._finished_before | {label for label, trial in list(self._trials.items()) if trial.recorded}

    def see(self, told: OfTrial) -> None:
        """Show a message of a trial to the user, and update the state of the trial."""
        if self._is_over(told):
            self._over.add(told.trial)
            return
        trial = self._trial(told.trial)
        match told.message:
            case Failed(reason):
                self._end(told.trial, trial, "failed", reason)
            case Ended(metrics):
                if trial.state == "running":
                    self._end(told.trial, trial, *_outcome(metrics, self._spec.scheduler), metrics)
            case message:
                if isinstance(message, Attempt):
                    trial.state, trial.reason = "running", None
                trial.log.see(message)

    def record(self, told: OfTrial) -> None:
        """Write a message to MLflow. After a TrackingError, call this again: nothing is recorded twice.

        Raises:
            TrackingError: if the store does not answer.
        """
        if self._is_over(told):
            if isinstance(told.message, Ended):
                self._complete(told.message, self._known_trial(told.trial))
            return
        trial = self._trial(told.trial)
        record = self._opened(told.trial, trial)
        match told.message:
            case Failed(reason):
                record.tag(tag_names.ERROR, reason)
                record.finish("FAILED")
            case Ended() as end:
                if not trial.recorded:
                    self._record_end(told.trial, end, trial, record)
            case message:
                if isinstance(message, Attempt):
                    record.begin()
                trial.log.record(message)

    def close(self) -> None:
        """Mark trials that still run as KILLED, since they end with the ablation."""
        for trial in list(self._trials.values()):  # a copy: the thread that records may still add trials
            if trial.state == "running" and trial.record is not None:
                with suppress(TrackingError):
                    trial.record.finish("KILLED")

    def _is_over(self, told: OfTrial) -> bool:
        """Return whether MLflow had the trial's end before the ablation was resumed, and it does not run again."""
        if told.trial in self._finished_before:
            return True
        return isinstance(told.message, Ended) and told.trial in self._settled_before and told.trial not in self._trials

    def _trial(self, label: str) -> Trial:
        if label not in self._trials:
            self._trials[label] = self._known_trial(label)
        return self._trials[label]

    def _known_trial(self, label: str) -> Trial:
        """Make a trial from what MLflow had of it before the ablation was resumed."""
        values, known = self._values[label], self._known.get(label)
        work = self._work.variant(self._given.trial_spec(values), self._spec.trial_spec(values), known)
        record = None if known is None else Record.existing(work.tracking_uri, known).impatient()
        log = TrainingLog(work, record, self._shown_of(label))
        return Trial(work, log, record, described=known is not None and bool(recorded_images(known)))

    def _shown_of(self, label: str) -> Show:
        return lambda event: self._show(TrialEvent(label, event))

    def _end(
        self, label: str, trial: Trial, state: str, reason: str | None, metrics: Mapping[str, Any] | None = None
    ) -> None:
        trial.state, trial.reason = state, reason
        ended = {each for each, known in list(self._trials.items()) if known.state in ENDED}
        self._show(
            TrialEnded(
                trial=label,
                state=state,
                reason=reason,
                test_bits_per_dim=(metrics or {}).get("test_bits_per_dim", math.nan),
                ended=len(ended | self._over),
                of=self._spec.number_of_trials,
            )
        )

    def _opened(self, label: str, trial: Trial) -> Record:
        """Return the trial's run; if there is none, make it with its tags, settings and data sets."""
        if trial.record is None:
            tags = trial.work.tags() | {tag_names.TRIAL: label, tag_names.PARENT: self._parent.run_id}
            spec = trial.work.spec
            name = training_name(spec, varied(self._spec))
            started = Record.start(trial.work.tracking_uri, spec.experiment, name, tags, trial.work.params())
            trial.record = started.impatient()
            trial.log.attach(trial.record)
        if not trial.described:
            with self._folder(label) as folder:
                trial.log.write_settings(folder)
            trial.work.record_datasets(trial.record)
            trial.described = True
        return trial.record

    def _complete(self, end: Ended, trial: Trial) -> Progress:
        progress = end.progress()
        trial.log.complete(progress, self._resources.workers[0])
        return progress

    def _record_end(self, label: str, end: Ended, trial: Trial, record: Record) -> None:
        metrics = end.metrics
        progress = self._complete(end, trial)
        if trial.state == "finished":
            assert end.checkpoint is not None  # the one that the trial reported last
            with self._folder(label) as folder:
                with end.checkpoint.as_directory() as source:
                    copy_model(Path(source, BEST), folder / CHECKPOINT)
                trial.log.test_bits_per_dim = metrics["test_bits_per_dim"]
                # Tune's number has the start of the processes, but begins again if a trial continues from a checkpoint
                # that Tune does not have, such as those of several workers.
                seconds = max(metrics["time_total_s"], progress.seconds)
                best, last = EpochMetrics.of(metrics["best"]), EpochMetrics.of(metrics)
                trial.log.conclude(best, last, folder, seconds)
            workers = self._resources.workers[0]
            kinds = {"gpu_seconds": self._resources.gpus, "core_seconds": self._resources.cpus}
            record.metrics({name: seconds * workers * each for name, each in kinds.items()})
            record.finish("FINISHED")
            trial.recorded = True
            trial.log.scores.clear()  # those of a hundred trials would take some hundred megabytes
        elif trial.state == "stopped":
            record.tag(tag_names.STOPPED, trial.reason or "")
            record.finish("KILLED")
        elif trial.reason is not None:
            record.tag(tag_names.ERROR, trial.reason)
            record.finish("FAILED")

    def _folder(self, label: str) -> AbstractContextManager[Path]:
        name = label.replace(" ", "-")
        return results_folder(self._spec.train.output, f"{self._folder_name}/trials/{name}")


def settled_among(runs: Mapping[str, Run]) -> dict[str, str]:
    """Return the states of the trials whose end MLflow has, by the label of the trial.

    The state is "finished", "failed" for a trial that failed by itself, or "stopped" for one that a scheduler stopped.

    Args:
        runs: the trials' runs in MLflow, by the label of the trial.
    """
    states = {label: _settled_state(run) for label, run in runs.items()}
    return {label: state for label, state in states.items() if state is not None}


def _settled_state(run: Run) -> str | None:
    match run.info.status:
        case "FINISHED":
            return "finished"
        case "FAILED" if not taken_for_dead(run):
            return "failed"
        case "KILLED" if tag_names.STOPPED in run.data.tags:
            return "stopped"
    return None


def _outcome(metrics: Mapping[str, Any], scheduler: str) -> tuple[str, str | None]:
    """Return the state and the reason of a trial's end, derived from the last metrics that Tune has of it."""
    if "test_bits_per_dim" in metrics:
        return "finished", None
    if "failed" in metrics:
        return "failed", metrics["failed"]
    return "stopped", f"{scheduler} after epoch {metrics.get('epoch', 0)}"
