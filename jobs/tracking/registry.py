"""MLflow's registry of models: versions of a name, and which of them is called champion."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.tracking.store import client_of, sentences

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

__all__ = ["ALIAS", "Champion", "crown"]

ALIAS = "champion"

SCORE_TAG = "glow.validation_bits_per_dim"
IMAGES_TAG = "glow.validation_images"


@dataclass(frozen=True)
class Champion:
    """The version that bears the alias: a new one, or one that was better already."""

    name: str
    version: str
    run_id: str
    new: bool

    @property
    def uri(self) -> str:
        return f"models:/{self.name}@{ALIAS}"


def crown(uri: str, name: str, run_id: str, path: str, validation_bits_per_dim: float, images: str) -> Champion:
    """Registers the model that a run holds at `path`, and gives it the alias.

    A present champion that scored lower on the same validation images (`images` is their fingerprint) keeps it. A run
    is registered once. Raises TrackingError.
    """
    from mlflow.exceptions import MlflowException

    client = client_of(uri)
    with sentences(uri):
        with suppress(MlflowException):  # it exists
            client.create_registered_model(name, description="Glow models by `glowctl ablate`.")
        present = _present(client, name)
        if present is not None and present.run_id != run_id and _is_better(present, validation_bits_per_dim, images):
            return Champion(name, present.version, present.run_id, new=False)
        version = _registered(client, name, run_id)
        if version is None:
            source = f"{client.get_run(run_id).info.artifact_uri}/{path}"
            tags = {SCORE_TAG: repr(validation_bits_per_dim), IMAGES_TAG: images}
            version = client.create_model_version(name, source, run_id, tags=tags)
        client.set_registered_model_alias(name, ALIAS, version.version)
        return Champion(name, version.version, run_id, new=True)


def _present(client: MlflowClient, name: str) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):
        return client.get_model_version_by_alias(name, ALIAS)
    return None


def _registered(client: MlflowClient, name: str, run_id: str) -> ModelVersion | None:
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return versions[0] if versions else None


def _is_better(version: ModelVersion, bits_per_dim: float, images: str) -> bool:
    return version.tags.get(IMAGES_TAG) == images and float(version.tags.get(SCORE_TAG, "inf")) < bits_per_dim
