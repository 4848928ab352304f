"""The command ``glowctl``: its jobs, and the entry point `main`.

Each command turns its flags into a spec and the spec into a request, which is then carried out here or sent to a
cluster. Nothing else happens in this module. It imports neither torch nor Ray nor MLflow, so that ``--help`` is fast.
"""

from __future__ import annotations

import gc
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from importlib.metadata import version
from typing import Annotated, Any

import typer

from glowctl.commands.cluster import add_cluster_commands
from glowctl.commands.data import add_data_commands
from glowctl.commands.ending import InterruptibleGroup, drop_unread, interruptible, report_failure, usage_error
from glowctl.commands.options import (
    DEFAULT_PRESET,
    Address,
    DataRoot,
    Detach,
    Json,
    Output,
    Preset,
    PrintSpec,
    SpecFile,
    TrackingUri,
    at_most_one,
    read_ablate_spec,
    read_spec,
    refuse_unused,
    switch,
    with_flags_of,
)
from glowctl.commands.record import add_record_commands
from glowctl.commands.sharing import add_sharing_commands
from glowctl.errors import FAILURE, STRANGE, USAGE, SpecError
from glowctl.specs.ablation import AXES, PER_TRIAL, AblateSpec, make_ablate_spec
from glowctl.specs.base import validated
from glowctl.specs.evaluation import CheckSpec, EvaluationSpec, InterpolateSpec, NllSpec, OodSpec, SampleSpec
from glowctl.specs.monitoring import WatchSpec
from glowctl.specs.request import EVALUATIONS, Request
from glowctl.specs.training import TrainSpec, make_train_spec
from glowctl.system.environment import address_of, check_file_names
from glowctl.system.process_setup import set_up_process
from glowctl.system.scratch import scratch_folder
from glowctl.system.verbosity import VERBOSE, set_up_logging

ESTIMATED = ("train", "ablate", "nll", "ood")
"""Commands whose cost ``glowctl estimate`` can estimate."""

estimating = ContextVar("estimating", default=False)
"""Whether the command is one of ``glowctl estimate``."""

app = typer.Typer(
    cls=InterruptibleGroup,
    help="Train Glow normalizing flows on Ray, record them in MLflow, and test whether images are like those that "
    "a flow was trained on.",
    epilog="First steps: glowctl demo, then glowctl ui. To check this machine: glowctl doctor.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def print_version(wanted: bool) -> None:
    """If `--version` was given, print the versions of glowctl, Ray, MLflow, PyTorch and Python, and exit."""
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
        switch(
            "--verbose",
            "Log to standard error which steps glowctl repeats or skips after an error, and why. Give this flag before "
            "the command; $GLOW_VERBOSE=1 has the same effect. (e.g. glowctl --verbose train)",
        ),
    ] = False,
) -> None:
    """Apply the flags that every command has."""
    if verbose:
        os.environ[VERBOSE] = "1"  # child processes inherit it, and jobs on a cluster receive it
        set_up_logging()


estimates = typer.Typer(no_args_is_help=True, epilog="Example: glowctl estimate train --preset paper --price 1.2")


@estimates.callback()
def begin_estimate(context: typer.Context) -> None:
    """Estimate what train, ablate, nll or ood would cost, with the flags of that command; nothing is recorded.

    Some of the job's steps are timed, which takes about 10 seconds. The estimate has time, memory, disk and network,
    and the price with --price.
    """
    token = estimating.set(True)
    context.call_on_close(lambda: estimating.reset(token))


