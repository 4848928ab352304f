"""Rendering of a report as HTML and as Markdown, by the templates in this folder."""

from __future__ import annotations

import base64
import re

from jinja2 import Environment, PackageLoader, StrictUndefined

from jobs.report.blocks import Cell, Picture, Report

__all__ = ["IMAGES", "escaped", "html", "markdown"]

IMAGES = "report-images"
"""Name of the folder, next to the Markdown file, that holds its pictures."""


def html(report: Report) -> str:
    """Return a report as one HTML file that contains its pictures, needs no other file, and has no scripts."""
    environment = _environment(autoescape=True)
    environment.filters["data_uri"] = _data_uri
    environment.filters["set"] = _set
    return environment.get_template("template.html").render(report=report)


def markdown(report: Report) -> str:
    """Return a report as Markdown, which refers to its pictures as files in the folder `IMAGES`."""
    environment = _environment(autoescape=False)  # Markdown needs other escapes than HTML
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
    r"""Return text such that Markdown shows it literally, whatever a run's name contains.

    Example:
        >>> print(escaped("a*b | <c>"))
        a\*b \| &lt;c&gt;
    """
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", " ".join(plain.split()))


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return escaped(cell)
    words = escaped(cell.text)
    words = words if cell.href is None else f"[{words}]({cell.href})"
    return f"{words} ({escaped(cell.beneath)})" if cell.beneath else words


def _set(text: str) -> str:
    """Return text with no-break spaces within "5 %", "1.2 bits/dim" and "M = 10"."""
    text = re.sub(r"(?<=\d) (?=%|bits/dim)", "\N{NO-BREAK SPACE}", text)
    return re.sub(r"\b([A-Z]) = (?=\d)", "\\1\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}", text)
