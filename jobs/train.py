"""The training job: `prepare` checks all that can be checked beforehand, `run` trains on Ray and records in MLflow.

The driver loads the data once and hands it to the workers through Ray's object store, so no worker needs the files.
Rank 0 sends events through a queue to the driver, which shows and records them.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock
from filelock import Timeout as FileLockTimeout
from ray.exceptions import RayActorError, RayError
from ray.train import CheckpointConfig, ControllerError, FailureConfig, RunConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from glow.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from glow.datasets import describe, load_dataset, own_channels
from jobs.channel import Channel
from jobs.errors import JobError
from jobs.folders import absolute_dataset, is_remote, results_folder, usable_output
from jobs.progress import Event, forgiving
from jobs.resources import Resources, resources_for
from jobs.specs import SpecError, TrainSpec, make_train_spec, theme_of, worker_range
from jobs.tracking import Record, find_run, tracking_uri, without_password
from jobs.training_log import TrainingLog, TrainResult, Work
from jobs.worker import SCORE, NoRetry, train_loop

__all__ = ["TrainResult", "Work", "prepare", "prepare_resume", "run"]

GRID = 100
"""Images in a sample grid: the report's 10 x 10."""


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
    return Work(
        given, spec, tracking_uri(spec.tracking_uri), config, info.original_shape, images, splits["train"][1].numpy()
    )


def prepare_resume(name_or_id: str, changes: Mapping[str, Any]) -> Work:
    """The work of a run that stopped. `changes` may say where it runs and is recorded, not what it computes.

    Raises what `prepare` raises, TrackingError for a run that does not exist, and JobError for one that is finished.
    """
    free = ("tracking_uri", "experiment", "data_root", "download")
    fixed = [name for name in changes if theme_of(TrainSpec, name) != "Compute" and name not in free]
    if fixed:
        flags = ", ".join("--" + name.replace("_", "-") for name in fixed)
        raise SpecError(f"a resumed run keeps its settings: leave out {flags}")
    uri = tracking_uri(changes.get("tracking_uri"))
    found = find_run(uri, changes.get("experiment", TrainSpec.model_fields["experiment"].default), name_or_id)
    stored = found.data.tags.get("glow.spec")
    if stored is None:
        raise JobError(f"run {name_or_id!r} is not a training of glowctl: it has no tag glow.spec")
    if found.info.status == "FINISHED":
        raise JobError(f"run {name_or_id!r} is finished: there is nothing left to train")
    spec = make_train_spec("laptop", {**json.loads(stored), **changes, "tracking_uri": uri})
    folder = Path(spec.output, found.info.run_id)
    if not is_remote(spec.output) and "validation/bits_per_dim" in found.data.metrics and not folder.exists():
        raise JobError(f"the checkpoints of run {name_or_id!r} are gone from {folder}: start a new run")
    work = replace(prepare(spec), resumed=found)
    known = {entry.dataset.name: entry.dataset.digest for entry in found.inputs.dataset_inputs}
    changed = [name for name, digest in work.digests().items() if known.get(name, digest) != digest]
    if changed:
        raise JobError(f"the images of {' and '.join(changed)} are not those that the run began with: start a new run")
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
    with _claimed(work.spec, record):
        return _run_recorded(work, resources, record, forgiving(show))


def _run_recorded(work: Work, resources: Resources, record: Record, show: Callable[[Event], None]) -> TrainResult:
    try:
        with record.running():
            result = _train(work, resources, record, show)
    except KeyboardInterrupt:
        show({"event": "stopped", "run": record.name, "run_id": record.run_id})
        raise
    show({"event": "finished", **result.to_dict()})
    return result


def _train(work: Work, resources: Resources, record: Record, show: Callable[[Event], None]) -> TrainResult:
    started = time.monotonic()
    log = TrainingLog(work, record, show)
    with results_folder(work.spec.output, f"{record.run_id}/results") as folder:
        log.write_settings(folder)
        record.folder(folder)
        if work.resumed is None:
            _record_datasets(work, record)
        with Channel(log.see, log.record) as channel:
            outcome = _fit(work, resources, record, channel, log)
        if log.test_bits_per_dim is None or outcome.metrics is None:
            raise JobError(f"run {record.run_id} ended without a result; its checkpoints are in {work.spec.output}")
        best, metrics = min(outcome.best_checkpoints, key=lambda entry: entry[1][SCORE])
        _copy_model(best, folder / "checkpoint")
        place = record.artifact_uri if is_remote(work.spec.output) else str(folder)
        result = log.result(metrics, outcome.metrics, place, time.monotonic() - started)
        log.write(result, folder)
        record.folder(folder)
    return result


