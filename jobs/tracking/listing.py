"""Queries of the commands that browse a store, such as `glowctl runs` and `glowctl show`.

They never create a store or an experiment. `jobs.tracking.queries` has the queries of jobs that also write.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypedDict

from jobs.system.verbosity import unheeded
from jobs.tracking import tag_names
from jobs.tracking.dead_runs import mark_dead
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
"""Number of runs per request."""


def experiment_names(uri: str, experiment: str | None = None) -> dict[str, str]:
    """Return the names of experiments, and mark RUNNING runs in them as FAILED if their driver has died.

    Args:
        uri: the store, which must exist.
        experiment: name of one experiment, or None for all.

    Returns:
        Id of the experiment -> its name.

    Raises:
        TrackingError: if the store or the experiment does not exist.
    """
    check_existing(uri)
    client = client_of(uri)
    with sentences(uri):
        known = {found.experiment_id: found.name for found in every(client.search_experiments)}
        if experiment is not None:
            chosen = {key: name for key, name in known.items() if name == experiment}
            if not chosen:
                names = ", ".join(repr(name) for name in known.values())
                raise TrackingError(
                    f"there is no experiment {experiment!r} in {without_password(uri)}",
                    remedy=f"choose an --experiment that exists: {names}",
                    code="experiment-not-found",
                )
            known = chosen
        for experiment_id in known:
            mark_dead(client, experiment_id)
        return known


def newest_runs(
    uri: str, experiments: Collection[str], jobs: Collection[str], limit: int, trials: bool = False
) -> list[Run]:
    """Return the newest runs of glowctl, the newest first.

    Args:
        uri: the store.
        experiments: ids of the experiments to search.
        jobs: kinds of jobs to return, such as "train"; all kinds if empty.
        limit: largest number of runs to return.
        trials: whether to return the trials of ablations too.
    """
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
    """Return the newest run with this name, or else the run whose id begins with these characters.

    Args:
        uri: the store.
        experiments: ids of the experiments to search.
        given: a name, an id, or at least four characters that an id begins with.

    Raises:
        NoSuchRun: if there is no such run.
        TrackingError: if several ids begin with these characters.
    """
    found = first_match(client_of(uri), uri, experiments, given)
    if found is None:
        raise NoSuchRun(
            f"no run {given!r} in {without_password(uri)}",
            remedy="list the runs with glowctl runs",
            code="run-not-found",
        )
    return found


class RegisteredModel(TypedDict):
    """A version of a registered model, as `glowctl show --json` prints it.

    Attributes:
        name: name of the registered model, such as "glow-mnist".
        version: number of the version.
        aliases: aliases of this version, such as "champion", sorted.
    """

    name: str
    version: str
    aliases: list[str]


def registered_models(uri: str, run_id: str) -> list[RegisteredModel]:
    """Return the registered versions of a run's model, sorted by name and version."""
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
    """Return the names at the top level of a run's artifacts; those of folders end with /.

    The list is empty if the artifacts cannot be reached.
    """
    client = client_of(uri)
    with unheeded(log, f"cannot list the artifacts of run {run_id}"):  # clients of buckets raise errors of many types
        return [entry.path + ("/" if entry.is_dir else "") for entry in client.list_artifacts(run_id)]
    return []


def json_table(uri: str, run_id: str, path: str) -> tuple[list[str], list[list[Any]]] | None:
    """Return the column names and the rows of a table that `Record.table` wrote.

    The result is None if the table is gone or damaged, or if the artifacts cannot be reached.
    """
    content = None
    with unheeded(log, f"cannot read {path} of run {run_id}", TrackingError):  # the rest of the run can still be shown
        content = read_artifact(uri, run_id, path)
    with suppress(ValueError, KeyError, TypeError):
        told = json.loads(content or b"")
        return [str(name) for name in told["columns"]], [list(row) for row in told["data"]]
    return None
