"""The options of ``glowctl``: one flag per field of a spec, the options that several commands share, and spec files."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel

from glowctl.errors import SpecError
from glowctl.specs.ablation import AblateSpec, own_and_common
from glowctl.specs.base import AnySpec, flag_of, help_of, theme_of, validated
from glowctl.specs.evaluation import USED_WITH, USED_WITHOUT
from glowctl.specs.training import PRESETS, TrainSpec

if TYPE_CHECKING:
    from glowctl.text import JsonObject


def option_of(spec: type[BaseModel], name: str, kind: Any) -> inspect.Parameter:
    """Return the parameter by which a command accepts the flag for a field of a spec.

    The default of the parameter is None. It means that the flag was not given, so that the preset, the spec file or the
    default of the field decides.

    Args:
        spec: the class of the spec.
        name: the field.
        kind: the field's type. A list is given as text with commas, at which the spec splits.
    """
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
        help=f"{help_of(spec, name)} ({facts})",
        rich_help_panel=theme_of(spec, name),
        show_default=False,
    )
    if any(get_origin(part) is tuple for part in (kind, *get_args(kind))):
        kind = str
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def with_flags_of(*specs: type[BaseModel], leave_out: Collection[str] = ()) -> Any:
    """Return a decorator that gives a command with `**flags` one flag per field of the specs.

    Args:
        specs: classes of specs; a field that several of them have becomes one flag.
        leave_out: names of fields without a flag.
    """

    def decorated(command: Any) -> Any:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
        flags = {
            name: option_of(spec, name, kind)
            for spec in specs
            for name, kind in get_type_hints(spec).items()
            if name in spec.model_fields.keys() - set(leave_out)
        }
        parameters = [*own, *flags.values()]
        command.__signature__ = inspect.Signature(parameters)
        # Typer would evaluate annotations that are text; these are evaluated already.
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorated


def switch(flag: str, text: str, short: str | None = None, panel: str | None = None) -> Any:
    """Return the option of a flag without a value."""
    flags = (flag, short) if short else (flag,)
    return typer.Option(*flags, help=text, show_default=False, rich_help_panel=panel)


DEFAULT_PRESET = "laptop"
"""The preset of commands that get neither --preset nor --spec."""

SpecFile = Annotated[
    str | None,
    typer.Option(
        "--spec",
        help="JSON file with settings to start from, or runs:/RUN_ID/spec.json for those of an earlier run; flags "
        "override them. (e.g. --spec runs:/1a2b3c4d/spec.json)",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help=f"Settings to start from: {', '.join(PRESETS)}; flags override them. "
        f"(default {DEFAULT_PRESET}; e.g. --preset paper)"
    ),
]
PrintSpec = Annotated[bool, switch("--print-spec", "Print the settings as JSON, as --spec reads them, and stop.")]
Json = Annotated[bool, switch("--json", "Print one JSON object per line, for programs that read it.")]
Output = Annotated[
    str, typer.Option(help="Folder (made if it is new) or bucket for results. (e.g. --output s3://bucket/glow)")
]
TrackingUri = Annotated[
    str | None,
    typer.Option(help=f"{help_of(TrainSpec, 'tracking_uri')} (e.g. --tracking-uri http://localhost:5000)"),
]
Experiment = Annotated[str, typer.Option(help="MLflow experiment that the runs are in. (e.g. --experiment letters)")]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to use, by the address of its dashboard. Without it: $RAY_ADDRESS, else Ray runs on this "
        "machine, as with --address local. (e.g. --address http://localhost:8265)",
        rich_help_panel="Cluster",
    ),
]
ClusterAddress = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Ray cluster to look at, by the address of its dashboard. Without it: $RAY_ADDRESS. (e.g. --address "
        "http://localhost:8265)",
        rich_help_panel="Cluster",
    ),
]
Detach = Annotated[
    bool,
    switch(
        "--detach",
        "Submit the job to the cluster, print its id, and exit. Without it: show its progress until it ends.",
        panel="Cluster",
    ),
]
DataRoot = Annotated[str | None, typer.Option(help=f"{help_of(TrainSpec, 'data_root')} (e.g. --data-root ~/data)")]


def at_most_one(**given: str | bool | None) -> None:
    """Check that at most one of several flags was given, by the value of each.

    Raises:
        SpecError: if more were given.
    """
    flags = [f"--{name.replace('_', '-')}" for name, value in given.items() if value not in (None, False)]
    if len(flags) > 1:
        raise SpecError(
            f"{' and '.join(flags)} cannot be combined, because each starts something else",
            remedy="leave out all but one of them",
            code="flags-exclude-each-other",
        )


def refuse_unused(spec: BaseModel, given: Collection[str]) -> None:
    """Check that each flag of an evaluation that was given has a use.

    The classes of specs cannot check this, because a stored spec has a value for every setting.

    Args:
        spec: the settings.
        given: names of the fields whose values are from flags.

    Raises:
        SpecError: for a flag that another setting makes useless.
    """
    for name in given:
        flag, instead, needed = flag_of(type(spec), name), USED_WITHOUT.get(name), USED_WITH.get(name)
        if instead is not None and getattr(spec, instead) is not None:
            why, remedy = f"with {flag_of(type(spec), instead)}", f"leave out {flag}"
        elif needed is not None and getattr(spec, needed) is None:
            other = flag_of(type(spec), needed)
            why, remedy = f"without {other}", f"add {other}, such as {other} all, or leave out {flag}"
        else:
            continue
        raise SpecError(
            f"{flag} {getattr(spec, name)} has no use {why}", remedy=remedy, code="flags-exclude-each-other"
        )


EXAMPLE = "use the spec.json of a run, such as runs:/RUN_ID/spec.json, or the output of --print-spec"
"""A remedy: where a spec can be had."""


def read_spec(spec: type[AnySpec], path: str | Path, values: Mapping[str, Any]) -> AnySpec:
    """Return the settings in a file, with some of them replaced.

    Args:
        spec: class of the spec.
        path: path of the file, or runs:/RUN_ID/FILE.
        values: values that replace those in the file, by the names of fields.

    Raises:
        SpecError: if the file cannot be read, or a setting is unknown or not allowed.
        TrackingError: if the MLflow store does not answer.
    """
    found = read_json(path, values.get("tracking_uri"))
    return validated(spec, {**found, **values}, str(path), values.keys())


def read_json(path: str | Path, tracking_uri: str | None = None) -> JsonObject:
    """Return the JSON object in a file.

    Args:
        path: path of the file, or runs:/RUN_ID/FILE for an artifact of a run.
        tracking_uri: value of --tracking-uri, if given.

    Raises:
        SpecError: if the file cannot be read, or contains no JSON object.
        TrackingError: if the MLflow store does not answer.
    """
    content = _content(str(path), tracking_uri)
    try:
        found = json.loads(content)
    except ValueError as error:
        raise SpecError(f"--spec {path} is not JSON ({error})", remedy=EXAMPLE, code="not-a-spec") from None
    if not isinstance(found, dict):
        raise SpecError(f"--spec {path} does not contain a JSON object", remedy=EXAMPLE, code="not-a-spec")
    return found


def _content(path: str, tracking_uri: str | None) -> bytes:
    artifact = re.fullmatch(r"runs:/([^/]+)/(.+)", path)
    if artifact is None:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise SpecError(
                f"--spec {path} cannot be read ({error.strerror})", remedy="correct the path", code="spec-unreadable"
            ) from None
    from glowctl.tracking.runs import read_artifact  # mlflow takes a second
    from glowctl.tracking.store import check_existing
    from glowctl.tracking.uris import tracking_uri as found_uri
    from glowctl.tracking.uris import without_password

    uri = found_uri(tracking_uri)
    check_existing(uri)
    found = read_artifact(uri, artifact[1], artifact[2])
    if found is None:
        raise SpecError(
            f"--spec {path} does not exist in the MLflow store {without_password(uri)}",
            remedy="correct --spec or --tracking-uri",
            code="spec-unreadable",
        )
    return found


def read_ablate_spec(path: str | Path, values: Mapping[str, Any]) -> AblateSpec:
    """Return the settings of an ablation in a file, with some of them replaced, as `read_spec` does."""
    found = read_json(path, values.get("tracking_uri"))
    if not isinstance(found.get("train"), dict):
        raise SpecError(
            f"--spec {path} does not contain the settings of an ablation, because it has no object under the key train",
            remedy="use the spec.json of an ablation, such as runs:/RUN_ID/spec.json, or the output of glowctl ablate "
            "--print-spec",
            code="not-a-spec",
        )
    own, common = own_and_common(values)
    train = validated(TrainSpec, {**found["train"], **common}, str(path), common.keys())
    return validated(AblateSpec, {**found, **own, "train": train}, str(path), own.keys())