def _fit(work: Work, resources: Resources, record: Record, channel: Channel, log: TrainingLog) -> ray.train.Result:
    spec = work.spec
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={
            "spec": spec.model_dump(exclude={"tracking_uri"}),  # which may hold a password
            "config": work.config.to_dict(),
            # in a list, so that Ray hands on the references and not the arrays
            "data": [ray.put({"images": dict(work.images), "labels": work.labels})],
            "queue": channel.queue,
            "threads": resources.threads,
            "grid": GRID,
        },
        scaling_config=resources.scaling_config(),
        torch_config=TorchConfig(backend=resources.backend),
        run_config=RunConfig(
            name=record.run_id,
            storage_path=spec.output,
            callbacks=[NoRetry()],
            # Without a limit an error of the controller itself is retried for ever.
            failure_config=FailureConfig(max_failures=spec.max_failures, controller_failure_limit=3),
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute=SCORE, checkpoint_score_order="min"
            ),
        ),
    )
    try:
        return _fit_in_a_thread(trainer)
    except ControllerError as error:
        raise _sentence(error.controller_failure, spec, record) from error
    except WorkerGroupError as error:
        raise _sentence(error.worker_failures[min(error.worker_failures)], spec, record) from error
    except RayActorError as error:
        if work.resumed is not None and not log.started:
            raise JobError(
                f"training could not start from the checkpoints in {spec.output}/{record.run_id}: a folder that Ray "
                "wrote there is missing or damaged; start a new run"
            ) from error
        raise JobError(
            "the process that controls the training died (is memory short?); go on from the last checkpoint with "
            f"glowctl train --resume {record.run_id}"
        ) from error


def _fit_in_a_thread(trainer: TorchTrainer) -> ray.train.Result:
    """`trainer.fit()`, with Ctrl-C as it should be.

    In the main thread Ray Train puts a handler of its own in place, which waits for a cluster that may be gone, ends in
    SystemExit, and stays. In any other it leaves signals alone: KeyboardInterrupt comes here, and what runs on Ray ends
    with Ray.
    """
    future: Future[ray.train.Result] = Future()

    def fit() -> None:
        try:
            future.set_result(trainer.fit())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=fit, name="fit", daemon=True).start()
    return future.result()


def _sentence(error: Exception, spec: TrainSpec, record: Record) -> Exception:
    """The error of a worker as the user should read it."""
    if isinstance(error, OSError) and error.errno is not None:
        return JobError(
            f"training stopped: {os.strerror(error.errno)} ({str(error).splitlines()[0]}); the last checkpoint is "
            f"kept, go on with glowctl train --resume {record.run_id}"
        )
    if NoRetry.is_final(error):
        return error
    cause = str(error).strip().splitlines()[-1] if isinstance(error, RayError) else f"{type(error).__name__}: {error}"
    return JobError(
        f"training failed more than {spec.max_failures} times, the last time with {cause}; go on from the last "
        f"checkpoint with glowctl train --resume {record.run_id}"
    )


def _copy_model(checkpoint: ray.train.Checkpoint, folder: Path) -> None:
    """The model without the state of its training, which is twice its size."""
    folder.mkdir(parents=True, exist_ok=True)
    with checkpoint.as_directory() as source:
        for file in (WEIGHTS_FILE, CONFIG_FILE):
            shutil.copy(Path(source, file), folder / file)


@contextmanager
def _claimed(spec: TrainSpec, record: Record) -> Iterator[None]:
    """One glowctl at a time trains a run. Raises JobError. The lock goes with the process that holds it."""
    if is_remote(spec.output):
        yield
        return
    folder = Path(spec.output, record.run_id)
    folder.mkdir(exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except FileLockTimeout:
        raise JobError(f"run {record.run_id} is being trained by another glowctl: wait for it, or stop it") from None


def _open_record(work: Work) -> Record:
    """A new run with all that is known beforehand, or the one that is resumed."""
    spec = work.spec
    if work.resumed is not None:
        return Record.existing(work.tracking_uri, work.resumed)
    name = spec.run_name or (
        f"train {spec.dataset} {spec.permutation} K{spec.depth} L{spec.levels} w{spec.width} s{spec.seed}"
    )
    public = spec.model_dump() | {"tracking_uri": without_password(work.tracking_uri)}
    tags = {"glow.job": "train", "glow.dataset": spec.dataset, "glow.spec": json.dumps(public)}
    return Record.start(
        work.tracking_uri, spec.experiment, name, tags, public | {"image_shape": work.config.image_shape}
    )


def _record_datasets(work: Work, record: Record) -> None:
    for (split, images), (name, digest) in zip(work.images.items(), work.digests().items(), strict=True):
        record.dataset(images, name, digest, "training" if split == "train" else split, work.spec.dataset)
