"""The parts of a report: sections of paragraphs, lists, tables and pictures.

The same parts are rendered as HTML and as Markdown. The attribute `kind` tells the templates how to render a part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

__all__ = [
    "Block",
    "Bullets",
    "Cell",
    "Estimate",
    "Gap",
    "Link",
    "Note",
    "Picture",
    "Pictures",
    "Report",
    "Section",
    "Table",
    "Text",
]


@dataclass(frozen=True)
class Link:
    """A cell of a table whose words can link to an address."""

    text: str
    """The words of the cell."""

    href: str | None = None
    """The address that the words link to, or None."""

    beneath: str = ""
    """Smaller words in a second line."""


@dataclass(frozen=True)
class Estimate:
    """A cell of a table with a number and its confidence interval."""

    text: str
    """The number."""

    beneath: str
    """The interval, in a second line."""

    href: None = None
    """Always None; present so that the templates can treat all cells alike."""


Cell = str | Link | Estimate
"""A cell of a table."""


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
class Table:
    """A table with a caption.

    Attributes:
        caption: sentences above the table.
        head: headings of the columns.
        rows: cells, as many per row as there are headings. If the first cell of a row is empty, the row continues the
            one above it.
        left: number of leading columns that hold words and are aligned to the left; the others hold numbers.
        prose: whether the words of a cell may wrap onto several lines.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left: int = 1
    prose: bool = False


@dataclass(frozen=True)
class Picture:
    """An image file with a caption.

    Attributes:
        name: file name of the picture, unique in the report.
        data: content of the file.
        mime: media type of the file, such as "image/png".
        alt: sentence for readers who cannot see the picture.
        caption: sentences below the picture.
        pixels: whether to show enlarged pixels as squares and not smoothed.
    """

    name: str
    data: bytes
    mime: str
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
