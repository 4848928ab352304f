"""Sends a request to a cluster through Ray Jobs, and shows what the job says."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from glow.datasets.names import absolute_dataset, dataset_label
from jobs.cluster.client import Cluster
from jobs.cluster.entry import REQUEST_FILE
from jobs.cluster.preflight import CHECK_FILE
from jobs.display.displays import Display
from jobs.display.events import Checked, Show, Submitted
from jobs.display.wire import sent_event
from jobs.errors import FAILURE, TERMINATED, USAGE, JobError
from jobs.specs.request import Request
from jobs.specs.training import TrainSpec
from jobs.tracking import given_tracking_uri, source_tags, tag_names

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from jobs.text import JsonObject

__all__ = ["OUTPUT", "check", "exit_code", "follow", "seen_by", "submit"]

CHECK_PATIENCE_S = 120.0

OUTPUT: str = TrainSpec.model_fields["output"].default


def submit(request: Request, display: Display, address: str, detach: bool = False) -> int:
    """Has a cluster do a request; returns the exit code.

    Everything that can be wrong with the cluster is looked for first. Then the job goes on by itself, whatever becomes
    of this process, which shows it until it ends or, with `detach`, says its id and leaves it.

    Raises:
        JobError: for a cluster that cannot take the job.
    """
    cluster = Cluster(address)
    request, files = sent(request)
    for problem in check(cluster, request.setting("output") or OUTPUT, request.setting("tracking_uri")).problems:
        raise JobError(problem)
    files[REQUEST_FILE] = request.model_dump_json(indent=2)
    about = {tag_names.TITLE: request.title, **source_tags()}
    job = cluster.submit("jobs.cluster.entry", _name(request), files, about)
    with display as show:
        show(Submitted(job, address, detach))
        return 0 if detach else follow(cluster, job, show)


def follow(cluster: Cluster, job: str, show: Show) -> int:
    """Shows a job's events until it ends, and its other lines on standard error; the exit code."""
    return exit_code(cluster.follow(job, seen_by(show)))


def seen_by(show: Show) -> Callable[[str], None]:
    """Takes the lines of a job."""

    def see(line: str) -> None:
        event = sent_event(line)
        if event is not None:
            show(event)
        elif not _is_rays(line):
            print(line, file=sys.stderr, flush=True)

    return see


def exit_code(job: JobDetails) -> int:
    """What a job that has ended came to: its own code, 143 if it was stopped.

    Raises JobError for a job that never ran, or whose process died.
    """
    if job.status.value == "SUCCEEDED":
        return 0
    if job.status.value == "STOPPED":
        return TERMINATED
    code = job.driver_exit_code
    if code in (FAILURE, USAGE):
        return int(code)
    died = f"its process died with code {code}" if code else (job.message or "Ray does not say why").splitlines()[0]
    raise JobError(f"job {job.submission_id} failed: {died}; glowctl logs {job.submission_id} has what it wrote")


def check(cluster: Cluster, output: str, tracking_uri: str | None) -> Checked:
    """What a job on the cluster finds there (`jobs.cluster.preflight`)."""
    asked = json.dumps({"output": output, "tracking_uri": tracking_uri})
    job = cluster.submit("jobs.cluster.preflight", "check", {CHECK_FILE: asked}, {tag_names.TITLE: "check"})
    try:
        done = cluster.wait(job, CHECK_PATIENCE_S)
        lines = [line for line in cluster.log(job) if line.strip()]
    finally:
        cluster.forget(job)
    found = next((event for line in lines if isinstance(event := sent_event(line), Checked)), None)
    if found is None:
        last = lines[-1] if lines else (done.message or "it says nothing")
        raise JobError(f"the cluster at {cluster.address} cannot run glowctl: {last.strip().splitlines()[0]}")
    return found


def sent(request: Request) -> tuple[Request, dict[str, str | Path]]:
    """The request as another machine understands it, and the files that it needs there: relative paths, other than
    outputs, are made absolute, the tracking URI is this machine's if one is set, and images are sent along."""
    files: dict[str, str | Path] = {}
    asked = request.model_dump(mode="json")
    asked["specs"] = {job: _sent_settings(settings, files) for job, settings in asked["specs"].items()}
    asked["changes"] = _sent_settings(asked["changes"], files)
    return Request.model_validate(asked), files


def _sent_settings(settings: JsonObject, files: dict[str, str | Path]) -> JsonObject:
    if "train" in settings:
        return {**settings, "train": _sent_settings(settings["train"], files)}
    told = dict(settings)
    uri = given_tracking_uri(told.get("tracking_uri"))
    if uri is not None:
        told["tracking_uri"] = uri
    for name in ("dataset", "trained_on", "source"):
        if told.get(name):
            told[name] = absolute_dataset(told[name])
    for name in ("datasets", "ood_datasets"):
        if told.get(name):
            told[name] = [absolute_dataset(dataset) for dataset in told[name]]
    for name in ("data_root", "dest"):
        if told.get(name) and "://" not in told[name]:
            told[name] = str(Path(told[name]).expanduser().absolute())
    if told.get("model") and Path(told["model"]).expanduser().is_dir():
        told["model"] = str(Path(told["model"]).expanduser().absolute())
    for name in ("from_image", "to_image"):
        if told.get(name):
            image = Path(told[name]).expanduser()
            if not image.is_file():
                raise JobError(f"there is no image {image}")
            sent_as = f"images/{name}{image.suffix}"
            files[sent_as], told[name] = image, sent_as
    return told


def _name(request: Request) -> str:
    """Of a job: what it does, and on which data."""
    parts = [request.do.split("_")[0], *([dataset_label(request.dataset)] if request.dataset else [])]
    return re.sub(r"[^A-Za-z0-9-]+", "-", "-".join(parts))


def _is_rays(line: str) -> bool:
    """Lines that Ray's own start and end write into a job's log, which say nothing to the user."""
    return not line.strip() or line.startswith("Running entrypoint for job") or "\tINFO " in line
