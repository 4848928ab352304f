"""Show the messages of an ablation's trials while they run, and record each trial in its folder and in MLflow.

All messages, from the workers of trials and from Ray Tune, arrive in order in one queue (`OfTrial`). `AblationLog.see`
shows each as it arrives; `AblationLog.record` writes it, and is called again with the same message if the MLflow store
did not answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from glowctl.display.events import Show, TrialEnded, TrialEvent
from glowctl.outputs import KeptResult, folder_of_trial, remember, results_folder
from glowctl.ray_runtime.resources import Resources
from glowctl.run_labels import training_name, varied
from glowctl.specs.ablation import AblateSpec
from glowctl.tracking import tag_names
from glowctl.tracking.record import Record
from glowctl.tracking.runs import recorded_images
from glowctl.tracking.uris import TrackingError
from glowctl.training.log import CHECKPOINT, TrainingLog
from glowctl.training.messages import Attempt, Message
from glowctl.training.prepare import Work
from glowctl.training.progress import Stood, whole_checkpoints
from glowctl.training.ray_trainer import copy_best_model
from glowctl.training.worker import SCORE

if TYPE_CHECKING:
    from glowctl.tracking.runs import Run

STATUSES = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
"""The states of a trial that has ended, each with the status of its run in MLflow."""


@dataclass(frozen=True)
class Failed:
    """The message that an error ended a trial: a retry would raise the same error, or Ray Tune has no retries left.

    Attributes:
        reason: the sentence that the user reads about the error.
    """

    reason: str


@dataclass(frozen=True)
class Ended:
    """The message that a trial ended without raising an error.

    The trial was finished, a scheduler stopped it, or it reported an error instead of raising it, because a retry would
    raise the same error.

    Attributes:
        metrics: the last metrics that the trial reported to Tune, and numbers that Tune adds, such as ``time_total_s``.
        place: the folder of its checkpoints, or the URI of the folder in a bucket.
    """

    metrics: Mapping[str, Any]
    place: str


@dataclass(frozen=True)
class OfTrial:
    """A message and the label of its trial, such as "1x1 K8 s0"."""

    trial: str
    message: Message | Failed | Ended


class TrialQueue(Protocol):
    """A queue that takes messages to the driver."""

    def put(self, message: OfTrial) -> None:
        """Send a message."""


@dataclass(frozen=True)
class TrialOutbox:
    """Adds the label of a trial to the messages of its training, and puts them into the queue of the ablation.

    It is the `glowctl.training.messages.Outbox` of this training.

    Attributes:
        queue: the queue of the ablation.
        trial: label of the trial.
    """

    queue: TrialQueue
    trial: str

    def put(self, message: Message | Failed) -> None:
        """Send a message of this trial."""
        self.queue.put(OfTrial(self.trial, message))


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
    """

    work: Work
    log: TrainingLog
    record: Record | None
    state: str = "running"
    reason: str | None = None
    described: bool = False


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
        place: the folder of the ablation, or its URI in a bucket.

    Attributes:
        settled: how the trials ended that do not run again, by label, as their ``trial.json`` has it.
        starts: the newest whole checkpoints of trials from before this command, by label.
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
        place: str,
    ) -> None:
        self._place = place
        self._given, self._spec, self._work, self._resources = given, spec, work, resources
        self._parent, self._known, self._show = parent, known, show
        self._values = {spec.label(values): values for values in spec.trials()}
        self._trials: dict[str, Trial] = {}
        self.settled: dict[str, KeptResult] = {}
        self.starts: dict[str, Stood] = {}

    def see(self, told: OfTrial) -> None:
        """Show a message of a trial to the user, and update the state of the trial."""
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
        """Record a message. After a TrackingError, call this again: nothing is recorded twice.

        Raises:
            TrackingError: if the store does not answer.
        """
        trial = self._trial(told.trial)
        record = self._opened(told.trial, trial)
        match told.message:
            case Failed(reason):
                record.tag(tag_names.ERROR, reason)
                record.finish("FAILED")
            case Ended(metrics, place):
                stood = whole_checkpoints(place).get(told.trial) or self.starts.get(told.trial)
                self.settle(told.trial, _result(trial, metrics), stood)
            case message:
                if isinstance(message, Attempt):
                    record.begin()
                trial.log.record(message)

    def settle(self, label: str, result: KeptResult, stood: Stood | None) -> None:
        """Record the end of a trial that will not run again, in its folder and in MLflow.

        Args:
            label: label of the trial.
            result: how the trial ended.
            stood: its last checkpoint; None if it has none.

        Raises:
            TrackingError: if the store does not answer.
        """
        trial = self._trial(label)
        record = self._opened(label, trial)
        if stood is not None:
            trial.log.record_progress(stood.progress())
        if result.state == "finished":
            assert stood is not None  # it was saved after the last epoch
            self._conclude(label, trial, record, result, stood)
        elif result.reason is not None:
            record.tag(tag_names.STOPPED if result.state == "stopped" else tag_names.ERROR, result.reason)
        remember(folder_of_trial(self._place, label), result)
        record.finish(STATUSES[result.state])  # type: ignore[arg-type]
        self.settled[label] = result
        trial.log.scores.clear()  # those of a hundred trials would take some hundred megabytes

    def complete(self, settled: Mapping[str, KeptResult], starts: Mapping[str, Stood], *, again: bool = False) -> None:
        """Record what MLflow lacks of trials that began before the ablation was resumed.

        Args:
            settled: how trials ended that do not run again.
            starts: the newest whole checkpoints of all trials that have one.
            again: whether to record also the trials again of which MLflow has the end.

        Raises:
            TrackingError: if the store does not answer.
        """
        for label, result in settled.items():
            run = self._known.get(label)
            self.settled[label] = result
            if again or run is None or run.info.status != STATUSES[result.state]:
                if run is None or run.info.status != STATUSES[result.state]:
                    self._opened(label, self._trial(label)).begin()
                self.settle(label, result, starts.get(label))
        for label in starts.keys() - settled.keys():
            trial = self._trial(label)
            record = self._opened(label, trial)
            trial.log.record_progress(starts[label].progress())
            if label not in self._known:
                record.finish("KILLED")

    def close(self) -> None:
        """Mark trials that still run as KILLED, since they end with the ablation."""
        for trial in list(self._trials.values()):  # a copy: the thread that records may still add trials
            if trial.state == "running" and trial.record is not None:
                with suppress(TrackingError):
                    trial.record.finish("KILLED")

    def _trial(self, label: str) -> Trial:
        if label not in self._trials:
            values, known = self._values[label], self._known.get(label)
            work = self._work.variant(self._given.trial_spec(values), self._spec.trial_spec(values))
            record = None if known is None else Record.existing(work.tracking_uri, known).impatient()
            log = TrainingLog(work, record, lambda event: self._show(TrialEvent(label, event)), before=known)
            described = known is not None and bool(recorded_images(known))
            state = self.settled[label].state if label in self.settled else "running"
            self._trials[label] = Trial(work, log, record, state, described=described)
        return self._trials[label]

    def _end(
        self, label: str, trial: Trial, state: str, reason: str | None, metrics: Mapping[str, Any] | None = None
    ) -> None:
        trial.state, trial.reason = state, reason
        ended = {each for each, known in list(self._trials.items()) if known.state in STATUSES}
        self._show(
            TrialEnded(
                trial=label,
                state=state,
                reason=reason,
                test_bits_per_dim=(metrics or {}).get("test_bits_per_dim", math.nan),
                ended=len(ended | self.settled.keys()),
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
            with results_folder(folder_of_trial(self._place, label)) as folder:
                trial.log.write_settings(folder)
            trial.work.record_datasets(trial.record)
            trial.described = True
        return trial.record

    def _conclude(self, label: str, trial: Trial, record: Record, result: KeptResult, stood: Stood) -> None:
        assert result.test_bits_per_dim is not None
        assert result.seconds is not None
        with results_folder(folder_of_trial(self._place, label)) as folder:
            copy_best_model(stood, folder / CHECKPOINT)
            trial.log.conclude(stood.progress(), folder, result.seconds, result.test_bits_per_dim)
        record.metrics(self._resources.cost(result.seconds, self._resources.workers[0], trial.work.spec.price))


def _outcome(metrics: Mapping[str, Any], scheduler: str) -> tuple[str, str | None]:
    """Return the state and the reason of a trial's end, derived from the last metrics that Tune has of it."""
    if "test_bits_per_dim" in metrics:
        return "finished", None
    if "failed" in metrics:
        return "failed", metrics["failed"]
    return "stopped", f"{scheduler} after epoch {metrics.get('epoch', 0)}"


def _result(trial: Trial, metrics: Mapping[str, Any]) -> KeptResult:
    score = metrics.get(SCORE, math.inf)
    if trial.state != "finished":
        return KeptResult(state=trial.state, reason=trial.reason, score=score)
    # Tune's number has the start of the processes, but begins again if the trial continues where an earlier command or
    # process stood.
    seconds, test = max(metrics["time_total_s"], metrics["seconds"]), metrics["test_bits_per_dim"]
    return KeptResult(state="finished", test_bits_per_dim=test, seconds=seconds, score=score)
