"""The options of `glowctl`: a flag for every field of a spec, and those that many commands share."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from jobs.errors import SpecError
from jobs.specs.base import flag_of, theme_of
from jobs.specs.presets import PRESETS
from jobs.specs.training import TrainSpec

__all__ = [
    "Address",
    "Detach",
    "Experiment",
    "Json",
    "Output",
    "Preset",
    "PrintSpec",
    "SpecFile",
    "TrackingUri",
    "at_most_one",
    "with_flags_of",
]


def option_of(spec: type[BaseModel], name: str) -> inspect.Parameter:
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


def with_flags_of(*specs: type[BaseModel], leave_out: Collection[str] = ()) -> Any:
    """Gives a command that takes `**flags` a flag for every field of these specs, less those that are left out."""

    def decorated(command: Any) -> Any:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
        flags = {name: option_of(spec, name) for spec in specs for name in spec.model_fields if name not in leave_out}
        parameters = [*own, *flags.values()]
        command.__signature__ = inspect.Signature(parameters)
        # Typer evaluates annotations by itself, which these are already.
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorated


SpecFile = Annotated[
    str | None,
    typer.Option(
        "--spec",
        help="JSON file of settings to start from, or a run's own in MLflow; flags override. "
        "(e.g. --spec runs:/RUN_ID/spec.json)",
    ),
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
Experiment = Annotated[
    str, typer.Option(help=f"{TrainSpec.model_fields['experiment'].description} (e.g. --experiment letters)")
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to run on, by its dashboard; $RAY_ADDRESS, else a Ray of this machine's own if not given. "
        "(e.g. --address http://localhost:8265)",
        rich_help_panel="Cluster",
    ),
]
Detach = Annotated[
    bool,
    typer.Option(
        "--detach", help="Leave the job to the cluster, and say its id.", show_default=False, rich_help_panel="Cluster"
    ),
]


def at_most_one(context: typer.Context, *names: str) -> None:
    """Raises SpecError if several of these options were given."""
    sources = {name: context.get_parameter_source(name) for name in names}
    starts = [f"--{name}" for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if len(starts) > 1:
        raise SpecError(f"{' and '.join(starts)} each say what to start from: give one of them")
