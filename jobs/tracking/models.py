"""Models in MLflow that load and serve without this project: saved, logged to a run, registered."""

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
from jobs.tracking import tag_names
from jobs.tracking.store import client_of, sentences

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.models import ModelSignature

__all__ = ["log_model", "register", "save_model"]

SERVED = Path(__file__).with_name("served_glow.py")
SCORES_FILE = "scores.safetensors"

# What loading and predicting import.
PACKAGES = ("mlflow", "torch", "numpy", "pandas", "safetensors", "scikit-learn", "scipy", "pillow")

ABOUT = (
    "Glows of one data set, a version a training. `@champion` is the best of the ablations by validation, `@latest` "
    "the newest version. A batch of uint8 images goes in; their negative log-likelihoods, and whether the batch is "
    "out-of-distribution by the typicality test, come out."
)

# Of the environment that saves a model, which MLflow would put beside it.
FOREIGN_FILES = ("uv.lock", "pyproject.toml", ".python-version")


def save_model(
    folder: Path,
    checkpoint: Path,
    train_nll: np.ndarray,
    validation_nll: np.ndarray,
    example_M: np.ndarray,
    metadata: Mapping[str, Any],
    *,
    noise_seed: int = 0,
) -> None:
    """Writes a Glow as an MLflow model, which needs neither Ray nor this project: code, weights, and the scores that
    `jobs.tracking.served_glow` makes thresholds of. Nothing in it is pickled, and nothing names this machine.

    Args:
        folder: which is made, and must not hold anything.
        checkpoint: what `glow.save_checkpoint` wrote; of it the weights and the config go along.
        train_nll: (N,) negative log-likelihoods in nats of the images that the model was trained on.
        validation_nll: (N',) of images held out.
        example_M: uint8 (M, C, H, W), the input that MLflow shows as an example.
        metadata: what MLflow keeps with the model, as JSON; the images' shape is added to it.
        noise_seed: of the dequantisation noise that both scores have.

    Raises:
        MlflowException: for a folder that holds something.
        OSError: if it cannot be written, or there is no such checkpoint.
    """
    from safetensors.numpy import save_file

    from glow.checkpoint import CONFIG_FILE, WEIGHTS_FILE

    pyfunc = _quiet_pyfunc()
    with tempfile.TemporaryDirectory() as scratch:
        weights, scores = Path(scratch) / "checkpoint", Path(scratch) / SCORES_FILE
        weights.mkdir()
        for name in (WEIGHTS_FILE, CONFIG_FILE):  # and not the state of its training, which is pickled
            shutil.copyfile(checkpoint / name, weights / name)
        kept = {"train_nll": train_nll, "validation_nll": validation_nll}
        arrays = {name: np.ascontiguousarray(nll, np.float64) for name, nll in kept.items()}
        save_file({**arrays, "noise_seed": np.array(noise_seed)}, scores)
        pyfunc.save_model(
            path=str(folder),
            python_model=str(SERVED),
            artifacts={"checkpoint": str(weights), "scores": str(scores)},
            code_paths=[str(Path(glow.__file__).parent)],
            signature=_signature(),
            input_example=example_M,
            pip_requirements=_requirements(),
            metadata={**metadata, "image_shape": list(example_M.shape[1:])},
        )
    _forget_this_machine(folder)


