"""`glowctl`: flags -> spec -> request -> submission. Nothing else."""

from __future__ import annotations

import gc
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer

from jobs.commands.cluster import add_cluster_commands
from jobs.commands.data import add_data_commands
from jobs.commands.interruption import interruptible
from jobs.commands.options import (
    Address,
    Detach,
    Json,
    Output,
    Preset,
    PrintSpec,
    SpecFile,
    TrackingUri,
    at_most_one,
    with_flags_of,
)
from jobs.commands.record import add_record_commands
from jobs.commands.spec_files import read_ablate_spec, read_spec
from jobs.errors import FAILURE, SpecError, code_of, sentence_of
from jobs.specs.ablation import AXES, PER_TRIAL, AblateSpec, make_ablate_spec
from jobs.specs.base import validated
from jobs.specs.evaluation import EvaluationSpec, InterpolateSpec, NllSpec, OodSpec, SampleSpec
from jobs.specs.presets import make_train_spec
from jobs.specs.request import EVALUATIONS, Request
from jobs.specs.training import TrainSpec
from jobs.system.environment import address_of, check_file_names
from jobs.system.process_setup import set_up_process
from jobs.system.scratch import scratch_folder
from jobs.system.verbosity import VERBOSE, set_up_logging

__all__ = ["app", "main"]

app = typer.Typer(
    help="Train Glow normalizing flows on Ray, record them in MLflow, and tell what belongs to their training data.",
    epilog="First steps: glowctl demo, then glowctl ui. What this machine has: glowctl doctor.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def print_version(wanted: bool) -> None:
    """Print the version of glowctl and of what it runs on, and exit, if `--version` was given."""
    if wanted:
        with_versions = (f"{name} {version(name)}" for name in ("ray", "mlflow", "torch"))
        typer.echo(f"glowctl {version('glowctl')} ({', '.join(with_versions)}, Python {platform.python_version()})")
        raise typer.Exit


@app.callback()
def every_command(
    *,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the versions of glowctl, Ray, MLflow, PyTorch and Python, and exit.",
            callback=print_version,
            is_eager=True,
            show_default=False,
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            help="Say on standard error what is tried again, left out or gone on without, and why; before the command. "
            "$GLOW_VERBOSE does so too. (e.g. glowctl --verbose train)",
            show_default=False,
        ),
    ] = False,
) -> None:
    if verbose:
        os.environ[VERBOSE] = "1"  # which the processes inherit that this one starts, and a job on a cluster is given
        set_up_logging()


@app.command(epilog="Example: glowctl train --dataset mnist --preset laptop --workers 2")
@with_flags_of(TrainSpec)
def train(
    context: typer.Context,
    *,
    preset: Preset = "laptop",
    spec: SpecFile = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Go on with this run, by name or id, where it stopped. (e.g. --resume 'train digits 1x1 K2')"
        ),
    ] = None,
    print_spec: PrintSpec = False,
    json: Json = False,
    address: Address = None,
    detach: Detach = False,
    **flags: Any,
) -> None:
    """Train a Glow data-parallel on Ray, and record it in MLflow.

    Presets: smoke (seconds), laptop (half an hour on 2 cores), best (for a GPU), paper (the course report's own
    configuration: meant for a GPU).
    """
    given = {name: value for name, value in flags.items() if value is not None}
    at_most_one(context, "preset", "spec", "resume")
    if resume is not None:
        if print_spec:
            raise SpecError("--print-spec shows the settings of a new run: leave out --resume")
        _do("resume_training", json, address, detach, run=resume, changes=given)
        return
    settings = read_spec(TrainSpec, spec, given) if spec is not None else make_train_spec(preset, given)
    if print_spec:
        typer.echo(settings.to_json(), nl=False)
        return
    _do("train", json, address, detach, settings)


