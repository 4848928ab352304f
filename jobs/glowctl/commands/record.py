"""The commands for recorded runs and models, such as `ui`, `runs`, `show`, `diff`, `report` and `prune`."""

from __future__ import annotations

import json as json_lib
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from glowctl.commands.options import Experiment, Json, Output, TrackingUri, switch
from glowctl.errors import SpecError
from glowctl.text import bits, duration, text_table

if TYPE_CHECKING:
    from glowctl.tracking.registry import Version

PANEL = "Recorded runs"

AnyExperiment = Annotated[
    str | None,
    typer.Option(help="MLflow experiment to look in. Without it: all of them. (e.g. --experiment glow)"),
]


def add_record_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    for command, example in (
        (ui, "ui --port 5001"),
        (runs, "runs --job train,ood --limit 50"),
        (show, "show 1a2b3c4d"),
        (diff, "diff 1a2b3c4d 5e6f7a8b"),
        (report, "report --experiment glow"),
        (sync, "sync outputs/1a2b3c4d"),
        (models, "models glow-mnist"),
        (promote, "promote glow-mnist/3 production"),
        (prune, "prune --trials --older 30d --keep-best 3"),
    ):
        app.command(epilog=f"Example: glowctl {example}", rich_help_panel=PANEL)(command)


def ui(
    tracking_uri: TrackingUri = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the UI on this machine. (e.g. --port 5001)")
    ] = 5000,
    no_browser: Annotated[
        bool, switch("--no-browser", "Print the address of the UI without opening a browser.")
    ] = False,
) -> None:
    """Open the MLflow UI on the recorded runs.

    If the store is an MLflow server, the command opens the UI of that server. If a UI of the store already runs on
    --port, the command opens that UI. Otherwise the command starts a server, which runs until Ctrl-C.
    """
    from glowctl.browse.ui import serve

    serve(tracking_uri, port, browser=not no_browser)


