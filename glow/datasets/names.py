"""Names of data sets that say where they lie: ``folder:PATH``, ``arrays:PATH`` and ``packed:PATH``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["PLACED", "Place", "absolute_dataset", "dataset_label", "place_of"]

PLACED = ("folder", "arrays", "packed")
"""The kinds of data sets whose names hold a path."""


class Place(NamedTuple):
    """What such a name is made of."""

    kind: str
    path: str

    @property
    def is_remote(self) -> bool:
        """Whether the path is the URI of a bucket."""
        return "://" in self.path


def place_of(name: str) -> Place | None:
    """The kind and the path in a name; None for a name that holds no path.

    >>> place_of("folder:/data/cats")
    Place(kind='folder', path='/data/cats')
    >>> place_of("mnist")
    """
    kind, colon, path = name.partition(":")
    return Place(kind, path) if colon and path and kind in PLACED else None


def absolute_dataset(name: str) -> str:
    """The same data set by a name that means the same in every working folder, wherever a spec is used again."""
    place = place_of(name)
    if place is None or place.is_remote:
        return name
    return f"{place.kind}:{Path(place.path).expanduser().absolute()}"


def dataset_label(name: str) -> str:
    """A data set's name as metrics and files can bear it: of a path its last part.

    >>> dataset_label("packed:/data/cats and dogs")
    'packed-cats_and_dogs'
    """
    place = place_of(name)
    if place is None:
        return name
    return f"{place.kind}-" + re.sub(r"[^\w.-]", "_", Path(place.path).name)
