"""The newest runs of a store, and what one run has beside its metrics."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypedDict

from jobs.system.verbosity import unheeded
from jobs.tracking import tag_names
from jobs.tracking.liveness import mark_dead
from jobs.tracking.pages import every, every_run
from jobs.tracking.queries import first_match, read_artifact
from jobs.tracking.store import NoSuchRun, TrackingError, check_existing, client_of, sentences, without_password

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = [
    "RegisteredModel",
    "artifact_names",
    "experiment_names",
    "json_table",
    "named_run",
    "newest_runs",
    "registered_models",
]

log = logging.getLogger(__name__)

JOB, TRIAL = tag_names.JOB, tag_names.TRIAL
PAGE = 200


def experiment_names(uri: str, experiment: str | None = None) -> dict[str, str]:
    """Id -> name, of one experiment or of all. Marks runs in them whose driver is gone. Makes neither a store nor an
    experiment: raises TrackingError if there is none."""
    check_existing(uri)
    client = client_of(uri)
    with sentences(uri):
        known = {found.experiment_id: found.name for found in every(client.search_experiments)}
        if experiment is not None:
            chosen = {key: name for key, name in known.items() if name == experiment}
            if not chosen:
                names = ", ".join(repr(name) for name in known.values())
                raise TrackingError(f"there is no experiment {experiment!r} in {without_password(uri)}, only {names}")
            known = chosen
        for experiment_id in known:
            mark_dead(client, experiment_id)
        return known


def newest_runs(
    uri: str, experiments: Collection[str], jobs: Collection[str], limit: int, trials: bool = False
) -> list[Run]:
    """Runs of glowctl, the newest first, without trials of ablations unless `trials`; `experiments` are ids. Of all
    jobs if `jobs` is empty."""
    found: list[Run] = []
    with sentences(uri):
        for run in every_run(client_of(uri), experiments, f"tags.`{JOB}` LIKE '%'", page=PAGE):
            tags = run.data.tags
            if (trials or TRIAL not in tags) and (not jobs or tags[JOB] in jobs):
                found.append(run)
            if len(found) == limit:
                break
    return found


def named_run(uri: str, experiments: Collection[str], given: str) -> Run:
    """The newest run of this name, or the one whose id begins so. Raises NoSuchRun if there is none, and TrackingError
    if several ids begin so."""
    found = first_match(client_of(uri), uri, experiments, given)
    if found is None:
        raise NoSuchRun(f"no run {given!r} in {without_password(uri)}: glowctl runs lists them")
    return found


class RegisteredModel(TypedDict):
    """A version of a model in the registry."""

    name: str
    version: str
    aliases: list[str]


def registered_models(uri: str, run_id: str) -> list[RegisteredModel]:
    """The versions of models in the registry that are of a run."""
    client = client_of(uri)
    with sentences(uri):
        found = client.search_model_versions(f"run_id = '{run_id}'")
        aliases = {version.name: client.get_registered_model(version.name).aliases for version in found}
    return [
        {
            "name": version.name,
            "version": str(version.version),
            "aliases": sorted(a for a, number in aliases[version.name].items() if str(number) == str(version.version)),
        }
        for version in sorted(found, key=lambda version: (version.name, int(version.version)))
    ]


def artifact_names(uri: str, run_id: str) -> list[str]:
    """What lies at the top of a run's artifacts, folders with a / at the end. Empty if they cannot be reached."""
    client = client_of(uri)
    with unheeded(log, f"the artifacts of run {run_id} are not listed"):  # a bucket's client raises what it likes
        return [entry.path + ("/" if entry.is_dir else "") for entry in client.list_artifacts(run_id)]
    return []


def json_table(uri: str, run_id: str, path: str) -> tuple[list[str], list[list[Any]]] | None:
    """Column names and rows of a table that `Record.table` wrote. None if it is gone or damaged."""
    content = read_artifact(uri, run_id, path)
    with suppress(ValueError, KeyError, TypeError):
        told = json.loads(content or b"")
        return [str(name) for name in told["columns"]], [list(row) for row in told["data"]]
    return None
