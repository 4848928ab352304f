"""`glowctl`: flags -> spec -> submission. Nothing else."""

from __future__ import annotations

import errno
import inspect
import sys
import tempfile
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from pydantic import BaseModel

from jobs.ablation_spec import AXES, PER_TRIAL, AblateSpec, make_ablate_spec, read_ablate_spec
from jobs.errors import in_flags
from jobs.evaluation_specs import EvaluationSpec, InterpolateSpec, NllSpec, OodSpec, SampleSpec
from jobs.specs import PRESETS, SpecError, TrainSpec, flag_of, make_train_spec, read_spec, theme_of, validated

__all__ = ["app", "main"]

FAILURE, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143

# By name, so that the command line need not import torch or ray to know them. Their messages are for users.
FOR_USERS = {"CheckpointError", "DatasetCorrupt", "DatasetNotFound", "JobError", "TrackingError", "TrainingDiverged"}

EVALUATIONS: list[type[EvaluationSpec]] = [NllSpec, SampleSpec, InterpolateSpec, OodSpec]

app = typer.Typer(
    help="Train Glow normalizing flows on Ray, record them in MLflow, and tell what belongs to their training data.",
    epilog="First steps: glowctl demo, then glowctl ui. What this machine has: glowctl doctor.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _option(spec: type[BaseModel], name: str) -> inspect.Parameter:
    """The flag of a spec's field. Its default is None, not given: then the spec, preset or spec file decides."""
    field = spec.model_fields[name]
    example = (field.examples or [None])[0]
    flag = flag_of(spec, name)
    off = f"--no-{flag[2:]}"
    switch = isinstance(example, bool)
    shown = f"{flag if example else off}" if switch else f"{flag} {example}"
    default = (flag if field.default else off) if switch else field.default
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    facts = (f"default {default}; " if default is not None else "") + f"e.g. {shown}"
    option = typer.Option(
        f"{flag}/{off}" if switch else flag,
        help=f"{field.description} ({facts})",
        rich_help_panel=theme_of(spec, name),
        show_default=False,
    )
    several = "tuple" in str(field.annotation)  # with commas between, which the spec takes apart
    kind: Any = str if several else field.annotation
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _with_flags_of(*specs: type[BaseModel], leave_out: Collection[str] = ()) -> Any:
    """Gives a command that takes `**flags` a flag for every field of these specs, less those that are left out."""

    def decorated(command: Any) -> Any:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
        flags = {name: _option(spec, name) for spec in specs for name in spec.model_fields if name not in leave_out}
        parameters = [*own, *flags.values()]
        command.__signature__ = inspect.Signature(parameters)
        # Typer evaluates annotations by itself, which these are already.
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorated


SpecFile = Annotated[
    Path | None,
    typer.Option("--spec", help="JSON file of settings to start from; flags override. (e.g. --spec spec.json)"),
]
Preset = Annotated[
    str, typer.Option(help=f"Settings to start from: {', '.join(PRESETS)}; flags override. (e.g. --preset paper)")
]
PrintSpec = Annotated[
    bool, typer.Option("--print-spec", help="Print the settings as JSON and stop.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON lines, for machines.", show_default=False)]
Output = Annotated[str, typer.Option(help=f"{TrainSpec.model_fields['output'].description} (e.g. --output runs)")]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        help=f"{TrainSpec.model_fields['tracking_uri'].description} (e.g. --tracking-uri http://localhost:5000)"
    ),
]


@app.command(epilog="Example: glowctl train --dataset mnist --preset laptop --workers 2")
@_with_flags_of(TrainSpec)
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
    **flags: Any,
) -> None:
    """Train a Glow data-parallel on Ray, and record it in MLflow.

    Presets: smoke (seconds), laptop (minutes to an hour on a few cores), paper (the course report's own
    configuration: meant for a GPU).
    """
    given = {name: value for name, value in flags.items() if value is not None}
    _at_most_one(context, "preset", "spec", "resume")
    if resume is not None and print_spec:
        raise SpecError("--print-spec shows the settings of a new run: leave out --resume")
    if resume is None:
        settings = read_spec(TrainSpec, spec, given) if spec is not None else make_train_spec(preset, given)
        if print_spec:
            typer.echo(settings.to_json(), nl=False)
            return

    from jobs import submission
    from jobs.progress import make_display

    display = make_display("json" if json else "auto")
    with _interruptible():
        if resume is not None:
            submission.resume_training(resume, given, display)
        else:
            submission.train(settings, display)


