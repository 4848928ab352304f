"""The training job: `prepare` checks all that can be checked beforehand, `run` trains on Ray and records in MLflow.

The driver loads the data once and hands it to the workers through Ray's object store, so no worker needs the files.
Rank 0 sends events through a queue to the driver, which shows and records them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train import ControllerError, WorkerGroupError

from glow.datasets import describe, load_dataset, own_channels
from jobs.ablation_spec import TRIAL_TAG
from jobs.channel import Channel
from jobs.errors import JobError
from jobs.folders import absolute_dataset, claimed, is_remote, results_folder, usable_output
from jobs.names import training_name
from jobs.progress import Event, forgiving
from jobs.resources import Resources, resources_for
from jobs.specs import SpecError, TrainSpec, make_train_spec, refuse, theme_of, worker_range
from jobs.storage import FOLDER_TAG, place_named, recall, remember
from jobs.threads import in_a_thread
from jobs.tracking import NoSuchRun, Record, find_run, recorded_images, tracking_uri
from jobs.trainer import cause_of, copy_model, plain_reason, put_data, torch_trainer, worker_settings
from jobs.training_log import CHECKPOINT, TrainingLog, TrainResult, Work
from jobs.worker import SCORE, NoRetry

__all__ = ["TrainResult", "Work", "prepare", "prepare_resume", "run"]


def prepare(spec: TrainSpec) -> Work:
    """Loads the data and checks everything that needs no Ray.

    Raises:
        SpecError: for settings that do not fit the data.
        DatasetNotFound, DatasetCorrupt: for data that cannot be had.
        JobError: for an output folder that cannot be used.
    """
    given = spec
    absolute = {"output": usable_output(spec.output), "dataset": absolute_dataset(spec.dataset)}
    if spec.data_root is not None:
        absolute["data_root"] = str(Path(spec.data_root).expanduser().absolute())
    spec = spec.model_copy(update=absolute)
    try:
        size = spec.image_size
        shape = None if size is None else (own_channels(spec.dataset), size, size)
        splits = {
            split: load_dataset(
                spec.dataset,
                split,
                spec.data_root,
                image_shape=shape,
                per_class=spec.per_class if split == "train" else None,
                download=spec.download,
            )
            for split in ("train", "validation", "test")
        }
        info = describe(spec.dataset, spec.data_root, image_shape=shape)
        config = spec.glow_config(info.image_shape, info.num_classes)
        least, _ = worker_range(spec.workers)
        if len(splits["train"][0]) < least:
            raise ValueError(f"{len(splits['train'][0])} training images cannot be shared by {least} workers")
    except ValueError as error:
        raise SpecError(str(error)) from error
    images = {split: split_images.numpy() for split, (split_images, _) in splits.items()}
    labels = {split: split_labels.numpy() for split, (_, split_labels) in splits.items()}
    return Work(given, spec, tracking_uri(spec.tracking_uri), config, info.original_shape, images, labels)


def prepare_resume(name_or_id: str, changes: Mapping[str, Any]) -> Work:
    """The work of a run that stopped. `changes` may say where it runs and is recorded, not what it computes.

    Raises what `prepare` raises, TrackingError for a run that does not exist, and JobError for one that is finished.
    """
    free = ("tracking_uri", "experiment", "data_root", "download")
    fixed = [name for name in changes if theme_of(TrainSpec, name) != "Compute" and name not in free]
    refuse(fixed, "a resumed run")
    uri = tracking_uri(changes.get("tracking_uri"))
    try:
        found = find_run(uri, changes.get("experiment", TrainSpec.model_fields["experiment"].default), name_or_id)
    except NoSuchRun as error:
        return _prepare_kept(name_or_id, changes, uri, error)
    stored = found.data.tags.get("glow.spec")
    if stored is None:
        raise JobError(f"run {name_or_id!r} is not a training of glowctl: it has no tag glow.spec")
    if TRIAL_TAG in found.data.tags:
        parent = found.data.tags["mlflow.parentRunId"]
        raise JobError(f"run {name_or_id!r} is a trial of an ablation: go on by glowctl ablate --resume {parent}")
    if found.info.status == "FINISHED":
        raise JobError(f"run {name_or_id!r} is finished: there is nothing left to train")
    spec = make_train_spec("laptop", {**json.loads(stored), **changes, "tracking_uri": uri})
    kept_in = found.data.tags.get(FOLDER_TAG)
    folder = Path(spec.output, kept_in or found.info.run_id)
    if not is_remote(spec.output) and "validation/bits_per_dim" in found.data.metrics and not folder.exists():
        raise JobError(f"the checkpoints of run {name_or_id!r} are gone from {folder}: start a new run")
    work = replace(prepare(spec), resumed=found, kept_in=kept_in)
    work.check_same_images(recorded_images(found))
    return work


def _prepare_kept(name: str, changes: Mapping[str, Any], uri: str, unknown: NoSuchRun) -> Work:
    """The work of a run that MLflow does not know, by what is beside its checkpoints."""
    place = place_named(name)
    kept = recall(place)
    if kept is None or kept["job"] != "train":
        raise NoSuchRun(f"{unknown}, and no checkpoints of a training in {place}")
    if kept["finished"]:
        raise JobError(f"run {name!r} is finished: there is nothing left to train; its model is under {place}")
    output, _, folder = place.rpartition("/")
    spec = make_train_spec("laptop", {**kept["spec"], "output": output, **changes, "tracking_uri": uri})
    work = replace(prepare(spec), kept=kept, kept_in=folder)
    work.check_same_images(kept["images"])
    return work


def run(work: Work, show: Callable[[Event], None]) -> TrainResult:
    """Trains, in the Ray that this process is connected to. Progress goes to `show`, the record to MLflow.

    Raises:
        JobError: for resources that there are not, or a failure that restarts did not mend.
        TrainingDiverged, CheckpointError: from the workers.
        TrackingError: if the store takes no more.
    """
    resources = resources_for(work.spec, worker_range(work.spec.workers))
    record = _open_record(work)
    with claimed(work.spec.output, work.folder_of(record), "train"):
        return _run_recorded(work, resources, record, forgiving(show))


def _run_recorded(work: Work, resources: Resources, record: Record, show: Callable[[Event], None]) -> TrainResult:
    try:
        with record.running(system_metrics=False):  # which the workers' machines tell
            result = _train(work, resources, record, show)
    except KeyboardInterrupt:
        show({"event": "stopped", "run": record.name, "run_id": record.run_id})
        raise
    show({"event": "finished", **result.to_dict()})
    return result


def _train(work: Work, resources: Resources, record: Record, show: Callable[[Event], None]) -> TrainResult:
    started = time.monotonic()
    log = TrainingLog(work, record, show, {"run": record.name, "run_id": record.run_id})
    kept_at = f"{work.spec.output}/{work.folder_of(record)}"
    remember(kept_at, work.facts("train", record, finished=False))
    with results_folder(work.spec.output, f"{work.folder_of(record)}/results") as folder:
        log.write_settings(folder)
        if work.resumed is None or not recorded_images(work.resumed):
            work.record_datasets(record)
        if resources.room_now < resources.workers[0]:
            show({"event": "waiting", "workers": resources.workers[0], "room": resources.room_now})
        with Channel(log.see, log.record) as channel:
            outcome = _fit(work, resources, record, channel, log)
        if log.test_bits_per_dim is None or outcome.metrics is None:
            raise JobError(f"run {record.run_id} ended without a result; its checkpoints are in {work.spec.output}")
        best, metrics = min(outcome.best_checkpoints, key=lambda entry: entry[1][SCORE])
        with best.as_directory() as source:
            copy_model(source, folder / CHECKPOINT)
        result = log.conclude(metrics, outcome.metrics, folder, time.monotonic() - started)
    remember(kept_at, work.facts("train", record, finished=True))
    return result


def _fit(work: Work, resources: Resources, record: Record, channel: Channel, log: TrainingLog) -> ray.train.Result:
    spec = work.spec
    settings = worker_settings(work, resources, put_data(work), channel.queue)
    try:
        return in_a_thread(torch_trainer(settings, resources, name=work.folder_of(record)).fit)
    except (ControllerError, WorkerGroupError) as error:
        raise _sentence(cause_of(error), spec, record) from error
    except RayActorError as error:
        if (work.resumed or work.kept) and not log.started:
            raise JobError(
                f"training could not start from the checkpoints in {spec.output}/{work.folder_of(record)}: a folder "
                "that Ray wrote there is missing or damaged; start a new run"
            ) from error
        raise JobError(
            "the process that controls the training died (is memory short?); go on from the last checkpoint with "
            f"glowctl train --resume {record.run_id}"
        ) from error


def _sentence(error: Exception, spec: TrainSpec, record: Record) -> Exception:
    """The error of a worker as the user should read it."""
    if isinstance(error, OSError) and error.errno is not None:
        return JobError(
            f"training stopped: {plain_reason(error)}; the last checkpoint is kept, go on with glowctl train --resume "
            f"{record.run_id}"
        )
    if NoRetry.is_final(error):
        return error
    if type(error).__name__ == "WorkerGroupStartupTimeoutError":
        return JobError(
            f"no machines came for {spec.workers} workers: see glowctl cluster status, and go on with glowctl train "
            f"--resume {record.run_id}"
        )
    return JobError(
        f"training failed more than {spec.max_failures} times, the last time with {plain_reason(error)}; go on from "
        f"the last checkpoint with glowctl train --resume {record.run_id}"
    )


def _open_record(work: Work) -> Record:
    """A new run with all that is known beforehand, or the one that is resumed."""
    spec = work.spec
    if work.resumed is not None:
        return Record.existing(work.tracking_uri, work.resumed)
    name = (work.kept or {}).get("run_name") or training_name(spec)
    tags = work.tags() | ({FOLDER_TAG: work.kept_in} if work.kept_in else {})
    return Record.start(work.tracking_uri, spec.experiment, name, tags, work.params())
