"""MLflow's model registry: versions of registered models, and their aliases.

Every training registers its model as a version of glow-DATASET. Ablations give the alias `champion` to the version
with the lowest validation score (`set_champion`), and users give any alias with `glowctl promote` (`promote`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glowctl.tracking import metric_names, tag_names
from glowctl.tracking.models import register
from glowctl.tracking.pages import with_infinities
from glowctl.tracking.runs import find_run, model_of
from glowctl.tracking.store import check_existing, client_of, if_known, sentences
from glowctl.tracking.uris import NoSuchRun, TrackingError, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
"""Alias of the version with the best validation score of the ablations."""

LATEST = "latest"
"""Alias that MLflow itself keeps at the newest version, so that it cannot be given."""


@dataclass(frozen=True)
class Champion:
    """The version that has the alias `champion`.

    Attributes:
        name: name of the registered model.
        version: number of the version.
        run_id: the run that trained it.
        new: whether `set_champion` has just given it the alias.
        scored_lower: whether `set_champion` left the alias with this version, because this version scored lower than
            the new model on the same validation images.
    """

    name: str
    version: str
    run_id: str
    new: bool
    scored_lower: bool = False

    @property
    def uri(self) -> str:
        """The MLflow URI that names the version by its alias `champion`."""
        return f"models:/{self.name}@{CHAMPION}"


@dataclass(frozen=True)
class Version:
    """A registered version and the run that trained it.

    Attributes:
        name: name of the registered model.
        version: number of the version.
        aliases: its aliases, sorted.
        run: name of the run, or None if the run was deleted.
        run_id: id of the run.
        validation_bits_per_dim: score on the validation images, or None if the version has none.
        test_bits_per_dim: score on the test images, or None if the run has none or was deleted.
        created: when it was registered, in seconds since 1970.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    run: str | None
    run_id: str
    validation_bits_per_dim: float | None
    test_bits_per_dim: float | None
    created: float

    @property
    def uri(self) -> str:
        """The MLflow URI that names the version by its number."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class Promotion:
    """An alias that was given to a version.

    Attributes:
        name: name of the registered model.
        version: number of the version that has the alias now.
        alias: the alias.
        before: number of the version that had the alias before, or None.
    """

    name: str
    version: str
    alias: str
    before: str | None

    @property
    def uri(self) -> str:
        """The MLflow URI that names the version by the alias."""
        return f"models:/{self.name}@{self.alias}"


def set_champion(uri: str, name: str, run_id: str, validation_bits_per_dim: float, images: str) -> Champion:
    """Give the model of a run the alias `champion`, unless the present champion is better.

    The present champion is better if it scored lower on the same validation images. If it was scored on other images,
    the scores are not compared, and the model of the run gets the alias.

    Args:
        uri: the store.
        name: name of the registered model.
        run_id: the run that trained the model.
        validation_bits_per_dim: the model's score on the validation images.
        images: fingerprint of the validation images.

    Returns:
        The version that has the alias now.

    Raises:
        TrackingError: if the store fails, or the run has no model.
    """
    client = client_of(uri)
    with sentences(uri):
        present = _bearer(client, name, CHAMPION)
        if present is not None and present.run_id != run_id and _is_better(present, validation_bits_per_dim, images):
            return Champion(name, str(present.version), present.run_id or "", new=False, scored_lower=True)
        model = model_of(client, client.get_run(run_id))
        if model is None:
            raise TrackingError(
                f"run {run_id} has no model in {without_password(uri)}",
                remedy="repeat its training, which logs the model at its end",
                code="model-missing",
            )
        tags = {tag_names.SCORE: repr(validation_bits_per_dim), tag_names.IMAGES: images}
        version = register(uri, name, run_id, model.model_id, tags)
        client.set_registered_model_alias(name, CHAMPION, version)
        return Champion(name, version, run_id, new=True)


def present_champion(uri: str, name: str) -> Champion | None:
    """Return the version of a registered model that has the alias `champion`, or None if none has."""
    with sentences(uri):
        present = _bearer(client_of(uri), name, CHAMPION)
    return None if present is None else Champion(name, str(present.version), present.run_id or "", new=False)


def promote(uri: str, experiment: str, model: str, alias: str) -> Promotion:
    """Give an alias to a version. A version of the same model that had the alias loses it.

    Args:
        uri: the store, which must exist.
        experiment: the experiment to look in if `model` names a run.
        model: NAME/VERSION or NAME@ALIAS, with or without "models:/", or the id or name of the run that trained it.
        alias: the alias: letters, digits, - and _.

    Raises:
        TrackingError: if MLflow does not allow the alias, or there is no such model.
    """
    if alias.lower() == LATEST:
        raise TrackingError(
            f"the alias {LATEST} always belongs to the newest version",
            remedy="choose another alias",
            code="alias-reserved",
        )
    if re.fullmatch(r"(?!v\d+$)[\w-]+", alias, re.ASCII | re.IGNORECASE) is None:
        raise TrackingError(
            f"{alias!r} cannot be an alias",
            remedy="use letters, digits, - and _, but not v followed by a number, which MLflow reads as a version",
            code="alias-invalid",
        )
    check_existing(uri, writes=True)
    client = client_of(uri)
    version = _version_of(client, uri, experiment, model)
    with sentences(uri):
        before = _bearer(client, version.name, alias)
        client.set_registered_model_alias(version.name, alias, version.version)
    return Promotion(version.name, str(version.version), alias, None if before is None else str(before.version))


def describe(uri: str, run_id: str, text: str) -> None:
    """Make a text, in Markdown, the description of every registered version of a run's model."""
    client = client_of(uri)
    with sentences(uri):
        for version in client.search_model_versions(f"run_id = '{run_id}'"):
            client.update_model_version(version.name, version.version, text)


