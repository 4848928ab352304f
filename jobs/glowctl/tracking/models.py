"""Glows as MLflow models, which can be loaded and served without this project installed.

Three steps publish a model: `save_model` writes it to a folder, `log_model` uploads the folder to a run, and `register`
makes it a version of a registered model.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from importlib.metadata import version as installed_version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

import glow
from glowctl.tracking import tag_names
from glowctl.tracking.store import client_of, sentences

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

    from glow.ood import Calibration

SERVED = Path(__file__).with_name("served_glow.py")
SCORES_FILE = "scores.safetensors"

# The packages that loading and predicting import.
PACKAGES = ("mlflow", "torch", "numpy", "pandas", "safetensors", "scikit-learn", "scipy", "pillow")

ABOUT = (
    "Glow models of one data set, one version per training. `@champion` is the version with the best validation score "
    "of the ablations, `@latest` the newest version. The input is a batch of uint8 images. The output is their "
    "negative log-likelihoods, whether the batch is out-of-distribution by the typicality test, and which images are."
)
"""Description of a registered model in the MLflow UI."""

# MLflow copies these from the folder in which a model is saved, although they belong to another project.
FOREIGN_FILES = ("uv.lock", "pyproject.toml", ".python-version")


def save_model(
    folder: Path,
    checkpoint: Path,
    calibration: Calibration,
    example_M: np.ndarray,
    metadata: Mapping[str, Any],
) -> None:
    """Write a Glow as an MLflow model, which needs neither Ray nor this project to load.

    The model consists of code, weights, and the scores by which it judges new images (`glowctl.tracking.served_glow`).
    It contains no pickled objects, and no paths of this machine.

    Args:
        folder: folder to create; it may exist if it is empty.
        checkpoint: folder that `glow.save_checkpoint` wrote, of which the weights and the configuration are copied.
        calibration: the scores of the training and held-out images.
        example_M: uint8 (M, C, H, W), images that MLflow shows as an example of the input.
        metadata: JSON values that MLflow stores with the model; the images' shape is added.

    Raises:
        MlflowException: if the folder is not empty.
        OSError: if the folder cannot be written, or the checkpoint does not exist.
    """
    from glow.checkpoint import CONFIG_FILE, WEIGHTS_FILE

    pyfunc = _quiet_pyfunc()
    with tempfile.TemporaryDirectory() as scratch:
        code, weights, scores = (Path(scratch) / name for name in ("glow", "checkpoint", SCORES_FILE))
        shutil.copytree(Path(glow.__file__).parent, code, ignore=shutil.ignore_patterns("pretrained", "__pycache__"))
        weights.mkdir()
        for name in (WEIGHTS_FILE, CONFIG_FILE):  # without the state of the training, which is pickled
            shutil.copyfile(checkpoint / name, weights / name)
        calibration.save(scores)
        pyfunc.save_model(
            path=str(folder),
            python_model=str(SERVED),
            artifacts={"checkpoint": str(weights), "scores": str(scores)},
            code_paths=[str(code)],
            signature=_signature(),
            input_example=example_M,
            pip_requirements=_requirements(),
            metadata={**metadata, "image_shape": list(example_M.shape[1:])},
        )
    _forget_this_machine(folder)


def _quiet_pyfunc() -> ModuleType:
    """Import `mlflow.pyfunc` so that it does not report every file that it copies or warn of its own type hints."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc
        import mlflow.tracing
    mlflow.tracing.disable()  # else MLflow 3.6 opens a store of traces, ./mlruns, when it has saved a model
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return mlflow.pyfunc


