"""Pages of the site that are made from the code: the help of every command, and every public name of the library."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer
from typer.testing import CliRunner

from glowctl.commands.app import app

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

PACKAGES = ("glow", "glow.ood", "glow.export", "glow.pretrained")
"""The packages whose names are promised to users, in docs/stability.md."""


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages, as MkDocs asks a hook to."""
    from mkdocs.structure.files import File

    for path, text in (("reference/commands.md", commands_page()), ("reference/library.md", library_page())):
        files.append(File.generated(config, path, content=text))


def commands_page() -> str:
    """Return a page with what each command prints for --help."""
    parts = ["# Commands\n\nWhat each command prints for `--help`.\n"]
    for words in command_words():
        result = CliRunner(env={"COLUMNS": "100"}).invoke(app, [*words, "--help"], prog_name="glowctl")
        if result.exit_code:
            raise RuntimeError(f"glowctl {' '.join(words)} --help: {result.output}")
        name = " ".join(("glowctl", *words))
        parts.append(f"## {name}\n\n```text\n{result.output.strip()}\n```\n")
    return "\n".join(parts)


def command_words(*before: str, group: Any = None) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command, such as ("cluster", "status"), and first of the command line itself."""
    group = group or typer.main.get_command(app)
    yield before
    for name, command in getattr(group, "commands", {}).items():
        yield from command_words(*before, name, group=command)


def library_page() -> str:
    """Return a page from which mkdocstrings makes the reference of the public names."""
    parts = ["# Library\n"]
    for package in PACKAGES:
        parts.append(f"## {package}\n")
        parts.extend(f"::: {package}.{name}\n" for name in public_names(package))
    return "\n".join(parts)


def public_names(package: str) -> list[str]:
    """Return the names that a package offers: those of its `__all__`, or the functions and classes that it defines."""
    module = importlib.import_module(package)
    defined = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == package]
    return sorted(getattr(module, "__all__", [name for name in defined if not name.startswith("_")]))