@app.command(epilog="Example: glowctl ablate --permutations all --seeds 3 --dataset mnist --preset laptop")
@_with_flags_of(AblateSpec, TrainSpec, leave_out={"train", *AXES.values(), *PER_TRIAL.values()})
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
    **flags: Any,
) -> None:
    """Train in many variants on Ray Tune, at several seeds each, and compare them with error bars.

    Every value of one axis is tried with every value of the others; an axis that is not given keeps the preset's value.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    _at_most_one(context, "preset", "spec", "resume", "summarize")
    if resume is not None or summarize is not None:
        for flag, asked in (("--print-spec", print_spec), ("--dry-run", dry_run)):
            if asked:
                raise SpecError(f"{flag} is for a new ablation: leave it out")
    else:
        settings = read_ablate_spec(spec, given) if spec is not None else make_ablate_spec(preset, given)
        if print_spec:
            typer.echo(settings.to_json(), nl=False)
            return

    from jobs import submission
    from jobs.progress import make_display

    display = make_display("json" if json else "auto", table=True)
    with _interruptible():
        if resume is not None:
            submission.resume_ablation(resume, given, display)
        elif summarize is not None:
            submission.summarize_ablation(summarize, given, display)
        elif dry_run:
            submission.plan_ablation(settings, display)
        else:
            submission.ablate(settings, display)


@app.command(epilog="Example: glowctl nll --datasets mnist,fashion-mnist")
@_with_flags_of(NllSpec)
def nll(*, spec: SpecFile = None, json: Json = False, **flags: Any) -> None:
    """Score data sets under a trained model: mean bits/dim with intervals, per class too, and a histogram."""
    _evaluate([NllSpec], flags, json, spec)


@app.command(epilog="Example: glowctl sample --temperatures 0,0.5,0.7,0.9,1")
@_with_flags_of(SampleSpec)
def sample(*, spec: SpecFile = None, json: Json = False, **flags: Any) -> None:
    """Draw images from a trained model, at a temperature or several."""
    _evaluate([SampleSpec], flags, json, spec)


@app.command(epilog="Example: glowctl interpolate --pairs-per-class 2 --mode slerp")
@_with_flags_of(InterpolateSpec)
def interpolate(*, spec: SpecFile = None, json: Json = False, **flags: Any) -> None:
    """Draw what lies between two real images in the latents of a trained model: a row a class, or your own pair."""
    _evaluate([InterpolateSpec], flags, json, spec)


@app.command(epilog="Example: glowctl ood --batch-sizes 2,5,10,25")
@_with_flags_of(OodSpec)
def ood(*, spec: SpecFile = None, json: Json = False, **flags: Any) -> None:
    """Test whether batches of images belong to what a model was trained on, by the typicality test and others."""
    _evaluate([OodSpec], flags, json, spec)


@app.command(epilog="Example: glowctl evaluate --model models:/glow-mnist@champion")
@_with_flags_of(*EVALUATIONS)
def evaluate(*, json: Json = False, **flags: Any) -> None:
    """Run nll, sample, interpolate and ood on one model."""
    _evaluate(EVALUATIONS, flags, json)


def _evaluate(
    specs: Sequence[type[EvaluationSpec]], flags: Mapping[str, Any], json: bool, file: Path | None = None
) -> None:
    settings = []
    for spec in specs:
        given = {name: flags[name] for name in spec.model_fields if flags[name] is not None}
        settings.append(validated(spec, given) if file is None else read_spec(spec, file, given))

    from jobs import submission
    from jobs.progress import make_display

    with _interruptible():
        submission.evaluate(settings, make_display("json" if json else "auto"))


@app.command(epilog="Example: glowctl demo")
def demo(json: Json = False, output: Output = "outputs", tracking_uri: TrackingUri = None) -> None:
    """Train small Glows on real handwritten digits with each of the three permutations at three seeds, side by side,
    and compare them; then interpolate with the best and test for OOD: about a minute, and nothing is downloaded."""
    from jobs import submission
    from jobs.progress import make_display

    where = {"output": output, "tracking_uri": tracking_uri}
    spec = make_ablate_spec("demo", {"permutations": "all", **where})
    display: Literal["auto", "json"] = "json" if json else "auto"
    with _interruptible():
        common = {"model": submission.ablate(spec, make_display(display, table=True)), **where}
        evaluations = [validated(InterpolateSpec, common), validated(OodSpec, common)]
        submission.evaluate(evaluations, make_display(display))


@app.command(epilog="Example: glowctl ui --port 5001")
def ui(
    tracking_uri: TrackingUri = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine. (e.g. --port 5001)")] = 5000,
) -> None:
    """Open the MLflow UI on the store that runs are recorded in. Ctrl-C ends it."""
    from jobs.ui import serve

    serve(tracking_uri, port)


@app.command(epilog="Example: glowctl doctor --data-root ~/data")
def doctor(
    tracking_uri: TrackingUri = None,
    data_root: Annotated[
        str | None, typer.Option(help=f"{TrainSpec.model_fields['data_root'].description} (e.g. --data-root ~/data)")
    ] = None,
) -> None:
    """Say what this machine has: Python, torch, GPUs, Ray, the MLflow store, data sets, and what is wrong with each."""
    from jobs.doctor import examine

    raise typer.Exit(0 if examine(tracking_uri, data_root) else FAILURE)


def _at_most_one(context: typer.Context, *names: str) -> None:
    """Raises SpecError if several of these options were given."""
    sources = {name: context.get_parameter_source(name) for name in names}
    starts = [f"--{name}" for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if len(starts) > 1:
        raise SpecError(f"{' and '.join(starts)} each say what to start from: give one of them")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM end a job with a sentence, and with the exit codes that shells expect."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        code = TERMINATED if type(interrupt).__name__ == "Terminated" else INTERRUPTED
        typer.echo("glowctl: stopped", err=True)
        raise typer.Exit(code) from None


def main() -> None:
    """The entry point: every error that a user can meet is one sentence on standard error, with exit code 2 for what
    was asked wrongly and 1 for what failed."""
    try:
        app()
    except SpecError as error:
        _fail(str(error), USAGE)
    except Exception as error:
        _fail(_sentence(error), FAILURE)


def _sentence(error: Exception) -> str:
    name = type(error).__name__
    if name in FOR_USERS:
        return in_flags(str(error)) if name.startswith("Dataset") else str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full ({error}): free some space, or choose another --output"
    with tempfile.NamedTemporaryFile("w", prefix="glowctl-", suffix=".log", delete=False) as log:
        traceback.print_exception(error, file=log)
    return f"an error that glowctl does not know ({type(error).__name__}: {error}); its traceback is in {log.name}"


def _fail(message: str, code: int) -> NoReturn:
    print(f"glowctl: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
