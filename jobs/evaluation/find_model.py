"""Trained models, found by what a user calls them: a run, an MLflow model URI, or a folder."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from glow.checkpoint import WEIGHTS_FILE, CheckpointError, digest_of, load_checkpoint
from glow.config import GlowConfig
from jobs.errors import JobError, SpecError
from jobs.outputs import refuse_password
from jobs.run_labels import configuration
from jobs.specs.base import validated
from jobs.specs.training import TrainSpec
from jobs.tracking import (
    MODEL,
    TrackingError,
    child_runs,
    download_model,
    find_run,
    metric_names,
    model_id_of,
    newest_run,
    tag_names,
)

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = ["TrainedModel", "find_model"]

SPEC_FILE = "spec.json"
BEST = metric_names.BEST_VALIDATION


@dataclass(frozen=True)
class TrainedModel:
    """A model that can be sent to workers, and what is known of its training."""

    name: str
    reference: str  # what finds it again: a URI, an absolute path, or a run's id
    title: str  # "mnist 1x1 K32 L3 w512 s0"
    config: GlowConfig
    weights: dict[str, np.ndarray]
    digest: str  # of weights and config
    run_id: str | None  # the training run
    experiment_id: str | None  # and its experiment
    model_id: str | None  # of MLflow's logged model
    training: TrainSpec | None


def find_model(name: str | None, uri: str, experiment: str) -> TrainedModel:
    """The model of this name, or the newest that a training of the experiment has finished; of an ablation's trials
    the best by validation.

    Raises:
        TrackingError: if the store does not answer, or knows no such run or model.
        CheckpointError: for a folder that holds no model, or a damaged one.
        JobError: for a run that is no training, or has not come to a model.
    """
    if name is not None and _is_uri(name):
        refuse_password(name, "--model")
        with tempfile.TemporaryDirectory() as scratch:
            place, run_id = download_model(uri, name, scratch)
            run = find_run(uri, experiment, run_id) if run_id else None
            return _read(_folder_of(place, name), name, name, run, uri)
    if name is not None and Path(name).expanduser().is_dir():
        folder = Path(name).expanduser()
        return _read(_folder_of(folder, name), name, str(folder.absolute()), None, uri)
    run = _newest(uri, experiment) if name is None else _run(name, uri, experiment)
    return _of_run(run, uri)


def _newest(uri: str, experiment: str) -> Run:
    run = newest_run(uri, experiment, "train")
    if tag_names.TRIAL not in run.data.tags:
        return run
    ablation = find_run(uri, experiment, run.data.tags[tag_names.PARENT])
    best = ablation.data.tags.get(tag_names.CHAMPION)
    if best:
        return find_run(uri, experiment, best)
    trials = [trial for trial in child_runs(uri, ablation) if trial.info.status == "FINISHED"]  # it was interrupted
    scores = {trial.info.run_id: trial.data.metrics.get(BEST, math.inf) for trial in trials}
    return min(trials, key=lambda trial: scores[trial.info.run_id], default=run)


def _is_uri(name: str) -> bool:
    return "://" in name or name.startswith(("models:", "runs:"))


def _run(name: str, uri: str, experiment: str) -> Run:
    try:
        return find_run(uri, experiment, name)
    except TrackingError as error:
        if "no run" in str(error):
            raise TrackingError(f"{error}, and no folder of that name") from None
        raise


def _of_run(run: Run, uri: str) -> TrainedModel:
    run_id, name = run.info.run_id, run.info.run_name
    if run.data.tags.get(tag_names.JOB) != "train":
        raise JobError(f"run {name!r} ({run_id}) is not a training: give --model the run that trained the model")
    with tempfile.TemporaryDirectory() as folder:
        try:
            place, _ = download_model(uri, f"runs:/{run_id}/{MODEL}", folder)
        except TrackingError as error:
            if run.info.status == "FINISHED":
                raise
            parent = run.data.tags[tag_names.PARENT] if tag_names.TRIAL in run.data.tags else None
            resume = f"ablate --resume {parent}" if parent else f"train --resume {run_id}"
            raise JobError(
                f"run {name!r} ({run_id}) is {run.info.status} and has no model yet: go on with it by glowctl {resume}"
            ) from error
        return _read(_folder_of(place, name), name, run_id, run, uri)


def _folder_of(place: Path, name: str) -> Path:
    """Where in a download the model lies."""
    found = sorted(place.rglob(WEIGHTS_FILE)) if place.is_dir() else []
    if not found:
        raise CheckpointError(f"{name} holds no Glow: there is no {WEIGHTS_FILE} in it")
    if len(found) > 1:
        within = ", ".join(str(path.parent.relative_to(place)) for path in found[:3])
        raise CheckpointError(f"{name} holds {len(found)} models ({within}): name one of them")
    return found[0].parent


def _read(folder: Path, name: str, reference: str, run: Run | None, uri: str) -> TrainedModel:
    model = load_checkpoint(folder)
    if not model.initialized:
        raise CheckpointError(f"the model {name} was saved before any training")
    training = _training(folder, run)
    return TrainedModel(
        name,
        reference,
        _title(name, run, training),
        model.config,
        {key: tensor.numpy() for key, tensor in model.state_dict().items()},
        digest_of(folder),
        run.info.run_id if run else None,
        run.info.experiment_id if run else None,
        model_id_of(uri, run) if run else None,
        training,
    )


def _title(name: str, run: Run | None, training: TrainSpec | None) -> str:
    """What a model is called in the names of runs and in figures: as its training is, less that it was one."""
    if run is not None:
        return str(run.info.run_name).removeprefix("train ")
    return configuration(training) if training is not None else Path(name).name


def _training(folder: Path, run: Run | None) -> TrainSpec | None:
    """How the model was trained: by its run, or the spec beside the checkpoint."""
    stored = run.data.tags.get(tag_names.SPEC) if run else None
    if stored is None:
        beside = [path for path in (folder / SPEC_FILE, folder.parent / SPEC_FILE) if path.is_file()]
        stored = beside[0].read_text() if beside else None
    if stored is None:
        return None
    try:
        return validated(TrainSpec, json.loads(stored))
    except (ValueError, SpecError, TypeError):
        return None  # a file of somebody else's that has this name
