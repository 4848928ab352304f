"""The commands for a Ray cluster and its jobs: ``glowctl jobs``, ``logs``, ``stop``, ``wait``, ``cluster``."""

from __future__ import annotations

import json as json_lib
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from glowctl.cluster.init import Kind, lines_to_edit, write_cluster_files
from glowctl.commands.ending import interruptible
from glowctl.commands.options import ClusterAddress, Json, TrackingUri, switch
from glowctl.errors import FAILURE, JobError, SpecError
from glowctl.tracking import tag_names

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from glowctl.cluster.client import Cluster
    from glowctl.display.events import Checked
    from glowctl.text import JsonObject

JobId = Annotated[str, typer.Argument(help="Id of a job, from the list of glowctl jobs.", metavar="JOB")]

CheckedOutput = Annotated[
    str, typer.Option(help="Folder or bucket for results, which the command checks. (e.g. --output s3://bucket/glow)")
]

PANEL = "Clusters"
SHOWN_JOBS = 20


def add_cluster_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    for command, example in (
        (jobs, "jobs --address http://localhost:8265"),
        (logs, "logs -f train-mnist-1a2b3c4d"),
        (stop, "stop train-mnist-1a2b3c4d"),
        (wait, "wait train-mnist-1a2b3c4d"),
    ):
        app.command(epilog=f"Example: glowctl {example}", rich_help_panel=PANEL)(command)
    cluster = typer.Typer(help="Set up a Ray cluster, or check one as a whole.", no_args_is_help=True)
    cluster.command(epilog="Example: glowctl cluster init aws --region eu-west-1 --storage s3://bucket/glow")(init)
    cluster.command(epilog="Example: glowctl cluster status --address http://localhost:8265")(status)
    app.add_typer(cluster, name="cluster", rich_help_panel=PANEL)


def jobs(
    address: ClusterAddress = None,
    every: Annotated[bool, switch("--all", f"List all jobs. Without it: the newest {SHOWN_JOBS}.")] = False,
    json: Json = False,
) -> None:
    """List the jobs of a cluster, the newest first."""
    cluster = _cluster(address)
    found = cluster.list_jobs()
    rows = [_listed(job) | _waits(cluster, job) for job in (found if every else found[:SHOWN_JOBS])]
    if json:
        for row in rows:
            typer.echo(json_lib.dumps(row))
        return
    from glowctl.text import duration, text_table

    if not rows:
        typer.echo("the cluster has run no jobs yet")
        return
    heads = ["job", "what", "by", "status", "started", "took"]
    cells = [
        [*(row[name] for name in ("job", "what", "user", "status", "started")), duration(row["seconds"])]
        for row in rows
    ]
    typer.echo(text_table([heads, *cells], left=5))
    for row in rows:
        if row["waits"]:
            typer.echo(f"{row['job']}: {row['waits']}")
    if len(rows) < len(found):
        typer.echo(f"and {len(found) - len(rows)} older: --all lists them")


