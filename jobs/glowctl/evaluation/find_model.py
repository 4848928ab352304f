"""Find the trained model that ``--model`` names: a run, an MLflow model URI, a folder, or a pretrained model."""

from __future__ import annotations

import json
import math
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from glow.checkpoint import WEIGHTS_FILE, digest_of, load_checkpoint
from glow.config import GlowConfig
from glow.datasets.names import absolute_dataset, place_of
from glow.errors import CheckpointError
from glow.ood import Calibration
from glow.pretrained import pretrained_folder
from glowctl.errors import JobError, SpecError
from glowctl.outputs import recall, refuse_password
from glowctl.run_labels import configuration
from glowctl.specs.base import validated
from glowctl.specs.training import TrainSpec
from glowctl.tracking import metric_names, tag_names
from glowctl.tracking.models import SCORES_FILE
from glowctl.tracking.runs import MODEL, child_runs, download_model, find_run, model_id_of, newest_run
from glowctl.tracking.uris import NoSuchRun, TrackingError

if TYPE_CHECKING:
    from glowctl.tracking.runs import Run

SPEC_FILE = "spec.json"
PRETRAINED = "pretrained:"
BEST = metric_names.BEST_VALIDATION


@dataclass(frozen=True)
class TrainedModel:
    """A model in a form that Ray can send to workers, and what is known about its training.

    Attributes:
        name: the URI or folder that the user gave, or the name of the training run.
        reference: a value of ``--model`` that finds the model again from any folder: a URI, an absolute path, or the id
            of a run.
        title: name of the model in run names and figures, such as "mnist 1x1 K32 L3 w512 s0".
        config: the architecture.
        classes: indices of the classes that the model was trained on; empty if it has no classes.
        weights: parameters and buffers by their names in the state dict.
        digest: hash of weights and config.
        run_id: id of the training run; None if the model is in a folder or a bucket.
        experiment_id: id of that run's experiment.
        model_id: id of the logged model in MLflow.
        training: settings of the training, with absolute paths of its data; None if neither a run nor a ``spec.json``
            contains them.
        calibration: the scores by which the model judges new images; None if they are not with the weights.
    """

    name: str
    reference: str
    title: str
    config: GlowConfig
    classes: tuple[int, ...]
    weights: dict[str, np.ndarray]
    digest: str
    run_id: str | None
    experiment_id: str | None
    model_id: str | None
    training: TrainSpec | None
    calibration: Calibration | None = None


def find_model(name: str | None, uri: str, experiment: str) -> TrainedModel:
    """Load the model that the user named, or the newest one if the user named none.

    Args:
        name: an MLflow model URI, a folder, ``pretrained:NAME``, or the id or name of a training run. None selects the
            newest finished training of the experiment. If this training is a trial of an ablation, None selects the
            trial with the lowest validation NLL in that ablation.
        uri: the MLflow store.
        experiment: the experiment in which run names are looked up.

    Raises:
        TrackingError: if the store does not answer, or has no such run or model.
        CheckpointError: if there is no model at this place, or several, or one that is damaged or was never trained.
        JobError: if the run is not a training or has no model yet, or if a URI contains a password.
    """
    if name is not None and name.startswith(PRETRAINED):
        return _read(pretrained_folder(name.removeprefix(PRETRAINED)), name, name, None, uri)
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


def models_named(name: str | None, uri: str, experiment: str) -> list[str | None]:
    """Return the value of ``--model`` for each of the models that one value names.

    Args:
        name: a name as `find_model` takes it, several of them with commas between, or the name or id of an ablation,
            which stands for its finished trials; None for the newest model.
        uri: the MLflow store.
        experiment: the experiment in which run names are looked up.

    Raises:
        TrackingError: if the store does not answer, or several are named and one of them is no run.
        JobError: if an ablation has no finished trial.
    """
    if name is None or (_is_uri(name) and "," not in name) or Path(name).expanduser().is_dir():
        return [name]
    parts = [part.strip() for part in name.split(",") if part.strip()]
    return [each for part in parts for each in _trials(part, uri, experiment)]


def _trials(name: str, uri: str, experiment: str) -> list[str]:
    """Return the ids of an ablation's finished trials; the name alone for any other model."""
    if _is_uri(name) or Path(name).expanduser().is_dir():
        return [name]
    run = _run(name, uri, experiment)
    if run.data.tags.get(tag_names.JOB) != "ablate":
        return [name]
    trials = [
        trial.info.run_id
        for trial in child_runs(uri, run)
        if trial.info.status == "FINISHED" and tag_names.TRIAL in trial.data.tags
    ]
    if not trials:
        raise JobError(
            f"ablation {run.info.run_name!r} ({run.info.run_id}) has no finished trial",
            remedy=f"continue it with glowctl ablate --resume {run.info.run_id}",
            code="no-finished-trial",
        )
    return trials


def _newest(uri: str, experiment: str) -> Run:
    run = newest_run(uri, experiment, "train")
    if tag_names.TRIAL not in run.data.tags:
        return run
    ablation = find_run(uri, experiment, run.data.tags[tag_names.PARENT])
    best = ablation.data.tags.get(tag_names.CHAMPION)
    if best:
        return find_run(uri, experiment, best)
    # An ablation that was interrupted has not named its best trial yet.
    trials = [trial for trial in child_runs(uri, ablation) if trial.info.status == "FINISHED"]
    scores = {trial.info.run_id: trial.data.metrics.get(BEST, math.inf) for trial in trials}
    return min(trials, key=lambda trial: scores[trial.info.run_id], default=run)