def registered_versions(uri: str, name: str | None = None, limit: int = 100) -> list[Version]:
    """Return the newest registered versions, the newest first.

    Args:
        uri: the store, which must exist.
        name: name of one registered model; None for all that trainings of glowctl registered.
        limit: the most versions to return.
    """
    check_existing(uri)
    client = client_of(uri)
    with sentences(uri):
        wanted = f"name = '{_quoted(name)}'" if name is not None else f"tags.`{tag_names.SCORE}` LIKE '%'"
        found = client.search_model_versions(wanted, max_results=limit, order_by=["creation_timestamp DESC"])
        aliases = {name: client.get_registered_model(name).aliases for name in {version.name for version in found}}
        return [_told(client, version, aliases[version.name]) for version in found]


def _told(client: MlflowClient, version: ModelVersion, aliases: dict[str, str]) -> Version:
    run = None
    with if_known():  # it may have been deleted
        run = with_infinities(client.get_run(version.run_id or ""))
    number = str(version.version)
    score = version.tags.get(tag_names.SCORE)
    return Version(
        version.name,
        number,
        tuple(sorted(alias for alias, of in aliases.items() if str(of) == number)),
        run.info.run_name if run else None,
        version.run_id or "",
        float(score) if score is not None else None,
        run.data.metrics.get(metric_names.TEST) if run else None,
        version.creation_timestamp / 1000,
    )


def _version_of(client: MlflowClient, uri: str, experiment: str, model: str) -> ModelVersion:
    named = re.fullmatch(r"(?:models:/)?([^/@:]+)([/@])([^/@]+)", model)
    if named is not None:
        name, kind, which = named.groups()
        with sentences(uri), if_known():
            if kind == "@":
                return client.get_model_version_by_alias(name, which)
            return client.get_model_version(name, which)
    try:
        run_id = find_run(uri, experiment, model).info.run_id
    except NoSuchRun:
        raise TrackingError(
            f"no model and no run {model!r} in {without_password(uri)}",
            remedy="give NAME/VERSION, as glowctl models lists them",
            code="model-not-found",
        ) from None
    with sentences(uri):
        versions = client.search_model_versions(f"run_id = '{run_id}'")
    if not versions:
        raise TrackingError(
            f"run {model!r} registered no model",
            remedy="choose a model that glowctl models lists",
            code="model-missing",
        )
    return versions[0]


def _bearer(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    with if_known():
        return client.get_model_version_by_alias(name, alias)
    return None


def _is_better(version: ModelVersion, bits_per_dim: float, images: str) -> bool:
    return (
        version.tags.get(tag_names.IMAGES) == images and float(version.tags.get(tag_names.SCORE, "inf")) < bits_per_dim
    )


def _quoted(name: str) -> str:
    return name.replace("'", "")
