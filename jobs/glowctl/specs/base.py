"""What all specs share: fields that carry their flag's help, types of values, and validation.

A spec is a frozen pydantic model of one job's settings, a `Spec`. `setting` makes a field, whose docstring is the help
of its flag; `validated` makes a spec, and turns what pydantic says about a wrong value into one sentence in the words
of the command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from copy import copy
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict

from glowctl.errors import SpecError
from glowctl.text import seconds_in

AnySpec = TypeVar("AnySpec", bound=BaseModel)

Value = TypeVar("Value")

EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "string_pattern_mismatch": "text that is not empty",
    "tuple_type": "a list",
    "literal_error": "one of {expected}",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
}
"""Pydantic's error types -> what is allowed; names in braces are keys of the error's context."""


class Spec(BaseModel):
    """The settings of a job. Each field is a flag, and its docstring the help of the flag."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, defer_build=True)

    def to_json(self) -> str:
        """Return the settings as the text of a ``spec.json``, which ``--spec`` reads."""
        return self.model_dump_json(indent=2) + "\n"


def setting(default: Any, theme: str, example: Any, flag: str | None = None) -> Any:
    """Return a pydantic field of a spec that also contains what the command line needs to make its flag.

    The docstring under the field is the help of the flag: what it sets, in which unit, and what happens without it.

    Args:
        default: the value if the flag is not given; `...` for an argument that must be given.
        theme: heading of the group in ``--help`` that lists the flag.
        example: a value for the help's example.
        flag: the flag's name, where it cannot be the field's name (`from` is a keyword of Python).
    """
    extra: JsonDict = {"theme": theme, **({"flag": flag} if flag else {})}
    return Field(default, examples=[example], json_schema_extra=extra)


def same_as(spec: type[BaseModel], name: str) -> Any:
    """Return a field with the default, the help and the flag of the field that another spec has under this name."""
    return copy(spec.model_fields[name])


def as_text(read: Callable[[str], object]) -> AfterValidator:
    """Return a validator that keeps a text as it is, and raises the ValueError of `read` if that cannot read it."""

    def check(text: str) -> str:
        read(text)
        return text

    return AfterValidator(check)


def _parts(value: Any) -> Any:
    """Split text at commas; return anything but text unchanged."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _different(values: tuple[Value, ...]) -> tuple[Value, ...]:
    if not values:
        raise ValueError("must contain at least one value")
    return tuple(dict.fromkeys(values))


def _whole_or_part(number: float) -> float:
    if number > 1 and number % 1:
        raise ValueError(f"must be a whole number or a fraction below 1, not {number}")
    return number


def colour(text: str) -> tuple[int, int, int]:
    """Read "white", "black" or "R,G,B" as red, green and blue, each from 0 to 255.

    Raises:
        ValueError: for any other text.

    Examples:
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


class Every(NamedTuple):
    """An interval; exactly one of its fields is not None.

    Attributes:
        epochs: number of epochs.
        steps: number of optimizer steps.
        seconds: time in seconds.
    """

    epochs: int | None = None
    steps: int | None = None
    seconds: float | None = None


def every(text: str) -> Every:
    """Read an interval: "2" is epochs, "500steps" is optimizer steps, and "10m" is a time in s, m or h.

    Raises:
        ValueError: for any other text, zero included.

    Examples:
        >>> every("2")
        Every(epochs=2, steps=None, seconds=None)
        >>> every("500steps")
        Every(epochs=None, steps=500, seconds=None)
        >>> every("10m").seconds
        600.0
    """
    found = re.fullmatch(r"([1-9]\d*) *(steps?|s|m|h|)", text.strip())
    if found is None:
        raise ValueError(f"must be epochs such as 2, steps such as 500steps, or a time such as 10m, not {text!r}")
    number, unit = int(found[1]), found[2]
    if unit in ("s", "m", "h"):
        return Every(seconds=seconds_in(text))
    return Every(steps=number) if unit else Every(epochs=number)


Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Temperature = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Cpus = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Gpus = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_whole_or_part)]
Price = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(pattern=r"\S")]
Several = Annotated[tuple[Value, ...], BeforeValidator(_parts), AfterValidator(_different)]
"""At least one value, without repetitions; on the command line with commas between them."""


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


def help_of(spec: type[BaseModel], name: str) -> str:
    """Return the help of a field's flag, in one line."""
    return " ".join(str(spec.model_fields[name].description).split())


def _extra(spec: type[BaseModel], name: str) -> JsonDict:
    extra = spec.model_fields[name].json_schema_extra
    return extra if isinstance(extra, dict) else {}


def validated(
    spec: type[AnySpec], values: Mapping[str, Any], file: str | None = None, given: Collection[str] = ()
) -> AnySpec:
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
