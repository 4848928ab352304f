"""What the trials of an ablation say while they run, and their runs in MLflow.

All messages, of the trials' workers and of Tune, come through one queue, in order (`jobs.ablation.messages`). `see`
shows each as it comes, `record` writes it to MLflow and may be called again.
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
from jobs.training.ray_trainer import copy_model

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = ["AblationLog", "finished_among"]

ENDED = ("finished", "stopped", "failed")


@dataclass
class Trial:
    """A trial that has begun. Its run in MLflow is made when the first of its events is recorded."""

    work: Work
    log: TrainingLog
    record: Record | None
    state: str = "running"
    reason: str | None = None
    described: bool = False  # in MLflow: its settings and data
    recorded: bool = False  # and its end


class AblationLog:
    """`given` and `spec` are the ablation as the user gave it and with absolute paths, `work` is the data that all
    trials share, `known` are the runs that trials have already, by label, when an ablation is resumed, `folder` is
    where in the output the trials are."""

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
        self._finished_before = finished_among(known)
        # Whose end MLflow has, well or not.
        self._settled_before = self._finished_before | {label for label, run in known.items() if _is_settled(run)}

    @property
    def finished(self) -> frozenset[str]:
        """Labels of the trials that have nothing left to do."""
        return self._finished_before | {label for label, trial in list(self._trials.items()) if trial.recorded}

    def see(self, told: OfTrial) -> None:
        if self._is_over(told):
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
        """Raises TrackingError while the store is away."""
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
        """Trials that run no more, because the ablation was ended, are not left as running."""
        for trial in list(self._trials.values()):  # the thread that records may not have ended yet
            if trial.state == "running" and trial.record is not None:
                with suppress(TrackingError):
                    trial.record.finish("KILLED")

    def _is_over(self, told: OfTrial) -> bool:
        """Whether MLflow had a trial's end before the ablation was resumed, and the trial does not run again."""
        if told.trial in self._finished_before:
            return True
        return isinstance(told.message, Ended) and told.trial in self._settled_before and told.trial not in self._trials

    def _trial(self, label: str) -> Trial:
        if label not in self._trials:
            self._trials[label] = self._known_trial(label)
        return self._trials[label]

    def _known_trial(self, label: str) -> Trial:
        """A trial by what MLflow had of it."""
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
        ended = sum(known.state in ENDED for known in self._trials.values())
        self._show(
            TrialEnded(
                trial=label,
                state=state,
                reason=reason,
                test_bits_per_dim=(metrics or {}).get("test_bits_per_dim", math.nan),
                ended=ended + len(self._finished_before),
                of=self._spec.number_of_trials,
            )
        )

    def _opened(self, label: str, trial: Trial) -> Record:
        """The trial's run, which is made with all that is known of it beforehand if need be."""
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

    def _complete(self, end: Ended, trial: Trial) -> None:
        trial.log.complete(end.history(), self._resources.workers[0])

    def _record_end(self, label: str, end: Ended, trial: Trial, record: Record) -> None:
        metrics = end.metrics
        self._complete(end, trial)
        if trial.state == "finished":
            assert end.checkpoint is not None  # Tune's, of what the trial reported last
            with self._folder(label) as folder:
                with end.checkpoint.as_directory() as source:
                    copy_model(Path(source, BEST), folder / CHECKPOINT)
                trial.log.test_bits_per_dim = metrics["test_bits_per_dim"]
                seconds = metrics["time_total_s"]
                best, last = EpochMetrics.of(metrics["best"]), EpochMetrics.of(metrics)
                trial.log.conclude(best, last, folder, seconds)
            workers = self._resources.workers[0]
            kinds = {"gpu_seconds": self._resources.gpus, "core_seconds": self._resources.cpus}
            record.metrics({name: seconds * workers * each for name, each in kinds.items()})
            record.finish("FINISHED")
            trial.recorded = True
            trial.log.scores.clear()  # a hundred trials' would be some hundred megabytes
        elif trial.state == "stopped":
            record.tag(tag_names.STOPPED, trial.reason or "")
            record.finish("KILLED")
        elif trial.reason is not None:
            record.tag(tag_names.ERROR, trial.reason)
            record.finish("FAILED")

    def _folder(self, label: str) -> AbstractContextManager[Path]:
        name = label.replace(" ", "-")
        return results_folder(self._spec.train.output, f"{self._folder_name}/trials/{name}")


def finished_among(runs: Mapping[str, Run]) -> frozenset[str]:
    """The labels of trials that have nothing left to do."""
    return frozenset(label for label, run in runs.items() if run.info.status == "FINISHED")


def _is_settled(run: Run) -> bool:
    failed = run.info.status == "FAILED" and not taken_for_dead(run)
    return failed or (run.info.status == "KILLED" and tag_names.STOPPED in run.data.tags)


def _outcome(metrics: Mapping[str, Any], scheduler: str) -> tuple[str, str | None]:
    """What the last metrics that Tune has of a trial say of its end: a state, and a reason."""
    if "test_bits_per_dim" in metrics:
        return "finished", None
    if "failed" in metrics:
        return "failed", metrics["failed"]
    return "stopped", f"{scheduler} after epoch {metrics.get('epoch', 0)}"