def _is_uri(name: str) -> bool:
    return "://" in name or name.startswith(("models:", "runs:", PRETRAINED))


def _run(name: str, uri: str, experiment: str) -> Run:
    try:
        return find_run(uri, experiment, name)
    except NoSuchRun as error:
        raise TrackingError(
            f"{error.problem}, and there is no folder of that name",
            remedy="give --model the id or name of a run (glowctl runs lists them), a model URI or a folder",
            code="run-not-found",
        ) from None


def _of_run(run: Run, uri: str) -> TrainedModel:
    run_id, name = run.info.run_id, run.info.run_name
    if run.data.tags.get(tag_names.JOB) != "train":
        raise JobError(
            f"run {name!r} ({run_id}) is not a training",
            remedy="give --model the run that trained the model",
            code="run-of-another-job",
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            place, _ = download_model(uri, f"runs:/{run_id}/{MODEL}", folder)
        except TrackingError as error:
            if run.info.status == "FINISHED":
                raise
            parent = run.data.tags[tag_names.PARENT] if tag_names.TRIAL in run.data.tags else None
            resume = f"ablate --resume {parent}" if parent else f"train --resume {run_id}"
            raise JobError(
                f"run {name!r} ({run_id}) is {run.info.status} and has no model yet",
                remedy=f"continue it with glowctl {resume}",
                code="run-without-model",
            ) from error
        return _read(_folder_of(place, name), name, run_id, run, uri)


def _folder_of(place: Path, name: str) -> Path:
    """Return the one folder under `place` that contains weights."""
    found = sorted(place.rglob(WEIGHTS_FILE)) if place.is_dir() else []
    if not found:
        raise CheckpointError(
            f"{name} contains no Glow, since it has no {WEIGHTS_FILE}",
            remedy="give --model a folder or model that glowctl train wrote",
            code="checkpoint-missing",
        )
    if len(found) > 1:
        within = ", ".join(str(path.parent.relative_to(place)) for path in found[:3])
        raise CheckpointError(
            f"{name} contains {len(found)} models ({within})",
            remedy="give --model the folder of one of them",
            code="several-models",
        )
    return found[0].parent


def _read(folder: Path, name: str, reference: str, run: Run | None, uri: str) -> TrainedModel:
    model = load_checkpoint(folder)
    if not model.initialized:
        raise CheckpointError(
            f"the model {name} was saved before any training",
            remedy="give --model a trained one",
            code="model-untrained",
        )
    training = _training(folder, run)
    return TrainedModel(
        name,
        reference,
        _title(name, run, training),
        model.config,
        tuple(model.trained_classes.tolist()),
        {key: tensor.numpy() for key, tensor in model.state_dict().items()},
        digest_of(folder),
        run.info.run_id if run else None,
        run.info.experiment_id if run else None,
        model_id_of(uri, run) if run else None,
        training,
        _calibration(folder),
    )


def _calibration(folder: Path) -> Calibration | None:
    """Read the scores from the folder of the weights, or next to it, where an MLflow model has them."""
    for path in (folder / SCORES_FILE, folder.parent / SCORES_FILE):
        if path.is_file():
            with suppress(ValueError):  # of an earlier version, which kept only likelihoods
                return Calibration.load(path)
    return None


def _title(name: str, run: Run | None, training: TrainSpec | None) -> str:
    """Return the run's name without "train ", or the configuration, or the name of the folder."""
    if run is not None:
        return str(run.info.run_name).removeprefix("train ")
    return configuration(training) if training is not None else Path(name).name


def _training(folder: Path, run: Run | None) -> TrainSpec | None:
    """Read the settings of the training from its run, or from a ``spec.json`` in the checkpoint's folder or above."""
    stored = run.data.tags.get(tag_names.SPEC) if run else None
    if stored is None:
        beside = [path for path in (folder / SPEC_FILE, folder.parent / SPEC_FILE) if path.is_file()]
        stored = beside[0].read_text() if beside else None
    if stored is None:
        return None
    try:
        training = validated(TrainSpec, json.loads(stored))
    except (ValueError, SpecError, TypeError):
        return None  # a spec.json that glowctl did not write
    return training.model_copy(update=_places(folder, training))


def _places(folder: Path, training: TrainSpec) -> dict[str, str | None]:
    """Return the absolute `dataset` and `data_root` of a training.

    A ``spec.json`` has them as the user gave them, perhaps relative to the working folder of the training. The absolute
    ones are in the ``run.json`` of the run's folder. If this file is missing, or the data are no longer there, relative
    ones are taken to be relative to the present working folder.

    Args:
        folder: the folder of the checkpoint, such as ``OUTPUT/RUN_ID/results/checkpoint``.
        training: the settings of the training.
    """
    root = training.data_root and str(Path(training.data_root).expanduser().absolute())
    here = {"dataset": absolute_dataset(training.dataset), "data_root": root}
    if here == {"dataset": training.dataset, "data_root": training.data_root}:
        return here
    kept = recall(str(folder.absolute().parent.parent))
    if kept is None or kept.job != "train":
        return here
    recorded = {"dataset": kept.spec["dataset"], "data_root": kept.spec["data_root"]}
    place = place_of(recorded["dataset"])
    paths = [recorded["data_root"], place and not place.is_remote and place.path]
    return recorded if all(Path(path).exists() for path in paths if path) else here
