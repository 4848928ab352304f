"""Queries for runs, their metrics and artifacts, and the models that trainings logged.

No query creates a store or an experiment.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
import urllib.parse
from collections.abc import Collection
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from glowctl.system.verbosity import unheeded
from glowctl.tracking.liveness import mark_dead
from glowctl.tracking.pages import every, every_run, unbounded, with_infinities
from glowctl.tracking.store import check_existing, check_store, client_of, if_known, look_into, sentences
from glowctl.tracking.tag_names import JOB, PARENT, PRUNED, TRIAL
from glowctl.tracking.uris import NoSuchRun, TrackingError, without_password

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, LoggedModel, Run

log = logging.getLogger(__name__)

SHORTEST_ID = 4
"""The least number of characters of its id by which a run can be named."""

ODD = r"['\\]"
"""Matches the characters that a filter with LIKE cannot contain."""

PAGE = 200
"""Number of runs per request of a list."""

MODEL = "model"
"""Name under which a training logs its model, as in runs:/RUN_ID/model."""


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


def experiment_runs(uri: str, experiment: str) -> list[Run]:
    """Return all runs of an experiment, the newest first, and mark those FAILED whose driver has died.

    Raises:
        TrackingError: if the store or the experiment does not exist, or the store cannot be written.
    """
    check_existing(uri, writes=True)  # a report is recorded, too
    chosen = experiment_names(uri, experiment)
    with sentences(uri):
        return list(every_run(client_of(uri), chosen))


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


def find_run(uri: str, experiment: str, given: str) -> Run:
    """Return the run that a user names.

    These are tried in order: the run with this id in any experiment; the newest run with this name in the experiment;
    the run in the experiment whose id begins with these characters.

    Args:
        uri: the store.
        experiment: name of the experiment.
        given: a name, an id, or at least four characters that an id begins with.

    Raises:
        NoSuchRun: if there is no such run, experiment or store; none is created.
        TrackingError: if several ids begin with these characters, or the store cannot be used.
    """
    client, experiment_id = look_into(uri, experiment)
    if client is not None:
        found = run_of_id(uri, given)
        if found is None and experiment_id is not None:
            found = _first_match(client, uri, [experiment_id], given)
        if found is not None and PRUNED in found.data.tags:
            raise NoSuchRun(
                f"run {given!r} was deleted by glowctl prune",
                remedy="list the runs that are left with glowctl runs",
                code="run-not-found",
            )
        if found is not None:
            return found
    without = "" if experiment_id is not None else ", which has no such experiment"
    raise NoSuchRun(
        f"no run {given!r} in experiment {experiment!r} of {without_password(uri)}{without}",
        remedy="list the runs with glowctl runs" + (", and choose their --experiment" if without else ""),
        code="run-not-found",
    )


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
    found = _first_match(client_of(uri), uri, experiments, given)
    if found is None:
        raise NoSuchRun(
            f"no run {given!r} in {without_password(uri)}",
            remedy="list the runs with glowctl runs",
            code="run-not-found",
        )
    return found


def _first_match(client: MlflowClient, uri: str, experiments: Collection[str], given: str) -> Run | None:
    """Return the newest run with this name, or else the run whose id begins with these characters.

    Args:
        client: client of the store.
        uri: the store.
        experiments: ids of the experiments to search.
        given: a name, an id, or at least four characters that an id begins with.

    Returns:
        The run, or None if there is none.

    Raises:
        TrackingError: if several ids begin with these characters.
    """
    with sentences(uri):
        named = _named(client, experiments, given)
        if named is not None or not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_ID},32}}", given.lower()):
            return named
        some = _newest(client, experiments, f"attributes.run_id LIKE '{given.lower()}%'", 2)
    if len(some) > 1:
        raise TrackingError(
            f"several runs have an id that begins with {given}",
            remedy="give more characters of the id",
            code="run-ambiguous",
        )
    return some[0] if some else None


def _named(client: MlflowClient, experiments: Collection[str], name: str) -> Run | None:
    """Return the newest run with this name, or None if there is none.

    MLflow's filters have no escapes. An apostrophe is therefore searched for as "_", which stands for any character.
    So is a backslash, which escapes the next character in some databases.
    """
    same = f"LIKE '{re.sub(ODD, '_', name)}'" if "'" in name else f"= '{name}'"
    found = every_run(client, experiments, f"attributes.run_name {same}", page=10)
    return next((run for run in found if run.info.run_name == name), None) if name else None


def run_of_id(uri: str, run_id: str) -> Run | None:
    """Return the run with this id, in any experiment, or None if there is none."""
    client = client_of(uri)
    with sentences(uri), if_known():
        return with_infinities(client.get_run(run_id))
    return None


def run_of_model(uri: str, given: str) -> Run | None:
    """Return the run that logged the model with this URI (models:/... or runs:/...), or None if `given` is no such URI.

    Raises:
        TrackingError: if the store has no such model.
        NoSuchRun: if the run of the model was deleted.
    """
    if not given.startswith(("models:", "runs:")):
        return None
    with sentences(uri):
        run_id = _artifact_of(client_of(uri), given)[1]
    found = run_of_id(uri, run_id or "")
    if found is None:
        raise NoSuchRun(
            f"the run of the model {given} is not in {without_password(uri)}",
            remedy="name a run that glowctl runs lists",
            code="run-not-found",
        )
    return found


def newest_run(uri: str, experiment: str, job: str) -> Run:
    """Return the newest finished run of one kind of job in the experiment.

    Raises:
        TrackingError: if there is none.
    """
    runs = _newest_in(uri, experiment, f"tags.`{JOB}` = '{job}' and attributes.status = 'FINISHED'")
    if not runs:
        raise TrackingError(
            f"no finished {job} run in experiment {experiment!r} of {without_password(uri)}",
            remedy=f"make one with glowctl {job}, choose another --experiment, or give --model the full id of a run",
            code="no-finished-run",
        )
    return runs[0]


def find_tagged(uri: str, experiment: str, tag: str) -> tuple[str, str] | None:
    """Return the id of the newest run with this tag in the experiment, and the tag's value; None if no run has it."""
    runs = _newest_in(uri, experiment, f"tags.`{tag}` LIKE '%'")
    return (runs[0].info.run_id, runs[0].data.tags[tag]) if runs else None


