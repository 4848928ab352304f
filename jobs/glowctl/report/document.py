"""A report as a document: its sections of paragraphs, lists, tables and pictures, and their HTML and Markdown.

The attribute `kind` of a part says to the templates in this folder how to render it. Tables are those of
`glowctl.display.tables`.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from glow.figures.pictures import image_grid
from glowctl.display.tables import Table, as_markdown, escaped

IMAGES = "report-images"
"""Name of the folder, next to the Markdown file, that holds its pictures."""

DPI = 200
"""Resolution of figures that are mostly images."""

SHRUNK = 0.82
"""Factor by which figures are made smaller, so that their words are larger next to the words of the report."""


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        text: its sentences.
    """

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Note:
    """A sentence about something that the report cannot show, such as a damaged artifact.

    Attributes:
        text: the sentence.
    """

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Bullets:
    """A list.

    Attributes:
        items: one sentence per item.
    """

    kind: ClassVar[str] = "bullets"
    items: Sequence[str]


@dataclass(frozen=True)
class Picture:
    """An image file with a caption.

    Attributes:
        name: file name of the picture, which ends in .png or .svg, unique in the report.
        data: content of the file.
        alt: sentence for readers who cannot see the picture.
        caption: sentences below the picture.
        pixels: whether to show enlarged pixels as squares and not smoothed.
    """

    name: str
    data: bytes
    alt: str
    caption: str
    pixels: bool = False


@dataclass(frozen=True)
class Pictures:
    """Pictures that are shown side by side where there is room.

    Attributes:
        pictures: the pictures, in order.
    """

    kind: ClassVar[str] = "pictures"
    pictures: Sequence[Picture]


Block = Text | Note | Bullets | Table | Pictures
"""A part of a section."""


@dataclass(frozen=True)
class Section:
    """A section with a heading.

    Attributes:
        title: the heading.
        anchor: target of links to the section, unique in the report.
        blocks: the paragraphs, lists, tables and pictures, which come before `sections`.
        sections: the sections nested in this one.
    """

    title: str
    anchor: str
    blocks: Sequence[Block] = ()
    sections: Sequence[Section] = ()

    def walk(self) -> Iterator[Section]:
        """Yield this section and all sections nested in it, in the order in which they are read."""
        yield self
        for section in self.sections:
            yield from section.walk()


@dataclass(frozen=True)
class Gap:
    """Something that the report lacks.

    Attributes:
        sentence: what is missing, without a full stop.
        command: the glowctl command that adds what is missing, or None if there is no such command.
    """

    sentence: str
    command: str | None = None

    def __str__(self) -> str:
        return self.sentence if self.command is None else f"{self.sentence}: {self.command}"


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
        title: the title.
        facts: (name, value) pairs about the origin of the report, such as its experiment and the MLflow store.
        summary: the main results, as sentences.
        sections: the sections of the first level.
        gaps: what is missing.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    summary: Sequence[str]
    sections: Sequence[Section]
    gaps: Sequence[Gap] = field(default_factory=list)

    @property
    def pictures(self) -> list[Picture]:
        """All pictures, in the order in which they are shown."""
        every = (block for top in self.sections for section in top.walk() for block in section.blocks)
        return [picture for block in every if isinstance(block, Pictures) for picture in block.pictures]


# Pictures. In all functions, `name` is the file name without suffix, unique in the report, and `alt` is the text for
# readers who cannot see the picture.


def svg_picture(figure: Figure, name: str, alt: str, caption: str) -> Picture:
    """Return a figure of lines or bars as a picture in SVG, which is sharp at every size.

    Equal figures with equal names give identical files.
    """
    width, height = figure.get_size_inches()
    figure.set_size_inches(SHRUNK * width, SHRUNK * height)
    file = io.BytesIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return Picture(f"{name}.svg", file.getvalue(), alt, caption)


def png_picture(figure: Figure, name: str, alt: str, caption: str) -> Picture:
    """Return a figure that consists mostly of images as a picture in PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return Picture(f"{name}.png", file.getvalue(), alt, caption)


def grid_picture(images_NCHW: np.ndarray, columns: int | None, name: str, alt: str, caption: str) -> Picture:
    """Return uint8 images (N, C, H, W) as one PNG, in a grid of `columns` columns; None gives a square grid."""
    file = io.BytesIO()
    Image.fromarray(image_grid(images_NCHW, columns)).save(file, "png")
    return Picture(f"{name}.png", file.getvalue(), alt, caption, pixels=True)


# HTML and Markdown.


def html(report: Report) -> str:
    """Return a report as one HTML file that contains its pictures, needs no other file, and has no scripts."""
    return _rendered(report, "template.html")


def markdown(report: Report) -> str:
    """Return a report as Markdown, which refers to its pictures as files in the folder `IMAGES`."""
    return re.sub(r"\n{3,}", "\n\n", _rendered(report, "template.md")).strip() + "\n"


def _rendered(report: Report, template: str) -> str:
    environment = Environment(
        loader=PackageLoader("glowctl.report", "."),
        autoescape=select_autoescape(["html"]),  # Markdown needs other escapes than HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": _data_uri, "set": _with_fixed_spaces, "md": escaped, "rows": as_markdown}
    environment.globals["images"] = IMAGES
    return environment.get_template(template).render(report=report)


def _data_uri(picture: Picture) -> str:
    mime = "image/svg+xml" if picture.name.endswith(".svg") else "image/png"
    return f"data:{mime};base64,{base64.b64encode(picture.data).decode()}"


def _with_fixed_spaces(text: str) -> str:
    """Return text with no-break spaces within "5 %" and "1.2 bits/dim"."""
    return re.sub(r"(?<=\d) (?=%|bits/dim)", "\N{NO-BREAK SPACE}", text)