def _signature() -> ModelSignature:
    """Return the types of inputs, outputs and parameters, with which MLflow checks requests.

    Images are declared as objects, because MLflow does not cast those. It would cast 1.5 and "1" to 1 for uint8, before
    the model could refuse them, and it would refuse uint8 arrays for int64.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import Array, DataType

    numbers, decisions = Array(DataType.double), Array(DataType.boolean)
    outputs: dict[str, Array | DataType] = {
        "nll": numbers,
        "bits_per_dim": numbers,
        "is_ood": DataType.boolean,
        "p_value": DataType.double,
        "distance": DataType.double,
        "threshold": DataType.double,
        "batch_size": DataType.long,
        "alpha": DataType.double,
        "p_values": numbers,
        "flagged": decisions,
        "detector": DataType.string,
        "detector_p_value": DataType.double,
    }
    params = [
        ParamSpec("alpha", DataType.double, 0.99),
        ParamSpec("bootstraps", DataType.long, 10_000),
        ParamSpec("seed", DataType.long, 0),
        ParamSpec("first_index", DataType.long, 0),
        ParamSpec("fdr", DataType.double, 0.1),
    ]
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(object), (-1,), "images")]),
        outputs=Schema([ColSpec(kind, name) for name, kind in outputs.items()]),
        params=ParamSchema(params),
    )


def _requirements() -> list[str]:
    """Return pinned requirements without local build labels: no package index has a version such as 2.13.0+cpu."""
    return [f"{package}=={installed_version(package).partition('+')[0]}" for package in PACKAGES]


def _forget_this_machine(folder: Path) -> None:
    """Remove the paths from which MLflow copied the parts of the model; loading does not use them."""
    from mlflow.models import Model

    model = Model.load(str(folder))
    flavor = model.flavors["python_function"]
    flavor["model_code_path"] = SERVED.name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    model.save(str(folder / "MLmodel"))
    for name in FOREIGN_FILES:
        (folder / name).unlink(missing_ok=True)


def log_model(
    uri: str,
    run_id: str,
    folder: Path,
    name: str = "model",
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Upload the folder that `save_model` wrote as a model of a run.

    The model can then be loaded as runs:/RUN_ID/NAME or models:/ID.

    If the upload fails, the model is marked FAILED. The ids of the run and of the model are written into the file
    MLmodel in `folder`.

    Args:
        uri: the store.
        run_id: the run.
        folder: folder that `save_model` wrote.
        name: name of the model in the run.
        params: parameters that the UI shows with the model.
        tags: tags of the model, in addition to the tags of the run that identify its source.

    Returns:
        The id of the logged model.

    Raises:
        TrackingError: if the store does not have the run, or fails.
    """
    client = client_of(uri)
    with sentences(uri):
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus
        from mlflow.models import Model

        run = client.get_run(run_id)
        origin = {
            key: text for key, text in run.data.tags.items() if key.startswith(("mlflow.source.", tag_names.USER))
        }
        logged = client.create_logged_model(
            run.info.experiment_id, name, run_id, tags={**origin, **(tags or {})}, params=dict(params or {})
        )
        status = "FAILED"
        try:
            model = Model.load(str(folder))
            model.run_id, model.model_id = run_id, logged.model_id
            model.save(str(folder / "MLmodel"))
            client.log_model_artifacts(logged.model_id, str(folder))
            client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
            status = "READY"
        finally:
            # If the store does not answer, the first error is raised and not the error of this call.
            with suppress(Exception) if status == "FAILED" else nullcontext():
                client.finalize_logged_model(logged.model_id, LoggedModelStatus(status))
        return logged.model_id


def register(
    uri: str, name: str, run_id: str, model_id: str, tags: Mapping[str, str], description: str | None = None
) -> str:
    """Register a model that `log_model` logged, unless this name already has a version from the same run.

    Args:
        uri: the store.
        name: name of the registered model, which is created if it does not exist.
        run_id: the run that logged the model.
        model_id: the id that `log_model` returned.
        tags: tags of the version.
        description: description of the version.

    Returns:
        The number of the version: the new one, or the one that this name already has from the run.

    Raises:
        TrackingError: if the store does not have the model, or fails.
    """
    client = client_of(uri)
    with sentences(uri):
        _create_registered_model(client, name)
        if present := _versions(client, name, run_id):
            return present[0]
        made = client.create_model_version(
            name, _source(client, uri, model_id), run_id, dict(tags), description=description, model_id=model_id
        ).version
        first = _versions(client, name, run_id)[0]
        if first != str(made):  # another process has registered the run since
            client.delete_model_version(name, made)
            return first
        _note_version(client, model_id, name, first)
        return first


def _create_registered_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=ABOUT)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _versions(client: MlflowClient, name: str, run_id: str) -> list[str]:
    """Return the versions of a run under this name, the oldest first."""
    found = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return sorted((str(entry.version) for entry in found), key=int)


def _source(client: MlflowClient, uri: str, model_id: str) -> str:
    """Return the source of a new model version.

    It is `models:/ID` if the store is an MLflow server, which resolves the id itself, and else the place of the model's
    files: MLflow's client would look the id up in this process's default store, which may be a different one.
    """
    if uri.startswith(("http://", "https://")):
        return f"models:/{model_id}"
    return client.get_logged_model(model_id).artifact_location


def _note_version(client: MlflowClient, model_id: str, name: str, version: str) -> None:
    """Tag the model with its registered name, which the UI then shows. An MLflow server does this by itself."""
    known = json.loads(client.get_logged_model(model_id).tags.get(tag_names.MODEL_VERSIONS, "[]"))
    entry = {"name": name, "version": int(version)}
    if entry not in known:
        client.set_logged_model_tags(model_id, {tag_names.MODEL_VERSIONS: json.dumps([*known, entry])})
