"""The commands that look after a cluster and its jobs: `glowctl jobs`, `logs`, `stop`, `wait`, `cluster status`."""

from __future__ import annotations

import json as json_lib
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.interruption import interruptible
from jobs.commands.options import Address, Json, Output, TrackingUri
from jobs.errors import FAILURE, SpecError
from jobs.tracking import tag_names

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from jobs.cluster.client import Cluster
    from jobs.display.events import Checked

__all__ = ["add_cluster_commands"]

JobId = Annotated[str, typer.Argument(help="A job's id, as glowctl jobs lists it.", metavar="JOB")]

PANEL = "Clusters"
SHOWN_JOBS = 20


@dataclass(frozen=True)
class ListedJob:
    """A job as it is listed: `what` it does, the `user` who gave it, and how many `seconds` it has run."""

    job: str
    status: str
    started: str
    seconds: float
    what: str
    user: str


def add_cluster_commands(app: typer.Typer) -> None:
    for command, example in (
        (jobs, "jobs --address http://localhost:8265"),
        (logs, "logs -f train-mnist-1a2b3c4d"),
        (stop, "stop train-mnist-1a2b3c4d"),
        (wait, "wait train-mnist-1a2b3c4d"),
    ):
        app.command(epilog=f"Example: glowctl {example}", rich_help_panel=PANEL)(command)
    cluster = typer.Typer(help="A Ray cluster as a whole.", no_args_is_help=True)
    cluster.command(epilog="Example: glowctl cluster status --address http://localhost:8265")(status)
    app.add_typer(cluster, name="cluster", rich_help_panel=PANEL)


def jobs(
    address: Address = None,
    every: Annotated[
        bool, typer.Option("--all", help=f"More than the newest {SHOWN_JOBS}.", show_default=False)
    ] = False,
    json: Json = False,
) -> None:
    """List the jobs of a cluster, the newest first."""
    found = _cluster(address).list_jobs()
    rows = [_listed(job) for job in (found if every else found[:SHOWN_JOBS])]
    if json:
        for row in rows:
            typer.echo(json_lib.dumps(asdict(row)))
        return
    from jobs.text import duration, text_table

    if not rows:
        typer.echo("the cluster has run no jobs yet")
        return
    heads = ["job", "what", "by", "status", "started", "took"]
    cells = [[row.job, row.what, row.user, row.status, row.started, duration(row.seconds)] for row in rows]
    typer.echo(text_table([heads, *cells], left=5))
    if len(rows) < len(found):
        typer.echo(f"and {len(found) - len(rows)} older: --all lists them")


def logs(
    job: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends; its exit code is then the command's.")
    ] = False,
    address: Address = None,
    json: Json = False,
) -> None:
    """Show what a job has written: its progress, as if it ran here, and its errors."""
    from jobs.cluster.submission import seen_by
    from jobs.display.displays import make_display

    cluster = _cluster(address)
    if follow:
        _follow(cluster, job, json)
    with make_display("json" if json else "plain") as show:
        see = seen_by(show)
        for line in cluster.log(job):
            see(line)


def wait(job: JobId, address: Address = None) -> None:
    """Wait until a job has ended, and say how: its exit code is this command's."""
    from jobs.cluster.submission import exit_code

    with interruptible(f"job {job} goes on"):
        done = _cluster(address).wait(job)
    code = exit_code(done)
    typer.echo(f"job {job} {_status(done)}")
    raise typer.Exit(code)


def stop(job: JobId, address: Address = None) -> None:
    """Stop a job. Its runs in MLflow are marked KILLED, and can be resumed."""
    cluster = _cluster(address)
    from jobs.cluster.client import ended

    if ended(before := cluster.info(job)):
        typer.echo(f"job {job} {_status(before)} already")
        return
    typer.echo(f"job {job} {_status(cluster.stop(job))}")


def status(
    address: Address = None, output: Output = "outputs", tracking_uri: TrackingUri = None, json: Json = False
) -> None:
    """Say what a cluster has: machines, GPUs, jobs, tracking server and storage, and what does not answer."""
    from jobs.cluster.client import ended
    from jobs.cluster.submission import check
    from jobs.tracking import given_tracking_uri

    cluster = _cluster(address)
    running = [_listed(job) for job in cluster.list_jobs() if not ended(job)]
    found = check(cluster, output, given_tracking_uri(tracking_uri))
    if json:
        facts = {"address": cluster.address, "ray": cluster.facts.ray, "python": cluster.facts.python}
        typer.echo(json_lib.dumps({**facts, "jobs": [asdict(job) for job in running], **asdict(found)}))
    else:
        _show_status(cluster, running, found)
    raise typer.Exit(FAILURE if found.problems else 0)


def _show_status(cluster: Cluster, running: list[ListedJob], found: Checked) -> None:
    from jobs.text import count

    typer.echo(f"cluster   {cluster.address}, Ray {cluster.facts.ray}, Python {cluster.facts.python}")
    for node in found.nodes:
        typer.echo(f"machine   {node.name}: {count(node.cpus, 'core')}, {count(node.gpus, 'GPU')}")
    listed = ", ".join(f"{job.job} ({job.what})" for job in running)
    typer.echo(f"jobs      {listed or 'none that run or wait'}")
    typer.echo(f"tracking  {found.tracking or 'none'}")
    typer.echo(f"storage   {found.storage or 'none'}")
    for problem in found.problems:
        typer.echo(f"wrong     {problem}")
    if not found.problems:
        typer.echo("all of it answers")


def _cluster(address: str | None) -> Cluster:
    from jobs.cluster.client import Cluster
    from jobs.system.environment import address_of

    at = address_of(address)
    if at is None:
        raise SpecError(
            "this looks at a cluster: give its --address, such as http://localhost:8265, or set RAY_ADDRESS"
        )
    return Cluster(at)


def _follow(cluster: Cluster, job: str, json: bool) -> None:
    from jobs.cluster.submission import follow
    from jobs.display.displays import make_display

    table = job.startswith(("ablate-", "resume-ablation", "demo-"))
    with interruptible(f"job {job} goes on"), make_display("json" if json else "auto", table=table) as show:
        code = follow(cluster, job, show)
    raise typer.Exit(code)


def _listed(job: JobDetails) -> ListedJob:
    start, end = job.start_time or 0, job.end_time or int(datetime.now().timestamp() * 1000)
    about = job.metadata or {}
    return ListedJob(
        job=str(job.submission_id),
        status=_status(job),
        started=datetime.fromtimestamp(start / 1000).strftime("%Y-%m-%d %H:%M"),
        seconds=(end - start) / 1000,
        what=about.get(tag_names.TITLE, job.entrypoint),
        user=about.get(tag_names.USER, ""),
    )


def _status(job: JobDetails) -> str:
    return str(job.status.value).lower()
