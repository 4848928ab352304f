"""The training job: `run` trains on Ray what `jobs.training.prepare` has checked, and records it in MLflow.

The driver loads the data once and passes them to the workers through Ray's object store, so no worker needs the files.
The exception is a packed data set, whose files each worker can read itself. Rank 0 sends events through a queue to the
driver, which shows and records them.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import psutil
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.train import ControllerError, WorkerGroupError

from jobs.display.displays import forgiving
from jobs.display.events import Noted, Show, Stopped, TrainResult, Waiting
from jobs.errors import JobError
from jobs.outputs import claimed, remember, remove_unfinished_checkpoints, results_folder
from jobs.ray_runtime.event_queue import Channel
from jobs.ray_runtime.resources import Resources
from jobs.run_labels import training_name
from jobs.specs.training import TrainSpec
from jobs.system.scratch import free_megabytes
from jobs.tracking import Record, recorded_images, tag_names
from jobs.training.controller import NoRetry, start_controller
from jobs.training.history import EpochMetrics
from jobs.training.log import CHECKPOINT, TrainingLog
from jobs.training.messages import Message
from jobs.training.prepare import Work
from jobs.training.progress import Progress
from jobs.training.ray_trainer import (
    cause_of,
    copy_model,
    plain_reason,
    put_data,
    torch_trainer,
    worker_settings,
)
from jobs.training.worker import SCORE

__all__ = ["TrainResult", "run", "start_controller"]


def run(work: Work, resources: Resources, controller: ActorHandle[Any], show: Show) -> TrainResult:
    """Train on the Ray instance that this process is connected to, show the progress, and record the run in MLflow.

    Args:
        work: what to train, as `jobs.training.prepare` has checked it.
        resources: the number of workers and what each gets.
        controller: the result of `start_controller`.
        show: shows the events.

    Raises:
        JobError: if the training fails and restarts do not help.
        TrainingDiverged, CheckpointError: if a worker raises it.
        TrackingError: if MLflow cannot be written.
    """
    record = _open_record(work)
    with claimed(work.spec.output, work.folder_of(record), "train"):
        return _run_recorded(work, resources, controller, record, forgiving(show))


def _run_recorded(
    work: Work, resources: Resources, controller: ActorHandle[Any], record: Record, show: Show
) -> TrainResult:
    for note in work.to_tell:
        show(Noted(note))
    try:
        with record.running(system_metrics=False):  # the workers send the metrics of their machines
            result = _train(work, resources, controller, record, show)
    except KeyboardInterrupt:
        show(Stopped(record.name, record.run_id))
        raise
    show(result)
    return result


def _train(work: Work, resources: Resources, controller: ActorHandle[Any], record: Record, show: Show) -> TrainResult:
    started = time.monotonic()
    began = psutil.Process().create_time()
    log = TrainingLog(work, record, show, began, named=True)
    kept_at = f"{work.spec.output}/{work.folder_of(record)}"
    remember(kept_at, work.to_keep(record, finished=False))
    with results_folder(work.spec.output, f"{work.folder_of(record)}/results") as folder:
        log.write_settings(folder)
        if work.resumed is None or not recorded_images(work.resumed):
            work.record_datasets(record)
        if resources.room_now < resources.workers[0]:
            show(Waiting(resources.workers[0], resources.room_now))
        with Channel(log.see, log.record) as channel:
            outcome = _fit(work, resources, controller, record, channel, log)
        if (
            log.test_bits_per_dim is None
            or outcome.metrics is None
            or outcome.checkpoint is None
            or outcome.best_checkpoints is None
        ):
            raise JobError(
                f"run {record.run_id} ended without a result; its checkpoints are in {kept_at}",
                remedy=f"continue with glowctl train --resume {record.run_id}",
                code="no-result",
            )
        best, metrics = min(outcome.best_checkpoints, key=lambda entry: entry[1][SCORE])
        with best.as_directory() as source:
            copy_model(source, folder / CHECKPOINT)
        with outcome.checkpoint.as_directory() as source:
            log.complete(Progress.read(source), resources.workers[1])
        last = EpochMetrics.of(outcome.metrics)
        result = log.conclude(EpochMetrics.of(metrics), last, folder, time.monotonic() - started)
    remember(kept_at, work.to_keep(record, finished=True))
    return result


def _fit(
    work: Work,
    resources: Resources,
    controller: ActorHandle[Any],
    record: Record,
    channel: Channel[Message],
    log: TrainingLog,
) -> ray.train.Result:
    spec = work.spec
    settings = worker_settings(work, resources, put_data(work), channel.queue)
    remove_unfinished_checkpoints(spec.output, work.folder_of(record))
    try:
        return torch_trainer(settings, resources, work.folder_of(record), controller=controller).fit()
    except (ControllerError, WorkerGroupError) as error:
        remove_unfinished_checkpoints(spec.output, work.folder_of(record))
        raise _sentence(cause_of(error), spec, record) from error
    except RayActorError as error:
        if (work.resumed or work.kept) and not log.started:
            raise JobError(
                f"training could not start from the checkpoints in {spec.output}/{work.folder_of(record)}, because a "
                "folder that Ray wrote there is missing or damaged",
                remedy="start a new run with glowctl train",
                code="checkpoints-damaged",
            ) from error
        memory = free_megabytes(tempfile.gettempdir()) > 1
        why = "memory may have run short" if memory else "no temporary file can be written"
        raise JobError(
            f"the process that controls the training died ({why})",
            remedy=f"continue from the last checkpoint with glowctl train --resume {record.run_id}",
            code="controller-died",
        ) from error


def _sentence(error: Exception, spec: TrainSpec, record: Record) -> Exception:
    """Return the error of a worker in the form that the user reads."""
    resume = f"glowctl train --resume {record.run_id}"
    if isinstance(error, OSError) and error.errno is not None:
        return JobError(
            f"training stopped because of a system error, {plain_reason(error)}; the last checkpoint is kept",
            remedy=f"remove the cause, then continue with {resume}",
            code="system-error",
        )
    if NoRetry.is_final(error):
        return error
    if type(error).__name__ == "WorkerGroupStartupTimeoutError":
        return JobError(
            f"the cluster did not provide machines for --workers {spec.workers} in time",
            remedy=f"check the cluster with glowctl cluster status, then continue with {resume}",
            code="no-machines",
        )
    return JobError(
        f"training failed more than {spec.max_failures} times (--max-failures); the last failure: "
        f"{plain_reason(error)}",
        remedy=f"continue from the last checkpoint with {resume}",
        code="too-many-failures",
    )


def _open_record(work: Work) -> Record:
    """Start a new run with everything that is known before the training, or open the run that is resumed."""
    spec = work.spec
    if work.resumed is not None:
        return Record.existing(work.tracking_uri, work.resumed)
    name = (work.kept.run_name if work.kept else None) or training_name(spec)
    tags = work.tags() | ({tag_names.FOLDER: work.kept_in} if work.kept_in else {})
    return Record.start(work.tracking_uri, spec.experiment, name, tags, work.params())