@app.command(epilog="Example: glowctl train --dataset mnist --preset laptop --workers 2")
@with_flags_of(TrainSpec)
def train(
    *,
    preset: Preset = None,
    spec: SpecFile = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Name or id of a training's run: continue that training from its last checkpoint. Its data set, "
            "model and optimisation cannot change. If MLflow does not have the run, give the folder or bucket of its "
            "checkpoints. (e.g. --resume 'train digits 1x1 K2')"
        ),
    ] = None,
    print_spec: PrintSpec = False,
    json: Json = False,
    address: Address = None,
    detach: Detach = False,
    **flags: Any,
) -> None:
    """Train a Glow on Ray with data-parallel workers, and record it in MLflow.

    Presets: smoke (seconds), laptop (half an hour on 2 cores), demo (as in glowctl demo), best (for a GPU), and paper
    (the configuration of the course report, for a GPU). Each setting below overrides the preset.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    at_most_one(preset=preset, spec=spec, resume=resume)
    at_most_one(resume=resume, print_spec=print_spec)
    if resume is not None:
        _do("resume_training", json, address, detach, run=resume, changes=given)
        return
    settings = (
        read_spec(TrainSpec, spec, given) if spec is not None else make_train_spec(preset or DEFAULT_PRESET, given)
    )
    if print_spec:
        typer.echo(settings.to_json(), nl=False)
        return
    _do("train", json, address, detach, settings)


@app.command(epilog="Example: glowctl ablate --permutations all --seeds 3 --dataset mnist --preset laptop")
@with_flags_of(AblateSpec, TrainSpec, leave_out={"train", *AXES.values(), *PER_TRIAL.values()})
def ablate(
    *,
    preset: Preset = None,
    spec: SpecFile = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Name or id of an ablation's run: continue that ablation, each trial from its last checkpoint. If "
            "MLflow does not have the run, give the folder or bucket of its trials. "
            "(e.g. --resume 'ablate mnist seeds')"
        ),
    ] = None,
    summarize: Annotated[
        str | None,
        typer.Option(
            help="Name or id of an ablation's run: compare its trials again from the MLflow record, without training. "
            "(e.g. --summarize 'ablate mnist seeds')"
        ),
    ] = None,
    dry_run: Annotated[
        bool, switch("--dry-run", "Print the number of trials and the workers, cores and GPUs of each, and stop.")
    ] = False,
    print_spec: PrintSpec = False,
    json: Json = False,
    address: Address = None,
    detach: Detach = False,
    **flags: Any,
) -> None:
    """Train variants of a Glow on Ray Tune, each at several seeds, and compare them with error bars.

    Every value of one axis (such as --depths) is combined with every value of the others. An axis that is not given
    keeps the preset's value.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    at_most_one(preset=preset, spec=spec, resume=resume, summarize=summarize)
    at_most_one(resume=resume, summarize=summarize, dry_run=dry_run, print_spec=print_spec)
    if resume is not None or summarize is not None:
        do = "resume_ablation" if resume is not None else "summarize"
        _do(do, json, address, detach, run=resume or summarize, changes=given, table=True)
        return
    settings = read_ablate_spec(spec, given) if spec is not None else make_ablate_spec(preset or DEFAULT_PRESET, given)
    if print_spec:
        typer.echo(settings.to_json(), nl=False)
        return
    _do("plan" if dry_run else "ablate", json, address, detach, settings, table=True)


def add_evaluation(spec: type[EvaluationSpec], example: str, text: str) -> None:
    """Add the command of one evaluation.

    Args:
        spec: its settings.
        example: an example of the command, which begins with its name.
        text: the help of the command.
    """

    @app.command(example.partition(" ")[0], epilog=f"Example: glowctl {example}", help=text)
    @with_flags_of(spec)
    def evaluation(
        *, file: SpecFile = None, json: Json = False, address: Address = None, detach: Detach = False, **flags: Any
    ) -> None:
        _evaluate([spec], flags, json, address, detach, file)


add_evaluation(
    NllSpec,
    "nll --datasets mnist,fashion-mnist",
    "Score data sets with a trained model: mean bits/dim with 95 % intervals, also per class, and a histogram.",
)
add_evaluation(
    SampleSpec,
    "sample --temperatures 0,0.5,0.7,0.9,1",
    "Draw images from a trained model, at one temperature or several.",
)
add_evaluation(
    InterpolateSpec,
    "interpolate --pairs-per-class 2 --mode slerp",
    "Draw images on a path in latent space between two real images: random pairs, or two image files of yours.",
)
add_evaluation(
    OodSpec,
    "ood --batch-sizes 2,5,10,25",
    "Test whether batches of images are like a model's training data, by the typicality test and other detectors.",
)


