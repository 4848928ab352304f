"""Turn errors of Typer, such as an unknown flag or a word in place of a number, into errors of one sentence."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from jobs.errors import SpecError
from jobs.specs.base import expected

__all__ = ["usage_error"]


def usage_error(error: Any) -> SpecError | None:
    """Return Typer's error about a command line as a SpecError; None for an error that is not Typer's.

    The sentence names the flag or argument and, if its value is wrong, the value and what is allowed.
    """
    if not hasattr(error, "format_message"):
        return None
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "glowctl"
    command, remedy = path.removeprefix("glowctl "), f"see {path} --help"
    parameter = getattr(error, "param", None)
    if hasattr(error, "possibilities"):
        similar = f" (similar: {', '.join(sorted(error.possibilities))})" if error.possibilities else ""
        return SpecError(f"{command} has no flag {error.option_name}{similar}", remedy=remedy, code="unknown-flag")
    if parameter is None:
        said = re.sub(r"\. Did you mean (.*)\?", r" (similar: \1)", str(error.message)).rstrip(".")
        return SpecError(f"{said[:1].lower()}{said[1:]}", remedy=remedy, code="wrong-command-line")
    name = _name(parameter)
    if type(error).__name__ == "MissingParameter":
        return SpecError(f"{command} needs {name}", remedy=remedy, code="missing-argument")
    return SpecError(f"{name} {_allowed(error)}", remedy=remedy, code="setting-not-allowed")


def _name(parameter: Any) -> str:
    """Return a flag, such as "--epochs", or the name that the help gives to an argument, such as "RUN"."""
    flags = [flag for flag in parameter.opts if flag.startswith("-")]
    return flags[0] if flags else str(parameter.metavar or parameter.name.upper())


def _allowed(error: Any) -> str:
    cause = error.__cause__
    if not isinstance(cause, ValidationError):  # older versions of Typer do not use pydantic
        return f"is wrong: {error.message}".rstrip(".")
    problem = cause.errors()[0]
    if problem["type"] != "value_error":
        quoted = repr if problem["type"].endswith("parsing") else str
        return f"must be {expected(problem)}, not {quoted(problem['input'])}"
    said = str(problem["ctx"]["error"]).rstrip(".")
    choice = re.fullmatch(r"(.+) is not one of (.+)", said)
    return f"must be one of {choice[2]}, not {choice[1]}" if choice else f"is wrong: {said}"