@app.command(epilog="Example: glowctl ablate --permutations all --seeds 3 --dataset mnist --preset laptop")
@with_flags_of(AblateSpec, TrainSpec, leave_out={"train", *AXES.values(), *PER_TRIAL.values()})
def ablate(
    context: typer.Context,
    *,
    preset: Preset = "laptop",
    spec: SpecFile = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Go on with this ablation, by name or id, where each trial stood. (e.g. --resume 'ablate mnist seeds')"
        ),
    ] = None,
    summarize: Annotated[
        str | None,
        typer.Option(
            help="Compare the trials of this ablation again, from MLflow alone. (e.g. --summarize 'ablate mnist seeds')"
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many trials there would be, and stop.", show_default=False)
    ] = False,
    print_spec: PrintSpec = False,
    json: Json = False,
    address: Address = None,
    detach: Detach = False,
    **flags: Any,
) -> None:
    """Train in many variants on Ray Tune, at several seeds each, and compare them with error bars.

    Every value of one axis is tried with every value of the others; an axis that is not given keeps the preset's value.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    at_most_one(context, "preset", "spec", "resume", "summarize")
    if resume is not None or summarize is not None:
        for flag, asked in (("--print-spec", print_spec), ("--dry-run", dry_run)):
            if asked:
                raise SpecError(f"{flag} is for a new ablation: leave it out")
        do = "resume_ablation" if resume is not None else "summarize"
        _do(do, json, address, detach, run=resume or summarize, changes=given, table=True)
        return
    settings = read_ablate_spec(spec, given) if spec is not None else make_ablate_spec(preset, given)
    if print_spec:
        typer.echo(settings.to_json(), nl=False)
        return
    _do("plan" if dry_run else "ablate", json, address, detach, settings, table=True)


@app.command(epilog="Example: glowctl nll --datasets mnist,fashion-mnist")
@with_flags_of(NllSpec)
def nll(
    *, spec: SpecFile = None, json: Json = False, address: Address = None, detach: Detach = False, **flags: Any
) -> None:
    """Score data sets under a trained model: mean bits/dim with intervals, per class too, and a histogram."""
    _evaluate([NllSpec], flags, json, address, detach, spec)


@app.command(epilog="Example: glowctl sample --temperatures 0,0.5,0.7,0.9,1")
@with_flags_of(SampleSpec)
def sample(
    *, spec: SpecFile = None, json: Json = False, address: Address = None, detach: Detach = False, **flags: Any
) -> None:
    """Draw images from a trained model, at a temperature or several."""
    _evaluate([SampleSpec], flags, json, address, detach, spec)


@app.command(epilog="Example: glowctl interpolate --pairs-per-class 2 --mode slerp")
@with_flags_of(InterpolateSpec)
def interpolate(
    *, spec: SpecFile = None, json: Json = False, address: Address = None, detach: Detach = False, **flags: Any
) -> None:
    """Draw what lies between two real images in the latents of a trained model: a row a class, or your own pair."""
    _evaluate([InterpolateSpec], flags, json, address, detach, spec)


@app.command(epilog="Example: glowctl ood --batch-sizes 2,5,10,25")
@with_flags_of(OodSpec)
def ood(
    *, spec: SpecFile = None, json: Json = False, address: Address = None, detach: Detach = False, **flags: Any
) -> None:
    """Test whether batches of images belong to what a model was trained on, by the typicality test and others."""
    _evaluate([OodSpec], flags, json, address, detach, spec)


@app.command(epilog="Example: glowctl evaluate --model models:/glow-mnist@champion")
@with_flags_of(*EVALUATIONS.values())
def evaluate(*, json: Json = False, address: Address = None, detach: Detach = False, **flags: Any) -> None:
    """Run nll, sample, interpolate and ood on one model."""
    _evaluate(list(EVALUATIONS.values()), flags, json, address, detach)


def _evaluate(
    specs: Sequence[type[EvaluationSpec]],
    flags: Mapping[str, Any],
    json: bool,
    address: str | None,
    detach: bool,
    file: str | None = None,
) -> None:
    settings = []
    for spec in specs:
        given = {name: flags[name] for name in spec.model_fields if flags[name] is not None}
        settings.append(validated(spec, given) if file is None else read_spec(spec, file, given))
    _do("evaluate", json, address, detach, *settings)


@app.command(epilog="Example: glowctl demo")
def demo(
    json: Json = False,
    output: Output = "outputs",
    tracking_uri: TrackingUri = None,
    address: Address = None,
    detach: Detach = False,
) -> None:
    """Train small Glows on real handwritten digits with each of the three permutations at three seeds, side by side,
    and compare them; then interpolate with the best and test for OOD. It takes one to four minutes on 2 cores, and
    nothing is downloaded."""
    where = {"output": output, "tracking_uri": tracking_uri}
    _do("demo", json, address, detach, changes=where, table=True)


@app.command(epilog="Example: glowctl doctor --data-root ~/data")
def doctor(
    tracking_uri: TrackingUri = None,
    data_root: Annotated[
        str | None, typer.Option(help=f"{TrainSpec.model_fields['data_root'].description} (e.g. --data-root ~/data)")
    ] = None,
) -> None:
    """Say what this machine has: Python, torch, GPUs, Ray, the MLflow store, data sets, and what is wrong with each."""
    from jobs.commands.doctor import examine

    raise typer.Exit(0 if examine(tracking_uri, data_root) else FAILURE)


def _do(
    what: str,
    json: bool,
    address: str | None,
    detach: bool,
    *specs: Any,
    run: str | None = None,
    changes: Mapping[str, Any] | None = None,
    table: bool = False,
) -> None:
    """Does a request here, or on the cluster at `address`, and exits with its code."""
    from jobs.display.displays import make_display

    at = address_of(address)
    if detach and at is None:
        raise SpecError("--detach leaves a job to a cluster: give its --address too")
    request = Request.of(what, *specs).model_copy(update={"run": run, "changes": dict(changes or {})})
    display = make_display("json" if json else "auto", table=table)
    gone_on = "; a job that was submitted goes on: see glowctl jobs" if at else ""
    with interruptible(f"stopped{gone_on}"):
        if at is None:
            from jobs.dispatch import perform

            perform(request, display)
            return
        from jobs.cluster.submission import submit

        raise typer.Exit(submit(request, display, at, detach))


add_data_commands(app, _do)
add_record_commands(app)
add_cluster_commands(app)


def main() -> None:
    """The entry point: every error that a user can meet is one sentence on standard error, with exit code 2 for what
    was asked wrongly and 1 for what failed."""
    set_up_process()
    try:
        check_file_names()
        with scratch_folder():
            app()
    except Exception as error:
        print(f"glowctl: {sentence_of(error)}", file=sys.stderr)
        raise SystemExit(code_of(error)) from None
    finally:
        # Or Python looks at every object of torch and MLflow before it ends, for more than a second. Triton, which
        # comes with torch for CUDA, would print lines about each frozen object of its own.
        if "triton" not in sys.modules:
            gc.freeze()


if __name__ == "__main__":
    main()