@app.command(epilog="Example: glowctl check photos/ --model models:/glow-mnist@champion --no-record")
@with_flags_of(CheckSpec, leave_out={"sources"})
def check(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE...",
            show_default=False,
            help="Images: files, a folder, a bucket, folder:PATH, arrays:PATH, parquet:PATH, packed:PATH, the name of "
            "a known data set, or - for paths on standard input, one per line.",
        ),
    ] = None,
    *,
    file: SpecFile = None,
    json: Json = False,
    exit_zero: Annotated[
        bool, switch("--exit-zero", "Exit with 0 also if the batch does not belong, to only report.", panel="Results")
    ] = False,
    **flags: Any,
) -> None:
    """Check whether a batch of images belongs to what a model was trained on, and list the images that do not.

    The exit code is 0 if the batch belongs and 3 if it does not. It runs on this machine without Ray.
    """
    from glowctl.dispatch import check as perform
    from glowctl.display.displays import make_display

    given = {name: value for name, value in {"sources": sources or None, **flags}.items() if value is not None}
    settings = validated(CheckSpec, given) if file is None else read_spec(CheckSpec, file, given)
    belongs = perform(settings, sys.stdin if "-" in settings.sources else (), make_display("json" if json else "auto"))
    raise typer.Exit(0 if belongs or exit_zero else STRANGE)


@app.command(epilog="Example: glowctl watch camera/ --model models:/glow-mnist@champion --exit-on-alarm")
@with_flags_of(WatchSpec, leave_out={"source"})
def watch(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            show_default=False,
            help="Folder or bucket that images arrive in, with its subfolders, or - for paths on standard input.",
        ),
    ] = None,
    *,
    rehearse: Annotated[
        str | None,
        typer.Option(
            help="Images that belong, in place of SOURCE: run through them in the order of their names, say how often "
            "there would have been an alarm and what to do about it, and exit with 3 if it is too often. "
            "(e.g. --rehearse yesterday)"
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Name or id of a watch's run, in place of SOURCE: continue it, with its evidence and its files. "
            "(e.g. --resume 'watch mnist 1x1')"
        ),
    ] = None,
    acknowledge: Annotated[
        bool,
        typer.Option(
            "--acknowledge",
            help="With --resume, after an alarm whose cause is gone: begin the evidence anew, and log that.",
        ),
    ] = False,
    json: Json = False,
    **flags: Any,
) -> None:
    """Watch a stream of images, and raise an alarm when it no longer belongs to what a model was trained on.

    The promise of --guarantee holds however long the watch lasts and however often you look. The watch lasts until
    standard input ends, or until Ctrl-C. It runs on this machine without Ray.
    """
    from glowctl.dispatch import rehearse as perform_rehearsal
    from glowctl.dispatch import watch as perform
    from glowctl.display.displays import make_display

    at_most_one(source=source, rehearse=rehearse, resume=resume)
    if not (source or rehearse or resume):
        raise SpecError("there is no SOURCE to watch", remedy="name a folder, or - for paths", code="source-missing")
    if acknowledge and resume is None:
        raise SpecError("--acknowledge is without a run", remedy="name the run with --resume", code="run-missing")
    given = {name: value for name, value in flags.items() if value is not None}
    display = make_display("json" if json else "auto")
    where = {"source": rehearse or source} if rehearse or source else {}
    spec = None if resume is not None else validated(WatchSpec, {**where, **given})
    if rehearse is not None and spec is not None:
        raise typer.Exit(0 if perform_rehearsal(spec, display) else STRANGE)
    raise typer.Exit(STRANGE if perform(spec, sys.stdin, display, resume, given, acknowledge) else 0)


