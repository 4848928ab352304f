"""The commands on the record: `glowctl ui`, `runs`, `show`, `report`, `models` and `promote`."""

from __future__ import annotations

import json as json_lib
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.interruption import interruptible
from jobs.commands.options import Experiment, Json, Output, TrackingUri
from jobs.errors import SpecError
from jobs.text import bits, duration, text_table

if TYPE_CHECKING:
    from jobs.tracking import Version

__all__ = ["add_record_commands"]

PANEL = "The record"

AnyExperiment = Annotated[
    str | None,
    typer.Option(help="MLflow experiment to look in; all of them if not given. (e.g. --experiment glow)"),
]


def add_record_commands(app: typer.Typer) -> None:
    for command, example in (
        (ui, "ui --port 5001"),
        (runs, "runs --job train,ood --limit 50"),
        (show, "show 1a2b3c4d"),
        (report, "report --experiment glow"),
        (repair, "repair 1a2b3c4d"),
        (models, "models glow-mnist"),
        (promote, "promote glow-mnist/3 production"),
    ):
        app.command(epilog=f"Example: glowctl {example}", rich_help_panel=PANEL)(command)


def ui(
    tracking_uri: TrackingUri = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine. (e.g. --port 5001)")] = 5000,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address alone.", show_default=False)
    ] = False,
) -> None:
    """Open the MLflow UI on the store that runs are recorded in: of a server that runs already, else of one that Ctrl-C
    ends."""
    from jobs.browse.ui import serve

    with interruptible():
        serve(tracking_uri, port, browser=not no_browser)


def runs(
    experiment: AnyExperiment = None,
    job: Annotated[
        str | None, typer.Option(help="Runs of these jobs alone, with commas between. (e.g. --job train,ood)")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many, beside trials. (e.g. --limit 50)")] = 20,
    trials: Annotated[
        bool, typer.Option("--trials", help="The trials too, beneath their ablation.", show_default=False)
    ] = False,
    json: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """List the newest runs and what each came to."""
    from jobs.browse.runs import list_runs

    list_runs(tracking_uri, experiment, job, limit, trials, json)


def show(
    run: Annotated[str, typer.Argument(help="A run, by name, id, or the first letters of its id.", metavar="RUN")],
    experiment: AnyExperiment = None,
    json: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Show one run: what it came to, its settings, tables and files, and where it is in the MLflow UI."""
    from jobs.browse.show import show_run

    show_run(tracking_uri, experiment, run, json)


def report(
    experiment: Experiment = "glow",
    runs: Annotated[
        str | None,
        typer.Option(
            help="Of these runs and those beneath them alone, by id or name, commas between. (e.g. --runs 1a2b,3c4d)"
        ),
    ] = None,
    output: Output = "outputs",
    json: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Put what is recorded together: one HTML file, and Markdown, with curves, samples, the OOD table and costs.

    It is made from MLflow alone, and says what is missing.
    """
    from jobs.display.displays import make_display
    from jobs.report import make
    from jobs.tracking import tracking_uri as found

    named = None if runs is None else [name.strip() for name in runs.split(",") if name.strip()]
    if named == []:
        raise SpecError("--runs names no run: give ids or names with commas between")
    with make_display("json" if json else "auto") as show:
        make(found(tracking_uri), experiment, named, output, show)


def repair(
    run: Annotated[
        str,
        typer.Argument(help="A training or an ablation, by name, id, or the id's first letters.", metavar="RUN"),
    ],
    experiment: Experiment = "glow",
    output: Annotated[
        str | None,
        typer.Option(help="Where its checkpoints are, if they were moved. (e.g. --output /mnt/outputs)"),
    ] = None,
    json: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Add to MLflow the epochs of a run that only its checkpoints know.

    Runs do so by themselves while they train and when they are resumed. This is for a run that is over, such as one of
    an older glowctl. An ablation is compared again.
    """
    from jobs.dispatch import repair as repair_run
    from jobs.display.displays import make_display

    where = {"tracking_uri": tracking_uri, "experiment": experiment, "output": output}
    given = {name: value for name, value in where.items() if value is not None}
    repair_run(run, given, make_display("json" if json else "auto"))


def models(
    name: Annotated[str | None, typer.Argument(help="Of one registered model alone. (e.g. glow-mnist)")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many. (e.g. --limit 100)")] = 20,
    json: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """List the models that trainings have registered, the newest first.

    A model's name for --model, MLflow and others is models:/NAME/VERSION or models:/NAME@ALIAS. The alias champion is
    given by ablations, latest is always the newest version.
    """
    from jobs import tracking

    uri = tracking.tracking_uri(tracking_uri)
    found = tracking.registered_versions(uri, name, limit)
    if json:
        for version in found:
            typer.echo(json_lib.dumps({"event": "model", **asdict(version), "uri": version.uri}))
        return
    if not found:
        of = f" {name}" if name else ""
        typer.echo(f"no model{of} is registered in {tracking.without_password(uri)}: glowctl train registers one")
        return
    head = ["model", "aliases", "trained by", "validation", "test bits/dim", "age"]
    rows = [
        [
            f"{version.name}/{version.version}",
            ", ".join(version.aliases) or "-",
            version.run or "(its run was deleted)",
            *_scores(version),
            duration(time.time() - version.created),
        ]
        for version in found
    ]
    typer.echo(text_table([head, *rows], left=3))


def _scores(version: Version) -> list[str]:
    return ["-" if it is None else bits(it) for it in (version.validation_bits_per_dim, version.test_bits_per_dim)]


def promote(
    model: Annotated[
        str, typer.Argument(help="NAME/VERSION or NAME@ALIAS, or the run that trained it. (e.g. glow-mnist/3)")
    ],
    alias: Annotated[str, typer.Argument(help="A word; MLflow keeps latest for itself. (e.g. production)")],
    experiment: Experiment = "glow",
    json: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Give a registered model an alias, by which others load it: models:/NAME@ALIAS. Whoever bore it loses it."""
    from jobs import tracking

    done = tracking.promote(tracking.tracking_uri(tracking_uri), experiment, model, alias)
    if json:
        typer.echo(json_lib.dumps({"event": "promoted", **asdict(done), "uri": done.uri}))
        return
    before = f"; it was version {done.before}" if done.before not in (None, done.version) else ""
    typer.echo(f"{done.uri} is version {done.version}{before}")
