"""The training job: `run` trains on Ray what `glowctl.training.prepare` has checked, and records it in MLflow.

The driver loads the data once and passes them to the workers through Ray's object store, so no worker needs the files.
The exception is a packed data set, whose files each worker can read itself. Rank 0 sends events through a queue to the
driver, which shows and records them.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace

import psutil
from ray.exceptions import RayActorError
from ray.train import ControllerError, WorkerGroupError

from glowctl.display.displays import forgiving
from glowctl.display.events import Noted, Show, Stopped, TrainResult
from glowctl.errors import JobError
from glowctl.outputs import KeptResult, claimed, remember, results_folder
from glowctl.ray_runtime.event_queue import Channel
from glowctl.ray_runtime.resources import Resources, waiting
from glowctl.run_log import logged
from glowctl.specs.training import TrainSpec
from glowctl.system.scratch import free_megabytes
from glowctl.tracking.record import Record
from glowctl.tracking.runs import recorded_images
from glowctl.training.log import CHECKPOINT, TrainingLog
from glowctl.training.messages import Message
from glowctl.training.prepare import Work
from glowctl.training.progress import remove_old_checkpoints, whole_checkpoints
from glowctl.training.ray_trainer import (
    NoRetry,
    cause_of,
    checkpoint_of,
    copy_best_model,
    fit,
    plain_reason,
    put_data,
    torch_trainer,
    worker_settings,
)


def run(work: Work, resources: Resources, show: Show) -> TrainResult:
    """Train on the Ray instance that this process is connected to, show the progress, and record the run in MLflow.

    Args:
        work: what to train, as `glowctl.training.prepare` has checked it.
        resources: the number of workers and what each gets.
        show: shows the events.

    Raises:
        JobError: if the training fails and restarts do not help.
        TrainingDiverged, CheckpointError: if a worker raises it.
        TrackingError: if MLflow cannot be written.
    """
    record = work.open_record()
    show = forgiving(show)
    place = work.place_of(record)
    with claimed(place, record.run_id, "train"), logged(place, record, show) as (run_log, show):
        for note in work.to_tell:
            show(Noted(note))
        try:
            # The workers send the metrics of their machines.
            with record.running(run_log.copy, work.spec.on_end, system_metrics=False):
                result = _train(work, resources, record, show)
        except KeyboardInterrupt:
            show(Stopped(record.name, record.run_id))
            raise
        show(result)
    return result


def _train(work: Work, resources: Resources, record: Record, show: Show) -> TrainResult:
    started, place = time.monotonic(), work.place_of(record)
    before = None if work.resumed is None else work.resumed.run
    log = TrainingLog(work, record, show, psutil.Process().create_time(), named=True, before=before)
    remember(place, work.to_keep(record))
    with results_folder(place, "results") as folder:
        log.write_settings(folder)
        if before is None or not recorded_images(before):
            work.record_datasets(record)
        if (wait := waiting(resources)) is not None:
            show(wait)
        with Channel(log.see, log.record) as channel:
            _fit(work, resources, record, channel, log)
        last = remove_old_checkpoints(place).get("")
        if log.tested is None or last is None:
            raise JobError(
                f"run {record.run_id} ended without a result; its checkpoints are in {place}",
                remedy=f"continue with glowctl train --resume {record.run_id}",
                code="no-result",
            )
        copy_best_model(last, folder / CHECKPOINT)
        seconds = time.monotonic() - started
        result = log.conclude(last.progress(), folder, seconds, log.tested.test_bits_per_dim)
        record.metrics(resources.cost(seconds, log.workers, work.spec.price) | work.estimate())
    ended = KeptResult(state="finished", test_bits_per_dim=result.test_bits_per_dim, seconds=result.seconds)
    remember(place, replace(work.to_keep(record), result=ended))
    return result


def sync(work: Work, show: Show) -> None:
    """Copy the folder of a training that began earlier to MLflow again.

    Args:
        work: the training, as `glowctl.training.prepare.prepare_found` has prepared it.
        show: receives the result, or a note that there is none.

    Raises:
        JobError: if a command is at work on the run, or its folder cannot be read.
        TrackingError: if MLflow cannot be written.
    """
    assert work.resumed is not None
    before, ended, record = work.resumed.run, work.resumed.kept.result, work.open_record()
    place = work.place_of(record)
    with claimed(place, record.run_id, "train"), results_folder(place, "results") as folder:
        log = TrainingLog(work, record, show, before=before)
        remember(place, replace(work.to_keep(record), result=ended))
        log.write_settings(folder)
        if before is None or not recorded_images(before):
            work.record_datasets(record)
        last = whole_checkpoints(place).get("")
        if last is not None:
            log.record_progress(last.progress())
        if last is None or ended is None or ended.test_bits_per_dim is None or ended.seconds is None:
            if before is None:
                record.finish("KILLED")
            resume = f"glowctl train --resume {record.run_id}"
            show(Noted(f"run {record.run_id} has no result yet; {resume} continues the training"))
            return
        copy_best_model(last, folder / CHECKPOINT)
        result = log.conclude(last.progress(), folder, ended.seconds, ended.test_bits_per_dim)
        if before is None or before.info.status != "FINISHED":
            record.finish("FINISHED")
    show(result)


def _fit(work: Work, resources: Resources, record: Record, channel: Channel[Message], log: TrainingLog) -> None:
    place = work.place_of(record)
    start = remove_old_checkpoints(place).get("")
    if start is not None:
        log.record_progress(start.progress())
    begin = None if start is None else checkpoint_of(start)
    settings = worker_settings(work, resources, put_data(work), channel.queue, begin)
    try:
        fit(torch_trainer(settings, resources, place))
    except (ControllerError, WorkerGroupError) as error:
        remove_old_checkpoints(place)
        raise _sentence(cause_of(error), work.spec, record) from error
    except RayActorError as error:
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
