"""How one sees whether another package still has what this project relies on: the lines of `tests.upstream_names`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

__all__ = ["Name", "has", "reads", "says", "shows", "takes"]


@dataclass(frozen=True)
class Name:
    """One thing that another package may take away.

    `name` is what it is called there, `ours` how our files say it, `breaks` what a user would notice without it, and
    `holds` whether it is still as we need it (False, or any exception, if not).
    """

    name: str
    breaks: str
    holds: Callable[[], bool]
    ours: str


def has(path: str, breaks: str, ours: str = "") -> Name:
    """An attribute of a module or a class: "package.module:Class.attribute"."""
    last = path.replace(":", ".").rpartition(".")[2]
    return Name(path, breaks, lambda: resolve_name(path) is not Ellipsis, ours or last)


def takes(path: str, parameters: str, breaks: str, ours: str = "") -> Name:
    """Parameters, separated by spaces, that a function must have."""
    wanted = set(parameters.split())
    last = path.replace(":", ".").removesuffix(".__init__").rpartition(".")[2]

    def holds() -> bool:
        return wanted <= inspect.signature(resolve_name(path)).parameters.keys()

    return Name(f"{path}({', '.join(parameters.split())})", breaks, holds, ours or last)


def says(name: str, file: str, breaks: str, text: str = "", ours: str = "") -> Name:
    """A text in a file of an installed package: by default the name itself."""
    return Name(name, breaks, lambda: (text or name).encode() in _content(file), ours or name)


def reads(breaks: str, **variables: str) -> Name:
    """Environment variables of one purpose, each with the file of the installed package that reads it."""

    def holds() -> bool:
        return all(_spelled(name, file).encode() in _content(file) for name, file in variables.items())

    return Name(", ".join(variables), breaks, holds, next(iter(variables)))


def shows(name: str, breaks: str, ours: str = "") -> Name:
    """A text somewhere in the scripts of MLflow's UI."""
    return Name(name, breaks, lambda: name.encode() in _ui_scripts(), ours or name)


def _spelled(variable: str, file: str) -> str:
    """Return how a file has the name of a variable: the raylet adds RAY_ itself to the names of its settings."""
    return variable.removeprefix("RAY_") if file.endswith("raylet") else variable


@cache
def _content(file: str) -> bytes:
    package, _, rest = file.partition("/")
    found = find_spec(package)
    assert found is not None, f"{package} is not installed"
    assert found.submodule_search_locations, f"{package} is a single file"
    return Path(next(iter(found.submodule_search_locations)), rest).read_bytes()


@cache
def _ui_scripts() -> bytes:
    found = find_spec("mlflow")
    assert found is not None, "mlflow is not installed"
    assert found.submodule_search_locations
    folder = Path(next(iter(found.submodule_search_locations)), "server/js/build/static/js")
    return b"\n".join(path.read_bytes() for path in sorted(folder.glob("*.js")))
