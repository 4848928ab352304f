"""Send a request to a cluster as a Ray job, and show the job's progress.

`submit` checks the cluster, rewrites the request so that it means the same on the cluster (`sent`), and follows the job
to its end.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from glow.datasets.names import absolute_dataset, dataset_label
from glowctl.cluster.client import CHECK, Cluster
from glowctl.cluster.entry import REQUEST_FILE
from glowctl.cluster.preflight import CHECK_FILE
from glowctl.display.displays import Display, forgiving, sent_event
from glowctl.display.events import Checked, Show, Submitted
from glowctl.errors import FAILURE, TERMINATED, USAGE, JobError
from glowctl.specs.request import Request
from glowctl.specs.training import TrainSpec
from glowctl.tracking import tag_names
from glowctl.tracking.record import source_tags
from glowctl.tracking.uris import given_tracking_uri

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from glowctl.text import JsonObject

CHECK_PATIENCE_S = 120.0
"""Longest wait in seconds for the check of a cluster."""

OUTPUT: str = TrainSpec.model_fields["output"].default
"""The output of requests that name none."""


def submit(request: Request, display: Display, address: str, detach: bool = False) -> int:
    """Submit a request to a cluster, and show the job until it ends.

    The cluster is checked first. Once submitted, the job does not depend on this process.

    Args:
        request: what to do.
        display: shows the events.
        address: address of the cluster's dashboard.
        detach: whether to show the job's id and return without waiting until the job ends.

    Returns:
        The exit code of the command.

    Raises:
        JobError: if the cluster cannot run the job, or the connection to it is lost.
    """
    cluster = Cluster(address)
    request, files = sent(request)
    for problem in check(cluster, request.setting("output") or OUTPUT, request.setting("tracking_uri")).problems:
        raise JobError(problem, code="cluster-unusable")
    files[REQUEST_FILE] = request.model_dump_json(indent=2)
    about = {tag_names.TITLE: request.title, **source_tags()}
    job = cluster.submit("glowctl.cluster.entry", _name(request), files, about)
    with display as show:
        show = forgiving(show)  # a closed pipe ends no job on this machine, so none on a cluster
        show(Submitted(job, address, detach))
        return 0 if detach else follow(cluster, job, show)


def follow(cluster: Cluster, job: str, show: Show) -> int:
    """Show a job's events until it ends, with its other lines on standard error, and return its exit code.

    Raises:
        JobError: if the connection is lost, the cluster has no such job, the job never ran, or its process died.
    """
    return exit_code(cluster.follow(job, seen_by(show)))


def seen_by(show: Show) -> Callable[[str], None]:
    """Return a function to call with each line of a job's output.

    It passes an event to `show`, drops Ray's own lines, and prints any other line to standard error.
    """

    def see(line: str) -> None:
        event = sent_event(line)
        if event is not None:
            show(event)
        elif not _is_rays(line):
            print(line, file=sys.stderr, flush=True)

    return see


def exit_code(job: JobDetails) -> int:
    """Return the exit code of a job that has ended: its own, or 143 if it was stopped.

    Raises:
        JobError: if the job never ran, or its process died.
    """
    if job.status.value == "SUCCEEDED":
        return 0
    if job.status.value == "STOPPED":
        return TERMINATED
    code = job.driver_exit_code
    if code in (FAILURE, USAGE):
        return int(code)
    died = f"its process died with code {code}" if code else (job.message or "Ray gives no reason").splitlines()[0]
    raise JobError(
        f"job {job.submission_id} failed ({died})",
        remedy=f"see its output with glowctl logs {job.submission_id}",
        code="job-failed",
    )


def check(cluster: Cluster, output: str, tracking_uri: str | None) -> Checked:
    """Run `glowctl.cluster.preflight` as a small job on a cluster, and return its result.

    Raises:
        JobError: if the cluster cannot run that job.
    """
    asked = json.dumps({"output": output, "tracking_uri": tracking_uri})
    job = cluster.submit("glowctl.cluster.preflight", CHECK, {CHECK_FILE: asked}, {tag_names.TITLE: CHECK})
    try:
        done = cluster.wait(job, CHECK_PATIENCE_S)
        lines = [line for line in cluster.log(job) if line.strip()]
    finally:
        cluster.forget(job)
    found = next((event for line in lines if isinstance(event := sent_event(line), Checked)), None)
    if found is None:
        last = lines[-1] if lines else (done.message or "no output")
        raise JobError(
            f"the cluster at {cluster.address} cannot run glowctl ({last.strip().splitlines()[0]})",
            remedy="install the project on all its machines",
            code="cluster-unusable",
        )
    return found


def sent(request: Request) -> tuple[Request, dict[str, str | Path]]:
    """Return a request with the same meaning on another machine, and the files to send with it.

    Relative paths become absolute paths, except the output, which stays relative to the cluster's storage. If a
    tracking URI is given, or set on this machine as $MLFLOW_TRACKING_URI, it is part of the request. The files to send
    are the images of ``glowctl interpolate``.

    Raises:
        JobError: if a path of such an image is not a file.
    """
    files: dict[str, str | Path] = {}
    asked = request.model_dump(mode="json")
    asked["specs"] = {job: _sent_settings(settings, files) for job, settings in asked["specs"].items()}
    asked["changes"] = _sent_settings({"tracking_uri": None, **asked["changes"]}, files)
    return Request.model_validate(asked), files


def _sent_settings(settings: JsonObject, files: dict[str, str | Path]) -> JsonObject:
    if "train" in settings:
        return {**settings, "train": _sent_settings(settings["train"], files)}
    told = dict(settings)
    if "tracking_uri" in told:  # `glowctl pack` records nothing in MLflow, so its settings have none
        told["tracking_uri"] = given_tracking_uri(told["tracking_uri"])
    for name in ("dataset", "trained_on", "source"):
        if told.get(name):
            told[name] = absolute_dataset(told[name])
    for name in ("datasets", "ood_datasets"):
        if told.get(name):
            told[name] = [absolute_dataset(dataset) for dataset in told[name]]
    if str(told.get("encoder")).startswith("file:"):
        told["encoder"] = f"file:{Path(told['encoder'].removeprefix('file:')).expanduser().absolute()}"
    for name in ("data_root", "dest", "encoder_weights"):
        if told.get(name) and "://" not in told[name]:
            told[name] = str(Path(told[name]).expanduser().absolute())
    for name in ("model", "background_model"):
        if told.get(name) and Path(told[name]).expanduser().is_dir():
            told[name] = str(Path(told[name]).expanduser().absolute())
    for name in ("from_image", "to_image"):
        if told.get(name):
            image = Path(told[name]).expanduser()
            if not image.is_file():
                raise JobError(
                    f"{'--from' if name == 'from_image' else '--to'} {image} is not a file",
                    remedy="correct the path",
                    code="image-not-found",
                )
            sent_as = f"images/{name}{image.suffix}"
            files[sent_as], told[name] = image, sent_as
    return told


def _name(request: Request) -> str:
    """Return the start of a job's id: what it does, and on which data."""
    parts = [request.do, *([dataset_label(request.dataset)] if request.dataset else [])]
    return re.sub(r"[^A-Za-z0-9-]+", "-", "-".join(parts))


def has_trials(job: str) -> bool:
    """Return whether a job, given by its id, trains the trials of an ablation, which a terminal shows as a table.

    Examples:
        >>> has_trials("resume-ablation-1a2b"), has_trials("resume-training-1a2b")
        (True, False)
    """
    return job.startswith(("ablate-", "resume-ablation-", "demo-"))


def _is_rays(line: str) -> bool:
    """Return whether Ray wrote this line of a job's log, about its own start and end."""
    return not line.strip() or line.startswith("Running entrypoint for job") or "\tINFO " in line
