"""The names of splits in a user's own data. Folders, arrays and Parquet files share them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from glow.datasets.base import DatasetCorrupt

__all__ = ["first_word", "no_split_notes", "one_name_per_split", "split_folders", "split_named"]

NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "development": "validation",
    "test": "test",
    "testing": "test",
}
"""Names in lower case -> the split."""

_FIRST_WORD = re.compile(rf"({'|'.join(sorted(NAMES, key=len, reverse=True))})(?:s|sets?|data|val)?(?![^\W\d_])", re.I)
"""A name of a split, possibly as in "testset" or "trainval", which no other letter follows."""

SHOWN = 3
"""Number of names that a note contains."""


def split_named(name: str) -> str | None:
    """Return the split with this name, in capital or small letters, or None if it is the name of no split.

    Example:
        >>> split_named("Val"), split_named("cats")
        ('validation', None)
    """
    return NAMES.get(name.lower())


def first_word(text: str) -> str | None:
    """Return the name of a split that a file's name starts with, in lower case, or None.

    Example:
        >>> first_word("train-00000-of-00002.parquet"), first_word("Testset.parquet"), first_word("devices.parquet")
        ('train', 'test', None)
    """
    found = _FIRST_WORD.match(text)
    return found[1].lower() if found else None


def split_folders(names: Collection[str]) -> dict[str, str]:
    """Return which of the folders next to each other hold splits: name -> split.

    They hold splits if one has exactly the name "train" or "test", or if there are names of both these splits. A single
    folder such as "Test" or "Dev" is a class, as any other.

    Args:
        names: names of folders.

    Example:
        >>> split_folders(["Training", "Testing", "Valid", "cats"])
        {'Training': 'train', 'Testing': 'test', 'Valid': 'validation'}
        >>> split_folders(["Test", "cats"])
        {}
    """
    found = {name: split for name in names if (split := split_named(name))}
    return found if {"train", "test"} & found.keys() or {"train", "test"} <= set(found.values()) else {}


def one_name_per_split(place: object, names: Iterable[str]) -> None:
    """Check that a split does not have two names.

    Args:
        place: what contains the names, for the error.
        names: names of splits; one may occur several times.

    Raises:
        DatasetCorrupt: if two of the names mean the same split, such as "val" and "validation".

    Example:
        >>> one_name_per_split("/data/cats", ["train", "val", "train"])
    """
    first: dict[str | None, str] = {}
    for name in sorted(set(names)):
        other = first.setdefault(split_named(name), name)
        if other != name:
            raise DatasetCorrupt(
                f"{place} has two names for the {split_named(name)} split, {other} and {name}",
                remedy="use only one of them",
                code="split-named-twice",
            )


def no_split_notes(names: Sequence[str], what: str = "file") -> tuple[str, ...]:
    """Return one sentence about what is in no split because other names contain splits, or an empty tuple.

    Args:
        names: names of what is left out.
        what: what the names are of, in the singular.

    Example:
        >>> no_split_notes(["cats.parquet"])
        ('1 file is in no split: cats.parquet',)
        >>> no_split_notes(["a", "b", "c", "d"])
        ('4 files are in no split: a, b, c and 1 more',)
    """
    if not names:
        return ()
    count = f"1 {what} is" if len(names) == 1 else f"{len(names)} {what}s are"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (f"{count} in no split: {', '.join(names[:SHOWN])}{more}",)
