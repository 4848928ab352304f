from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError
from pydantic.config import JsonDict

from jobs.errors import SpecError

__all__ = ["colour", "flag_of", "numbers", "refuse", "setting", "theme_of", "validated"]

Spec = TypeVar("Spec", bound=BaseModel)

Number = TypeVar("Number", int, float)


def setting(default: Any, theme: str, description: str, example: Any, flag: str | None = None) -> Any:
    """A field. `flag` names its option where its own name cannot."""
    extra: JsonDict = {"theme": theme, **({"flag": flag} if flag else {})}
    return Field(default, description=description, examples=[example], json_schema_extra=extra)


def numbers(value: Any, kind: type[Number], allowed: str) -> Any:
    """Numbers with commas between, each once; anything but text as it is."""
    if not isinstance(value, str):
        return value
    try:
        found = tuple(dict.fromkeys(kind(number) for number in value.split(",") if number.strip()))
    except ValueError:
        found = ()
    if not found:
        raise ValueError(f"is {allowed} with commas between, not {value!r}")
    return found


def colour(text: str) -> tuple[int, int, int]:
    """ "white", "black" or "R,G,B" as RGB. Raises ValueError for anything else."""
    names = {"white": (255, 255, 255), "black": (0, 0, 0)}
    if text in names:
        return names[text]
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and int(part) <= 255 for part in parts):
        raise ValueError(f"must be white, black, or R,G,B, each from 0 to 255, not {text!r}")
    red, green, blue = map(int, parts)
    return red, green, blue


def refuse(settings: Iterable[str], what: str) -> None:
    """Raises SpecError if any of these were given, which `what` has already."""
    flags = ", ".join("--" + name.replace("_", "-") for name in sorted(settings))
    if flags:
        raise SpecError(f"{what} keeps its settings: leave out {flags}")


def theme_of(spec: type[BaseModel], name: str) -> str:
    """The theme that `glowctl --help` lists a setting under."""
    return str(_extra(spec, name)["theme"])


def flag_of(spec: type[BaseModel], name: str) -> str:
    """The option of a setting on the command line."""
    return str(_extra(spec, name).get("flag") or "--" + name.replace("_", "-"))


def _extra(spec: type[BaseModel], name: str) -> JsonDict:
    extra = spec.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return extra


def validated(spec: type[Spec], values: Mapping[str, Any]) -> Spec:
    """A spec of these values. Raises SpecError for what cannot be."""
    try:
        return spec(**values)
    except ValidationError as error:
        raise SpecError("; ".join(_sentence(problem) for problem in error.errors())) from None


def _sentence(problem: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "value_error":  # ours: it names the setting itself
        message = str(problem["ctx"]["error"])
        return message if not where or message.startswith(where) else f"{where} {message}"
    if problem["type"] == "extra_forbidden":
        return f"there is no setting called {where}"
    return f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]}, not {problem['input']!r}"
