"""What a report is made of, whether it becomes HTML or Markdown: sections of paragraphs, tables and pictures."""

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
    """Words that lead somewhere, if there is an address; `beneath` are smaller ones."""

    text: str
    href: str | None = None
    beneath: str = ""


@dataclass(frozen=True)
class Estimate:
    """A number, with its interval beneath."""

    text: str
    beneath: str
    href: None = None


Cell = str | Link | Estimate


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Note:
    """A sentence about something that cannot be shown."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Bullets:
    kind: ClassVar[str] = "bullets"
    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """`rows` are as long as `head`; one whose first cell is empty goes on with what is above it. The first `left`
    columns are words, the others numbers; words that are `prose` may fill several lines.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left: int = 1
    prose: bool = False


@dataclass(frozen=True)
class Picture:
    """An image file. `name` is that of its file beside the Markdown; `pixels` are not to be smoothed."""

    name: str
    data: bytes
    mime: str
    alt: str
    caption: str
    pixels: bool = False


@dataclass(frozen=True)
class Pictures:
    """Side by side where there is room."""

    kind: ClassVar[str] = "pictures"
    pictures: Sequence[Picture]


Block = Text | Note | Bullets | Table | Pictures


@dataclass(frozen=True)
class Section:
    """`anchor` is unique in its report."""

    title: str
    anchor: str
    blocks: Sequence[Block] = ()
    sections: Sequence[Section] = ()

    def walk(self) -> Iterator[Section]:
        """This section and all in it."""
        yield self
        for section in self.sections:
            yield from section.walk()


@dataclass(frozen=True)
class Gap:
    """What a report has nothing of: a sentence, and the command that adds it."""

    sentence: str
    command: str | None = None

    def __str__(self) -> str:
        return self.sentence if self.command is None else f"{self.sentence}: {self.command}"


@dataclass(frozen=True)
class Report:
    """`facts` say where all of it comes from."""

    title: str
    facts: Sequence[tuple[str, str]]
    summary: Sequence[str]
    sections: Sequence[Section]
    gaps: Sequence[Gap] = field(default_factory=list)

    @property
    def pictures(self) -> list[Picture]:
        every = (block for top in self.sections for section in top.walk() for block in section.blocks)
        return [picture for block in every if isinstance(block, Pictures) for picture in block.pictures]