def _quiet_pyfunc() -> ModuleType:
    """`mlflow.pyfunc`, which otherwise reports every file that it copies and warns of its own type hints."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return mlflow.pyfunc


def _signature() -> ModelSignature:
    """Images are declared as objects, of which MLflow casts none: as uint8 it would make 1 of 1.5 and of "1" before
    the model could refuse them, and as int64 it would refuse arrays of uint8."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import Array, DataType

    numbers = Array(DataType.double)
    outputs: dict[str, Array | DataType] = {
        "nll": numbers,
        "bits_per_dim": numbers,
        "is_ood": DataType.boolean,
        "p_value": DataType.double,
        "distance": DataType.double,
        "threshold": DataType.double,
        "batch_size": DataType.long,
        "alpha": DataType.double,
    }
    params = [
        ParamSpec("alpha", DataType.double, 0.99),
        ParamSpec("bootstraps", DataType.long, 10_000),
        ParamSpec("seed", DataType.long, 0),
        ParamSpec("first_index", DataType.long, 0),
    ]
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(object), (-1,), "images")]),
        outputs=Schema([ColSpec(kind, name) for name, kind in outputs.items()]),
        params=ParamSchema(params),
    )


def _requirements() -> list[str]:
    """Pinned, less the build: a version like 2.13.0+cpu is in no index that others use."""
    return [f"{package}=={installed_version(package).partition('+')[0]}" for package in PACKAGES]


def _forget_this_machine(folder: Path) -> None:
    """MLflow writes down where all came from, which nobody reads."""
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
    """Logs what `save_model` wrote as a model of a run, of this name; its id.

    It is then at runs:/RUN_ID/NAME and models:/ID. `folder` is told both ids. If it cannot be uploaded the model is
    marked as FAILED, as is one that an earlier process did not live to upload. Raises TrackingError.
    """
    client = client_of(uri)
    with sentences(uri):
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        run = client.get_run(run_id)
        _give_up_begun(client, run)
        origin = {
            key: text for key, text in run.data.tags.items() if key.startswith(("mlflow.source.", tag_names.USER))
        }
        logged = client.create_logged_model(
            run.info.experiment_id, name, run_id, tags={**origin, **(tags or {})}, params=dict(params or {})
        )
        status = "FAILED"
        try:
            _tell_ids(folder, name, run_id, logged)
            client.log_model_artifacts(logged.model_id, str(folder))
            client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
            status = "READY"
        finally:
            # Where the store is away, the first error is the one to tell.
            with suppress(Exception) if status == "FAILED" else nullcontext():
                client.finalize_logged_model(logged.model_id, LoggedModelStatus(status))
        return logged.model_id


def _give_up_begun(client: MlflowClient, run: Run) -> None:
    """Marks models of the run as FAILED whose upload was killed: one process at a time logs models to a run."""
    found = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    for model in found:
        if str(model.status) == "PENDING":
            client.finalize_logged_model(model.model_id, "FAILED")


def _tell_ids(folder: Path, name: str, run_id: str, logged: LoggedModel) -> None:
    """What MLflow's own `Model.log` has in the file that describes the model."""
    from mlflow.models import Model

    model = Model.load(str(folder))
    model.artifact_path, model.run_id = name, run_id
    model.model_id = model.model_uuid = logged.model_id
    model.save(str(folder / "MLmodel"))


def register(
    uri: str, name: str, run_id: str, model_id: str, tags: Mapping[str, str], description: str | None = None
) -> str:
    """Registers the model of a run that `log_model` logged; the number of the version, which `description` is of.

    A run is registered once under a name: if it is already, that version is given. Raises TrackingError.
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
        if first != str(made):  # somebody else was at it
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
    """The versions of a run, the first first."""
    found = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return sorted((str(entry.version) for entry in found), key=int)


def _source(client: MlflowClient, uri: str, model_id: str) -> str:
    """A server knows models by id. The library, where it opens a database itself, would look for that id in the store
    that is this process's default, which may be another: it is told where the model lies."""
    if uri.startswith(("http://", "https://")):
        return f"models:/{model_id}"
    return client.get_logged_model(model_id).artifact_location


def _note_version(client: MlflowClient, model_id: str, name: str, version: str) -> None:
    """So that the UI shows with the model under which name it is registered. A server does it by itself."""
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

    known = json.loads(client.get_logged_model(model_id).tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
    entry = {"name": name, "version": int(version)}
    if entry not in known:
        client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: json.dumps([*known, entry])})