@app.command(epilog="Example: glowctl evaluate --model models:/glow-mnist@champion")
@with_flags_of(*EVALUATIONS.values())
def evaluate(*, json: Json = False, address: Address = None, detach: Detach = False, **flags: Any) -> None:
    """Run nll, sample, interpolate and ood on one model, with the flags of all four."""
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
        refuse_unused(settings[-1], given)
    _do("evaluate", json, address, detach, *settings)


@app.command(epilog="Example: glowctl demo")
def demo(
    json: Json = False,
    output: Output = "outputs",
    tracking_uri: TrackingUri = None,
    address: Address = None,
    detach: Detach = False,
) -> None:
    """Train and compare small Glows on handwritten digits, then interpolate and test for out-of-distribution images.

    A model with each of the three permutations is trained at three seeds, several models at the same time. The best
    model is then used for the interpolation and the test. This takes one to four minutes on 2 cores, and downloads
    nothing.
    """
    where = {"output": output, "tracking_uri": tracking_uri}
    _do("demo", json, address, detach, changes=where, table=True)


@app.command(epilog="Example: glowctl doctor --data-root ~/data")
def doctor(
    tracking_uri: TrackingUri = None,
    data_root: DataRoot = None,
) -> None:
    """Check this machine, the MLflow store and the data sets, and print every problem.

    Memory, disks, the default of --output, Python, torch, GPUs and Ray are checked too. The exit code is 1 if a problem
    would make a training fail.
    """
    from glowctl.commands.doctor import examine

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
    """Carry out a request on this machine, or as a job of the cluster at `address`; exit with the job's exit code."""
    from glowctl.display.displays import make_display

    at = address_of(address)
    if detach and at is None:
        raise SpecError(
            "--detach submits a job to a cluster without waiting for it, but no cluster is named",
            remedy="give its --address too, such as --address http://localhost:8265",
            code="no-cluster-named",
        )
    if estimating.get():
        if what not in ("train", "ablate", "evaluate"):
            raise SpecError(
                f"there is no estimate of {what.replace('_', ' ')}",
                remedy="leave out --resume, --summarize and --dry-run",
                code="flags-exclude-each-other",
            )
        what, table = "estimate", False
    request = Request.of(what, *specs).model_copy(update={"run": run, "changes": dict(changes or {})})
    display = make_display("json" if json else "auto", table=table)
    continues = "; a job that was submitted continues on the cluster: see glowctl jobs" if at else ""
    with interruptible(f"stopped{continues}"):
        if at is None:
            from glowctl.dispatch import perform

            perform(request, display)
            return
        from glowctl.cluster.submission import submit

        raise typer.Exit(submit(request, display, at, detach))


estimates.registered_commands = [
    command
    for command in app.registered_commands
    if (command.name or getattr(command.callback, "__name__", "")) in ESTIMATED
]
app.add_typer(estimates, name="estimate")
add_data_commands(app, _do)
add_record_commands(app)
add_sharing_commands(app)
add_cluster_commands(app)


def main() -> None:
    """Run the command line.

    Every error is one sentence on standard error, and with ``--json`` also an event on standard output. The exit code
    is then 2 if the command line is wrong, else 1.
    """
    set_up_process()
    try:
        with scratch_folder():
            check_file_names()
            raise SystemExit(app(standalone_mode=False))  # Typer then raises its errors, and returns the exit code
    except typer.Abort as abort:
        if isinstance(abort.__cause__, EOFError):  # Typer takes it for the end of the input, and shows nothing
            report_failure(abort.__cause__, sys.argv[1:])
        raise SystemExit(FAILURE) from None
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # Typer has printed the help
            raise SystemExit(USAGE) from None
        raise SystemExit(report_failure(usage_error(error) or error, sys.argv[1:])) from None
    finally:
        drop_unread()
        # Without this, Python visits every object of torch and MLflow before it ends, which takes more than a second.
        # Triton, which comes with torch for CUDA, would print lines about each of its frozen objects.
        if "triton" not in sys.modules:
            gc.freeze()


if __name__ == "__main__":
    main()
