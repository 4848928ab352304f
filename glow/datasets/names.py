"""Data set names that contain a path: ``folder:PATH``, ``arrays:PATH``, ``parquet:PATH`` and ``packed:PATH``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["PLACED", "Place", "absolute_dataset", "dataset_label", "place_of"]

PLACED = ("folder", "arrays", "parquet", "packed")
"""The kinds of data sets whose names contain a path."""


class Place(NamedTuple):
    """The two parts of a name that contains a path.

    Attributes:
        kind: "folder", "arrays", "parquet" or "packed".
        path: a path, relative or absolute, or the URI of a bucket.

    Example:
        >>> Place("packed", "s3://bucket/cats").is_remote
        True
    """

    kind: str
    path: str

    @property
    def is_remote(self) -> bool:
        """Whether the path is a URI, such as that of a bucket."""
        return "://" in self.path


def place_of(name: str) -> Place | None:
    """Split a name into its kind and its path.

    Args:
        name: the name of a data set.

    Returns:
        The kind and the path, or None for a name without a path, such as "mnist".

    Example:
        >>> place_of("folder:/data/cats")
        Place(kind='folder', path='/data/cats')
        >>> place_of("mnist")
    """
    kind, colon, path = name.partition(":")
    return Place(kind, path) if colon and path and kind in PLACED else None


def absolute_dataset(name: str) -> str:
    """Return the name of a data set with its path made absolute.

    The result means the same data set in every working folder.

    Args:
        name: the name of a data set. Names without a path, and URIs, are returned as they are.

    Example:
        >>> absolute_dataset("folder:/data/cats")
        'folder:/data/cats'
        >>> absolute_dataset("folder:cats") == f"folder:{Path.cwd() / 'cats'}"
        True
    """
    place = place_of(name)
    if place is None or place.is_remote:
        return name
    return f"{place.kind}:{Path(place.path).expanduser().absolute()}"


def dataset_label(name: str) -> str:
    """Return a short form of a data set's name, for metric names and file names.

    Only the last part of a path is kept. In this part, characters other than letters, digits, "_", "." and "-" become
    "_". A name without a path does not change.

    Args:
        name: the name of a data set.

    Example:
        >>> dataset_label("packed:/data/cats and dogs")
        'packed-cats_and_dogs'
    """
    place = place_of(name)
    if place is None:
        return name
    return f"{place.kind}-" + re.sub(r"[^\w.-]", "_", Path(place.path).name)