def runs(
    experiment: AnyExperiment = None,
    job: Annotated[
        str | None,
        typer.Option(
            help="Commands, separated by commas: list only their runs. Without it: all. (e.g. --job train,ood)"
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            min=1,
            help="Largest number of runs to list, the newest first; trials under their ablation do not count. (e.g. "
            "--limit 50)",
        ),
    ] = 20,
    trials: Annotated[
        bool,
        switch(
            "--trials",
            "List the trials of ablations too: under their ablation, or among the trainings if --job names train but "
            "not ablate.",
        ),
    ] = False,
    json: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """List the newest runs with their results."""
    from glowctl.browse.runs import list_runs

    list_runs(tracking_uri, experiment, job, limit, trials, json)


def show(
    run: Annotated[
        str, typer.Argument(help="Run, by its name, its id, or the first letters of the id.", metavar="RUN")
    ],
    experiment: AnyExperiment = None,
    json: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Show one run: its result, settings, tables and files, and its address in the MLflow UI."""
    from glowctl.browse.show import show_run

    show_run(tracking_uri, experiment, run, json)


def diff(
    a: Annotated[
        str, typer.Argument(help="Run, by its name, its id, or the first letters of the id; or a model.", metavar="RUN")
    ],
    b: Annotated[str, typer.Argument(help="Run to compare it with, named in the same ways.", metavar="RUN")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set, or data set and split, on which the models are compared. Without it: all that both have "
            "scored. (e.g. --data 'mnist test')"
        ),
    ] = None,
    experiment: AnyExperiment = None,
    json: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Show in what two runs differ: settings, code, packages, data, machines, metrics, and the NLL of each image.

    The NLLs are compared on images that both models have scored: those of the data set that they were trained on, and
    those of glowctl nll and ood. The difference is paired per image and has a 95 % interval.
    """
    from glowctl.browse.diff import diff_runs

    diff_runs(tracking_uri, experiment, (a, b), data, json)


def report(
    experiment: Experiment = "glow",
    runs: Annotated[
        str | None,
        typer.Option(
            help="Ids or names, separated by commas, of the runs to report; runs nested under them are included. "
            "Without it: all runs of the experiment. (e.g. --runs 1a2b,3c4d)"
        ),
    ] = None,
    output: Output = "outputs",
    json: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write a report of recorded runs, as HTML and Markdown, with curves, samples, OOD tables and costs.

    The report contains only what MLflow has recorded, and lists what is missing.
    """
    from glowctl.display.displays import make_display
    from glowctl.report import make
    from glowctl.tracking.uris import tracking_uri as found

    named = None if runs is None else [name.strip() for name in runs.split(",") if name.strip()]
    if named == []:
        raise SpecError(
            f"--runs {runs!r} contains no run",
            remedy="give ids or names with commas between, or leave it out",
            code="setting-not-allowed",
        )
    with make_display("json" if json else "auto") as show:
        make(found(tracking_uri), experiment, named, output, show)


def sync(
    run: Annotated[
        str,
        typer.Argument(
            help="Training or ablation: the name or id of its run, or the path or URI of its folder.", metavar="RUN"
        ),
    ],
    experiment: Experiment = "glow",
    data_root: Annotated[
        str | None,
        typer.Option(help="Folder of the data sets. Without it: as in the run. (e.g. --data-root /data)"),
    ] = None,
    json: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Copy the folder of a training or an ablation to MLflow again.

    The command adds what MLflow lacks: epochs, samples, results and models. A run that MLflow does not have is made. It
    is for runs whose MLflow server was away for long, and for folders from another machine. A run copies its folder to
    MLflow itself while it trains and when it is resumed.
    """
    from glowctl.dispatch import sync as sync_run
    from glowctl.display.displays import make_display

    where = {"tracking_uri": tracking_uri, "experiment": experiment, "data_root": data_root}
    given = {name: value for name, value in where.items() if value is not None}
    sync_run(run, given, make_display("json" if json else "auto"))


def models(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Name of a registered model: list only its versions. Without it: all models. (e.g. glow-mnist)",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=1000, help="Largest number of versions to list. (e.g. --limit 100)")
    ] = 20,
    json: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """List the models that trainings have registered in MLflow, the newest first.

    Use a model as models:/NAME/VERSION or models:/NAME@ALIAS, for example in --model. The alias champion is set by
    ablations; latest is always the newest version.
    """
    from glowctl.tracking.registry import registered_versions
    from glowctl.tracking.uris import tracking_uri as found_uri
    from glowctl.tracking.uris import without_password

    uri = found_uri(tracking_uri)
    found = registered_versions(uri, name, limit)
    if json:
        for version in found:
            typer.echo(json_lib.dumps({"event": "model", **asdict(version), "uri": version.uri}))
        return
    if not found:
        of = f" {name}" if name else ""
        typer.echo(f"no model{of} is registered in {without_password(uri)}: glowctl train registers one")
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
        str,
        typer.Argument(
            metavar="MODEL", help="Model as NAME/VERSION or NAME@ALIAS, or the run that trained it. (e.g. glow-mnist/3)"
        ),
    ],
    alias: Annotated[
        str,
        typer.Argument(
            metavar="ALIAS", help="Alias to set, any word but latest, which MLflow reserves. (e.g. production)"
        ),
    ],
    experiment: Experiment = "glow",
    json: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Give a registered model an alias, by which it can be loaded as models:/NAME@ALIAS.

    The alias moves: the version of this model that had it before loses it.
    """
    from glowctl.tracking.registry import promote as give_alias
    from glowctl.tracking.uris import tracking_uri as found_uri

    done = give_alias(found_uri(tracking_uri), experiment, model, alias)
    if json:
        typer.echo(json_lib.dumps({"event": "promoted", **asdict(done), "uri": done.uri}))
        return
    before = f"; it was version {done.before}" if done.before not in (None, done.version) else ""
    typer.echo(f"{done.uri} is version {done.version}{before}")


def prune(
    older: Annotated[
        str,
        typer.Option(help="Least time since a run ended, in hours, days or weeks: 12h, 30d, 2w. (e.g. --older 30d)"),
    ],
    trials: Annotated[
        bool,
        switch("--trials", "Delete only trials of ablations. Without it: also other trainings, and evaluations."),
    ] = False,
    keep_best: Annotated[
        int,
        typer.Option(
            min=1, help="Number of trials of each ablation that stay, the best by validation NLL. (e.g. --keep-best 3)"
        ),
    ] = 1,
    yes: Annotated[bool, switch("--yes", "Delete. Without it: only list what would be deleted.")] = False,
    experiment: Experiment = "glow",
    json: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """List old models that nothing needs, with their sizes, or delete them (--yes).

    A model goes with its evaluations, its files in MLflow and in the output folder or bucket, its score tables, and
    the version that its training has registered.

    A model stays if its version has an alias such as champion, is the newest, or was edited; if it is registered a
    second time; if one of its runs is younger than --older, is running, or has scores that an evaluation uses that
    stays; or if another command is at work in its folder. Ablations stay, with their tables and figures.

    If the command is interrupted, the next call completes it.
    """
    from glowctl.pruning.run import prune as prune_runs

    prune_runs(tracking_uri, experiment, older, trials, keep_best, yes, json)