def logs(
    job: Annotated[
        str,
        typer.Argument(
            help="Run, by its name, its id or its folder; or the id of a job of the cluster, from the list of glowctl "
            "jobs.",
            metavar="RUN",
        ),
    ],
    follow: Annotated[
        bool,
        switch(
            "--follow",
            "Show the lines so far, then new lines until the run or the job ends. The exit code is that of the job; "
            "that of a run is 0 if it finished, else 1.",
            short="-f",
        ),
    ] = False,
    address: ClusterAddress = None,
    json: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Show the log of a run, past or present, also if its cluster is gone; or the output of a job of a cluster."""
    from glowctl.system.environment import address_of

    missing: JobError | None = None
    if address_of(address) is not None:
        try:
            raise typer.Exit(_job_log(job, follow, address, json))
        except JobError as error:
            if error.code not in ("job-not-found", "cluster-does-not-answer"):
                raise
            missing = error
    if json:
        raise missing or SpecError(
            "--json shows the events of a job of a cluster, and no cluster is named",
            remedy="add its --address, or leave out --json to see the log of a run",
            code="no-cluster-named",
        )
    from glowctl.browse.logs import show_log
    from glowctl.tracking.uris import TrackingError

    try:
        raise typer.Exit(show_log(job, tracking_uri, follow))
    except TrackingError as error:
        raise missing or error from None


def _job_log(job: str, follow: bool, address: str | None, json: bool) -> int:
    """Show the output of a job of a cluster, and return the exit code of the command."""
    from glowctl.cluster.submission import follow as follow_job
    from glowctl.cluster.submission import has_trials, seen_by
    from glowctl.display.displays import make_display

    cluster = _cluster(address)
    with (
        interruptible(f"job {job} continues on the cluster" if follow else "stopped"),
        make_display("json" if json else "auto" if follow else "plain", table=follow and has_trials(job)) as show,
    ):
        if follow:
            code = follow_job(cluster, job, show)
        else:
            code, see = 0, seen_by(show)
            for line in cluster.log(job):
                see(line)
    return code


def wait(job: JobId, address: ClusterAddress = None) -> None:
    """Wait until a job has ended, print its final status, and exit with the exit code of the job."""
    from glowctl.cluster.submission import exit_code

    with interruptible(f"job {job} continues on the cluster"):
        done = _cluster(address).wait(job)
    code = exit_code(done)
    typer.echo(f"job {job} {_status(done)}")
    raise typer.Exit(code)


def stop(job: JobId, address: ClusterAddress = None) -> None:
    """Stop a job. Its runs in MLflow get the status KILLED; trainings and ablations can be resumed."""
    from glowctl.cluster.client import ended

    cluster = _cluster(address)
    before = cluster.info(job)
    already = ended(before)
    typer.echo(f"job {job} {_status(before)} already" if already else f"job {job} {_status(cluster.stop(job))}")


def status(
    address: ClusterAddress = None,
    output: CheckedOutput = "outputs",
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Show the machines, GPUs, jobs, tracking server and storage of a cluster, and every problem with them."""
    from glowctl.cluster.client import ended
    from glowctl.cluster.submission import check
    from glowctl.tracking.uris import given_tracking_uri

    cluster = _cluster(address)
    running = [_listed(job) for job in cluster.list_jobs() if not ended(job)]
    found = check(cluster, output, given_tracking_uri(tracking_uri))
    if json:
        facts = {"address": cluster.address, "ray": cluster.facts.ray, "python": cluster.facts.python}
        typer.echo(json_lib.dumps({**facts, "jobs": running, **asdict(found)}))
    else:
        _show_status(cluster, running, found)
    raise typer.Exit(FAILURE if found.problems else 0)


def init(
    kind: Annotated[
        Kind,
        typer.Argument(
            help="What makes the cluster: aws (ray up on AWS), local (ray up on machines that ssh reaches), or kuberay "
            "(kubectl).",
            metavar="KIND",
        ),
    ],
    to: Annotated[
        str, typer.Option(help="Folder for the files, which is made if it is new. (e.g. --to cluster)")
    ] = ".",
    region: Annotated[str | None, typer.Option(help="Region of AWS. (e.g. --region eu-west-1)")] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Place of checkpoints, results and MLflow's artifacts: a bucket, or for local a folder that all "
            "machines share. (e.g. --storage s3://bucket/glow)"
        ),
    ] = None,
    machine: Annotated[
        str | None, typer.Option(help="Type of the machines that work, on AWS. (e.g. --machine g6.xlarge)")
    ] = None,
    maximum: Annotated[
        int | None, typer.Option(help="Largest number of machines that work, on AWS and Kubernetes. (e.g. --maximum 8)")
    ] = None,
    package: Annotated[
        str | None,
        typer.Option(
            help="What pip installs on the machines. Without it: the version of glowctl on this machine, from PyPI. "
            "(e.g. --package git+https://github.com/OWNER/glow)"
        ),
    ] = None,
) -> None:
    """Write the files from which ray up or kubectl makes a cluster. No clone of the repository is needed."""
    from pathlib import Path

    given = {"region": region, "storage": storage, "machine": machine, "maximum": maximum}
    settings = {name: str(value) for name, value in given.items() if value is not None}
    first, *others = write_cluster_files(kind, Path(to), settings, package)
    for path in (first, *others):
        typer.echo(f"wrote {path}")
    edit = ", ".join(map(str, lines_to_edit(first)))
    typer.echo(f"next: read the comments of {first}" + (f", and set its lines marked EDIT: {edit}" if edit else ""))


def _show_status(cluster: Cluster, running: list[JsonObject], found: Checked) -> None:
    from glowctl.text import count, duration

    typer.echo(f"cluster   {cluster.address}, Ray {cluster.facts.ray}, Python {cluster.facts.python}")
    for node in found.nodes:
        typer.echo(f"machine   {node.name}: {count(node.cpus, 'core')}, {count(node.gpus, 'GPU')}")
    listed = ", ".join(f"{job['job']} ({job['what']})" for job in running)
    typer.echo(f"jobs      {listed or 'none is running or waiting'}")
    typer.echo(f"tracking  {found.tracking or 'none'}")
    typer.echo(f"storage   {found.storage or 'none'}")
    if found.seconds_left is not None:
        typer.echo(f"ends      in {duration(max(0.0, found.seconds_left))} if no job comes (GLOW_IDLE_DOWN)")
    for problem in found.problems:
        typer.echo(f"wrong     {problem}")
    if not found.problems:
        typer.echo("no problem found")


def _cluster(address: str | None) -> Cluster:
    from glowctl.cluster.client import Cluster
    from glowctl.system.environment import address_of

    at = address_of(address)
    if at is None:
        raise SpecError(
            "this command is for a cluster, and none is named",
            remedy="give its --address, such as --address http://localhost:8265, or set RAY_ADDRESS",
            code="no-cluster-named",
        )
    return Cluster(at)


def _listed(job: JobDetails) -> JsonObject:
    """Return a job as ``glowctl jobs --json`` prints it; its seconds end at its end, or now."""
    start, end = job.start_time or 0, job.end_time or int(datetime.now().timestamp() * 1000)
    about = job.metadata or {}
    return {
        "job": str(job.submission_id),
        "status": _status(job),
        "started": datetime.fromtimestamp(start / 1000).strftime("%Y-%m-%d %H:%M"),
        "seconds": (end - start) / 1000,
        "what": about.get(tag_names.TITLE, job.entrypoint),
        "user": about.get(tag_names.USER, ""),
    }


def _waits(cluster: Cluster, job: JobDetails) -> JsonObject:
    """Return for what a running job waits, by the last event in its output; None if it does not wait."""
    from glowctl.cluster.client import ended
    from glowctl.display.displays import sent_event
    from glowctl.display.events import Waiting
    from glowctl.display.lines import text_of

    lines = [] if ended(job) else cluster.log(str(job.submission_id))
    last = next((event for line in reversed(lines) if (event := sent_event(line)) is not None), None)
    return {"waits": text_of(last) if isinstance(last, Waiting) else None}


def _status(job: JobDetails) -> str:
    return str(job.status.value).lower()
