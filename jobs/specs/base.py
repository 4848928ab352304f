"""What all specs share: fields that carry their flag's help, the reading of lists and colours, and validation.

A spec is a frozen pydantic model of one job's settings. `setting` makes a field; `validated` makes a spec, and turns
what pydantic says about a wrong value into one sentence in the words of the command line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError
from pydantic.config import JsonDict

from jobs.errors import SpecError

__all__ = ["colour", "expected", "flag_of", "numbers", "refuse", "sentences", "setting", "theme_of", "validated"]

Spec = TypeVar("Spec", bound=BaseModel)

Number = TypeVar("Number", int, float)

EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "literal_error": "one of {expected}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
}
"""Pydantic's error types -> what is allowed; names in braces are keys of the error's context."""


def setting(default: Any, theme: str, description: str, example: Any, flag: str | None = None) -> Any:
    """Return a pydantic field of a spec that also contains what the command line needs to make its flag.

    Args:
        default: the value if the flag is not given; `...` for an argument that must be given.
        theme: heading of the group in ``--help`` that lists the flag.
        description: help text of the flag: what it sets, in which unit, and what happens without it.
        example: a value for the help's example.
        flag: the flag's name, where it cannot be the field's name (`from` is a keyword of Python).
    """
    extra: JsonDict = {"theme": theme, **({"flag": flag} if flag else {})}
    return Field(default, description=description, examples=[example], json_schema_extra=extra)


def numbers(value: Any, kind: type[Number], allowed: str) -> Any:
    """Read numbers with commas between them, and drop repeated ones; return anything but text unchanged.

    Args:
        value: the text, such as "8,16", or a value that needs no reading.
        kind: int or float.
        allowed: what the error says is allowed, such as "whole numbers such as 8,16,32".

    Raises:
        ValueError: if the text has something else in it, or no number.

    Example:
        >>> numbers("2, 5,2", int, "whole numbers such as 2,5")
        (2, 5)
    """
    if not isinstance(value, str):
        return value
    try:
        found = tuple(dict.fromkeys(kind(number) for number in value.split(",") if number.strip()))
    except ValueError:
        found = ()
    if not found:
        raise ValueError(f"must be {allowed}, with commas between them, not {value!r}")
    return found


def colour(text: str) -> tuple[int, int, int]:
    """Read "white", "black" or "R,G,B" as red, green and blue, each from 0 to 255.

    Raises:
        ValueError: for any other text.

    Example:
        >>> colour("white"), colour("255, 128, 0")
        ((255, 255, 255), (255, 128, 0))
    """
    names = {"white": (255, 255, 255), "black": (0, 0, 0)}
    if text in names:
        return names[text]
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and int(part) <= 255 for part in parts):
        raise ValueError(f"must be white, black, or R,G,B with numbers from 0 to 255, not {text!r}")
    red, green, blue = map(int, parts)
    return red, green, blue


def refuse(settings: Iterable[str], what: str) -> None:
    """Raise SpecError if the user gave any setting that cannot be changed.

    Args:
        settings: names of the fields that the user gave although they cannot be changed; may be empty.
        what: the run or ablation that keeps its settings, as the message calls it, such as "a resumed run".
    """
    flags = ", ".join("--" + name.replace("_", "-") for name in sorted(settings))
    if flags:
        raise SpecError(f"{what} keeps its settings", remedy=f"leave out {flags}", code="fixed-setting")


def theme_of(spec: type[BaseModel], name: str) -> str:
    """Return the heading of the group in ``--help`` that lists a setting."""
    return str(_extra(spec, name)["theme"])


def flag_of(spec: type[BaseModel], name: str) -> str:
    """Return the flag that sets a field, such as "--batch-size" for `batch_size`."""
    return str(_extra(spec, name).get("flag") or "--" + name.replace("_", "-"))


def _extra(spec: type[BaseModel], name: str) -> JsonDict:
    extra = spec.model_fields[name].json_schema_extra
    return extra if isinstance(extra, dict) else {}


def validated(
    spec: type[Spec], values: Mapping[str, Any], file: str | None = None, given: Collection[str] = ()
) -> Spec:
    """Return a spec with these values.

    Args:
        spec: the class.
        values: values by the names of fields.
        file: the file that the values are from, which the error then names.
        given: names of the fields whose values are from flags although `file` is given.

    Raises:
        SpecError: for an unknown setting or a value that is not allowed. The message for a value contains the flag (or
            the file and the setting's name in the file), the value, and what is allowed.
    """
    try:
        return spec(**values)
    except ValidationError as error:
        kinds = {problem["type"] for problem in error.errors()}
        unknown = "extra_forbidden" in kinds
        names = {name: flag_of(spec, name) for name in spec.model_fields if file is None or name in given}
        problem = sentences(spec, error, names)
        raise SpecError(
            problem if file is None or problem.startswith("--") else f"{file}: {problem}",
            remedy=_remedy(kinds, error.error_count()),
            code="unknown-setting" if unknown else "setting-not-allowed",
        ) from None


def _remedy(kinds: set[str], number: int) -> str:
    """Return what to do about settings that pydantic refused; empty for values, since `sentences` says what is allowed.

    Args:
        kinds: pydantic's types of the errors.
        number: number of the errors.
    """
    for kind, verb in (("extra_forbidden", "remove"), ("missing", "add")):
        if kinds == {kind}:
            return f"{verb} {'it' if number == 1 else 'them'}"
    return ""


def sentences(spec: type[BaseModel], error: ValidationError, names: Mapping[str, str]) -> str:
    """Return what is wrong with the values of a spec, with semicolons between several problems.

    Args:
        spec: the class whose values are wrong.
        error: what pydantic found.
        names: name of a field -> what to call it. Fields that are not in `names` keep their own names.
    """
    return "; ".join(_sentence(spec, problem, names) for problem in error.errors())


def expected(problem: Mapping[str, Any]) -> str:
    """Return what one of pydantic's errors says is allowed, such as "a whole number"."""
    known = EXPECTED.get(problem["type"])
    if known is None:
        return str(problem["msg"]).removeprefix("Input should be ")
    return known.format(**problem.get("ctx", {}))


def _sentence(spec: type[BaseModel], problem: Mapping[str, Any], names: Mapping[str, str]) -> str:
    path = [part for part in problem["loc"] if isinstance(part, str)]
    field = path[-1] if path else ""
    name = names.get(field, field)
    if problem["type"] == "value_error":  # raised by a validator of ours, or by a class of glow that it calls
        message = str(problem["ctx"]["error"])
        if field and not _is_spec(spec, field):
            return f"{name} {message}"
        first, space, rest = message.partition(" ")  # of all fields together, so that the message names one
        return f"{names.get(first, first)}{space}{rest}"
    if problem["type"] == "extra_forbidden":
        return f"there is no setting {field!r}"
    if problem["type"] == "missing":
        return f"{name} is missing"
    return f"{name} must be {expected(problem)}, not {problem['input']!r}"


def _is_spec(spec: type[BaseModel], field: str) -> bool:
    found = spec.model_fields.get(field)
    return found is not None and isinstance(found.annotation, type) and issubclass(found.annotation, BaseModel)