def _newest_in(uri: str, experiment: str, which: str) -> list[Run]:
    """Return the newest run of the experiment that a filter selects, in a list; an empty list if there is none."""
    client, experiment_id = look_into(uri, experiment)
    if client is None or experiment_id is None:
        return []
    with sentences(uri):
        return _newest(client, [experiment_id], which, 1)


def _newest(client: MlflowClient, experiments: Collection[str], which: str, number: int) -> list[Run]:
    return list(islice(every_run(client, experiments, which, page=number), number))


def child_runs(uri: str, parent: Run, *, pruned: bool = False) -> list[Run]:
    """Return the runs that are nested directly under a run, the oldest first.

    Args:
        uri: the store.
        parent: the run.
        pruned: whether to return runs too that `glowctl prune` has deleted, which keep their metrics in MLflow's trash.
    """
    client = client_of(uri)
    with sentences(uri):
        beneath = f"tags.`{PARENT}` = '{parent.info.run_id}'"
        found = every_run(client, [parent.info.experiment_id], beneath, "attributes.start_time ASC", deleted=pruned)
        return [run for run in found if run.info.lifecycle_stage == "active" or PRUNED in run.data.tags]


def page_of(uri: str, run: Run) -> str | None:
    """Return the address of a run's page in the MLflow UI, or None if the store is not an MLflow server."""
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        return None
    host = parts.netloc.rpartition("@")[2]  # without user and password
    return (
        f"{parts.scheme}://{host}{parts.path.rstrip('/')}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    )


def metric_history(uri: str, run_id: str, name: str) -> dict[int, float]:
    """Return a metric of a run as step -> value. Of several values at one step, the last counts."""
    with sentences(uri):
        return {point.step: unbounded(point.value) for point in client_of(uri).get_metric_history(run_id, name)}


def recorded_images(run: Run) -> dict[str, str]:
    """Return the fingerprints of a run's data sets by name, such as "mnist train"."""
    return {dataset.name: dataset.digest for dataset in _datasets(run)}


def recorded_sizes(run: Run) -> dict[str, tuple[int, ...]]:
    """Return the shapes (N, C, H, W) of a run's data sets by name. A data set of unknown shape is left out."""
    shapes = {}
    for dataset in _datasets(run):
        with suppress(ValueError, KeyError, TypeError):
            shapes[dataset.name] = tuple(json.loads(dataset.profile or "")["features_shape"])
    return shapes


def _datasets(run: Run) -> list[Dataset]:
    return [entry.dataset for entry in run.inputs.dataset_inputs] if run.inputs is not None else []


def artifact_names(uri: str, run_id: str) -> list[str]:
    """Return the names at the top level of a run's artifacts; those of folders end with /.

    The list is empty if the artifacts cannot be reached.
    """
    client = client_of(uri)
    with unheeded(log, f"cannot list the artifacts of run {run_id}"):  # clients of buckets raise errors of many types
        return [entry.path + ("/" if entry.is_dir else "") for entry in client.list_artifacts(run_id)]
    return []


def read_artifact(uri: str, run_id: str, path: str) -> bytes | None:
    """Return the content of an artifact of a run, or None if the run has no such file.

    Raises:
        TrackingError: if the store or the artifact cannot be reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = _downloaded(uri, run_id, path, folder)
        return file.read_bytes() if file is not None and file.is_file() else None


def read_table(uri: str, run_id: str, path: str) -> pd.DataFrame | None:
    """Return a Parquet artifact of a run as a table, or None if it is gone or damaged.

    Raises:
        TrackingError: if the store or the artifact cannot be reached.
    """
    import pandas as pd

    with tempfile.TemporaryDirectory() as folder:
        file = _downloaded(uri, run_id, path, folder)
        with suppress(OSError, ValueError):
            return None if file is None else pd.read_parquet(file)
    return None


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


def _downloaded(uri: str, run_id: str, path: str, folder: str) -> Path | None:
    """Download an artifact of a run into a folder, and return the path there; None if the run or the artifact is gone.

    The error of a download does not tell whether the artifact exists, because every kind of place raises another one.
    """
    client = client_of(uri)
    with sentences(uri):
        try:
            return Path(client.download_artifacts(run_id, path, folder))
        except Exception:
            above = path.rpartition("/")[0]
            names: set[str] = set()
            with if_known():
                names = {entry.path for entry in client.list_artifacts(run_id, above or None)}
            if path in names:
                raise
            return None


def model_id_of(uri: str, run: Run) -> str | None:
    """Return the id of the model that a training has logged, or None if it has logged none."""
    client = client_of(uri)
    with sentences(uri):
        model = model_of(client, run)
    return model.model_id if model else None


def model_of(client: MlflowClient, run: Run, name: str = MODEL) -> LoggedModel | None:
    """Return the newest completely uploaded model that a run logged as `name`, or None if there is none.

    Raises:
        MlflowException: if the store fails.
    """
    logged = [
        client.get_logged_model(output.model_id)
        for output in (run.outputs.model_outputs if run.outputs is not None else [])
    ]
    whole = [model for model in logged if model.name == name and str(model.status) == "READY"]
    return max(whole, key=lambda model: model.creation_timestamp, default=None)


def download_model(uri: str, model_uri: str, folder: str) -> tuple[Path, str | None]:
    """Download the model that a URI names.

    Args:
        uri: the store.
        model_uri: runs:/ID/PATH, models:/NAME/VERSION, models:/NAME@ALIAS, models:/m-ID, or the URI of a
            model's folder in a bucket.
        folder: an existing folder to download into.

    Returns:
        The path of the download in `folder`, and the id of the run that logged the model (None if it is unknown).

    Raises:
        TrackingError: if there is no such model.
    """
    from mlflow.artifacts import download_artifacts

    check_store(uri)
    client = client_of(uri)
    with sentences(uri):
        place, run_id = _artifact_of(client, model_uri)
        return Path(download_artifacts(artifact_uri=place, dst_path=folder, tracking_uri=uri)), run_id


def _artifact_of(client: MlflowClient, model_uri: str) -> tuple[str, str | None]:
    if found := re.fullmatch(r"runs:/([^/]+)/(.+)", model_uri):
        model = model_of(client, client.get_run(found[1]), found[2])
        return str(model.artifact_location) if model else model_uri, found[1]
    if found := re.fullmatch(r"models:/(m-[0-9a-f]+)", model_uri):
        model = client.get_logged_model(found[1])
        return model.artifact_location, model.source_run_id
    if found := re.fullmatch(r"models:/([^/@]+)@([^/@]+)", model_uri):
        version = client.get_model_version_by_alias(found[1], found[2])
    elif found := re.fullmatch(r"models:/([^/@]+)/([^/@]+)", model_uri):
        number = found[2]
        if number == "latest":
            every = client.search_model_versions(f"name = '{found[1]}'")
            number = max((entry.version for entry in every), key=int, default=number)
        version = client.get_model_version(found[1], number)
    elif model_uri.startswith("models:"):
        raise TrackingError(
            f"{model_uri} is not the URI of a model",
            remedy="write models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID/PATH",
            code="model-uri",
        )
    else:
        return model_uri, None
    return client.get_model_version_download_uri(version.name, version.version), version.run_id


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
