"""A report as HTML and as Markdown."""

from __future__ import annotations

import base64
import re

from jinja2 import Environment, PackageLoader, StrictUndefined

from jobs.report.blocks import Cell, Picture, Report

__all__ = ["IMAGES", "escaped", "html", "markdown"]

IMAGES = "report-images"
"""The folder beside the Markdown that its pictures are in."""


def html(report: Report) -> str:
    """One file that needs nothing else: pictures are in it, and it has no scripts."""
    environment = _environment(autoescape=True)
    environment.filters["data_uri"] = _data_uri
    environment.filters["set"] = _set
    return environment.get_template("template.html").render(report=report)


def markdown(report: Report) -> str:
    """Its pictures are files in `IMAGES`."""
    environment = _environment(autoescape=False)  # Markdown has an escape of its own
    environment.filters["md"] = escaped
    environment.filters["cell"] = _cell
    environment.globals["images"] = IMAGES
    text = environment.get_template("template.md").render(report=report)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _environment(autoescape: bool) -> Environment:
    return Environment(
        loader=PackageLoader("jobs.report", "."),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _data_uri(picture: Picture) -> str:
    return f"data:{picture.mime};base64,{base64.b64encode(picture.data).decode()}"


def escaped(text: str) -> str:
    """Words as Markdown shows them, whatever is in a run's name."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", " ".join(plain.split()))


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return escaped(cell)
    words = escaped(cell.text)
    words = words if cell.href is None else f"[{words}]({cell.href})"
    return f"{words} ({escaped(cell.beneath)})" if cell.beneath else words


def _set(text: str) -> str:
    """With spaces that do not break within "5 %" and "M = 10"."""
    text = re.sub(r"(?<=\d) (?=%|bits/dim)", "\N{NO-BREAK SPACE}", text)
    return re.sub(r"\b([A-Z]) = (?=\d)", "\\1\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}", text)
