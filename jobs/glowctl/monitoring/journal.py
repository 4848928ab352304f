"""The journal of a watch: one line per image, in the order of arrival, with its scores.

The journal is the whole state of a watch. Evidence is a function of the scores in their order (`glow.ood.Monitor`), so
a watch that was killed computes it again from the journal, bit for bit, and goes on. Lines are written in one piece per
batch; the part of a line that a kill or a full disk leaves is removed, and its image is judged again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

JOURNAL_FILE = "images.jsonl"


@dataclass(frozen=True)
class Line:
    """An image of the stream.

    Attributes:
        file: the path of the image.
        modified: when the file was last changed, in nanoseconds since 1970; 0 if that is not known.
        scores: the score of each detector; None for an image that was left out by ``--thin``, or could not be read.
        problem: why it could not be read.
    """

    file: str
    modified: int
    scores: tuple[float, ...] | None = None
    problem: str | None = None


ACKNOWLEDGED = Line("", 0)
"""Line after which the evidence begins anew. No image has an empty path."""


class Journal:
    """The journal in the folder of a watch.

    Args:
        folder: the folder. It may have a journal, which is continued.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL_FILE
        if self._path.exists():
            self._cut(self._whole())

    def lines(self) -> Iterator[Line]:
        """Read all lines."""
        if self._path.exists():
            with self._path.open("rb") as file:
                for text in file:
                    facts = json.loads(text)
                    yield Line(**facts | {"scores": facts["scores"] and tuple(facts["scores"])})

    def append(self, lines: Iterable[Line]) -> None:
        """Write lines to the disk, all or none of them.

        Raises:
            OSError: if the disk does not take them.
        """
        content = "".join(json.dumps(asdict(line)) + "\n" for line in lines).encode()
        size = self._path.stat().st_size if self._path.exists() else 0
        try:
            with self._path.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            if self._path.exists():
                self._cut(size)
            raise

    def _whole(self) -> int:
        """Return the number of bytes up to the last line break."""
        with self._path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            while end > 0:
                start = max(0, end - 65_536)
                file.seek(start)
                found = file.read(end - start).rfind(b"\n")
                if found >= 0:
                    return start + found + 1
                end = start
        return 0

    def _cut(self, size: int) -> None:
        if self._path.stat().st_size > size:
            os.truncate(self._path, size)
