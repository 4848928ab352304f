"""Deletion of a run in MLflow, with its registered versions, its logged models and its files.

The order makes an interrupted deletion harmless. `begin_removal` marks the run, so that it is found again, and deletes
its versions, so that nobody loads a model whose files are gone. `remove_run` deletes the files, and at last the run.
MLflow moves the run to its trash: its metrics can be read until `mlflow gc`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from glowctl.tracking import tag_names
from glowctl.tracking.pages import every, every_run
from glowctl.tracking.store import client_of, sentences

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion

ENDED = ("FINISHED", "FAILED", "KILLED")
"""Statuses of a run that no process writes."""

OURS = ("glow.", "mlflow.")
"""How the names of tags begin that no user has given to a version."""


@dataclass(frozen=True)
class Registration:
    """The registered versions of the model of a run.

    Attributes:
        versions: such as ("glow-mnist/3",).
        use: why the versions must stay; None if nobody uses them.
    """

    versions: tuple[str, ...]
    use: str | None = None


def all_runs(uri: str, experiments: Collection[str]) -> list[Run]:
    """Return all runs of glowctl in these experiments, by id, the newest first."""
    with sentences(uri):
        return list(every_run(client_of(uri), experiments, f"tags.`{tag_names.JOB}` LIKE '%'"))


def registrations(uri: str, run_id: str | None = None) -> dict[str, Registration]:
    """Return the registered versions by the id of their run.

    Args:
        uri: the store.
        run_id: a run; None for all.
    """
    client = client_of(uri)
    found: dict[str, list[ModelVersion]] = defaultdict(list)
    with sentences(uri):
        for version in every(client.search_model_versions, None if run_id is None else f"run_id = '{run_id}'"):
            found[version.run_id or ""].append(version)
        names = {version.name for versions in found.values() for version in versions}
        aliases = {name: client.get_registered_model(name).aliases for name in names}
        newest = {name: _newest(client, name) for name in names}
    return {
        run: Registration(
            tuple(f"{version.name}/{version.version}" for version in versions), _use(versions, aliases, newest)
        )
        for run, versions in found.items()
    }


def _newest(client: MlflowClient, name: str) -> str:
    found = client.search_model_versions(f"name = '{name}'", max_results=1, order_by=["version_number DESC"])
    return str(found[0].version)


def _use(
    versions: Sequence[ModelVersion], aliases: Mapping[str, Mapping[str, Any]], newest: Mapping[str, str]
) -> str | None:
    """Return why a user may need the versions of a run; None if they are only what its training has registered."""
    if len(versions) > 1:
        return "its model was registered again"
    [version] = versions
    number, called = str(version.version), f"{version.name}/{version.version}"
    given = sorted(alias for alias, of in aliases[version.name].items() if str(of) == number)
    if given:
        return f"{called} has the alias {', '.join(given)}"
    if newest[version.name] == number:
        return f"{called} is the newest version"
    if version.last_updated_timestamp != version.creation_timestamp:
        return f"{called} was edited (description or stage)"
    own = sorted(tag for tag in version.tags if not tag.startswith(OURS))
    return f"{called} has the tag {', '.join(own)}" if own else None


def stored_bytes(uri: str, run: Run) -> int:
    """Return the size of the files that MLflow has of a run, with those of its logged models."""
    client = client_of(uri)
    with sentences(uri):
        places = [run.info.artifact_uri, *(model.artifact_location for model in _models(client, run))]
        return sum(_bytes_in(_files_at(uri, place)) for place in places)


def begin_removal(uri: str, run: Run, known: Collection[str]) -> str | None:
    """Mark a run as one that is deleted, and delete its registered versions, unless it is in use by now.

    Args:
        uri: the store.
        run: a run that was not in use a moment ago.
        known: ids of the evaluations of its model that are deleted with it.

    Returns:
        Why the run stays; None if its removal has begun.
    """
    client, run_id = client_of(uri), run.info.run_id
    with sentences(uri):
        now = client.get_run(run_id).info
        if now.lifecycle_stage == "deleted":
            return "another command has deleted it"
        evaluated = every_run(client, [run.info.experiment_id], f"tags.`{tag_names.TRAIN_RUN}` = '{run_id}'")
        if now.status not in ENDED or any(found.info.run_id not in known for found in evaluated):
            return "it is in use"
        client.set_tag(run_id, tag_names.PRUNED, str(int(time.time())))
        registered = registrations(uri, run_id).get(run_id, Registration(()))
        if registered.use is not None:
            client.delete_tag(run_id, tag_names.PRUNED)
            return registered.use
        for version in registered.versions:
            client.delete_model_version(*version.rsplit("/", 1))
    return None


def remove_run(uri: str, run: Run) -> None:
    """Delete the files of a run, its logged models, and the run."""
    client = client_of(uri)
    with sentences(uri):
        for model in _models(client, run):
            _files_at(uri, model.artifact_location).delete_artifacts()
            client.delete_logged_model(model.model_id)
        _files_at(uri, run.info.artifact_uri).delete_artifacts()
        client.delete_run(run.info.run_id)


def _models(client: MlflowClient, run: Run) -> Iterator[LoggedModel]:
    """Yield the models that a run has logged, those included of which not all was uploaded."""
    of_run = f"source_run_id = '{run.info.run_id}'"
    yield from list(every(client.search_logged_models, [run.info.experiment_id], of_run))


def _files_at(uri: str, place: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(place, tracking_uri=uri)


def _bytes_in(files: Any, folder: str | None = None) -> int:
    entries = files.list_artifacts(folder)
    return sum(_bytes_in(files, entry.path) if entry.is_dir else entry.file_size or 0 for entry in entries)
