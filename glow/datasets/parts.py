"""The rule that finds the images of a split in a user's own data. Folders, arrays and Parquet files share it.

A part is the images that the names of files, folders or arrays assign to one split. If no name contains a split, all
images are one part, `ALL`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from glow.datasets.base import SPLITS, DatasetCorrupt, DatasetNotFound, DatasetStatus, MemberRule
from glow.datasets.tensors import deal, everything, hold_out

__all__ = ["ALL", "part_of", "splits_of", "status_of"]

ALL = "all"
"""The part of data that name no split."""


def splits_of(parts: Collection[str]) -> tuple[str, ...]:
    """Return the splits of a data set that has these parts.

    If there is a part "train" but no part "validation", validation images are held out from "train".

    Args:
        parts: names of splits, or only `ALL`, which is divided into all three splits.

    Example:
        >>> splits_of(["train"]), splits_of(["test"]), splits_of([ALL])
        (('train', 'validation'), ('test',), ('train', 'validation', 'test'))
    """
    if ALL in parts:
        return SPLITS
    return tuple(split for split in SPLITS if split in parts or (split == "validation" and "train" in parts))


def part_of(name: str, parts: Collection[str], split: str, remedy: str) -> tuple[str, MemberRule]:
    """Return the part that contains a split, and the rule that selects the split's images from it.

    Args:
        name: name of the data set, for the error.
        parts: names of splits, or only `ALL`.
        split: "train", "validation" or "test".
        remedy: what the error advises if no part contains the split.

    Raises:
        DatasetNotFound: if no part contains the split.

    Example:
        >>> part_of("arrays:a.npz", ["train", "test"], "validation", remedy="")[0]
        'train'
    """
    if ALL in parts:
        return ALL, deal
    if split in parts:
        return split, hold_out if split == "train" and "validation" not in parts else everything
    if split == "validation" and "train" in parts:
        return "train", hold_out
    raise DatasetNotFound(
        f"{name} has no images for split {split!r} (only {', '.join(splits_of(parts))})",
        remedy=remedy,
        code="split-not-found",
    )


def status_of(name: str, parts: Callable[[], Collection[str]], what: str) -> DatasetStatus:
    """Return the state of a data set: whether its parts can be opened, and whether they contain all splits.

    Args:
        name: name of the data set.
        parts: returns the names of the parts, or raises DatasetNotFound or DatasetCorrupt.
        what: what the user has to add for a missing split, such as "arrays"; part of the advice.

    Example:
        >>> status_of("arrays:a.npz", lambda: ["test"], "arrays").state
        'partial: test only'
    """
    try:
        splits = splits_of(parts())
    except DatasetNotFound as error:
        return DatasetStatus(name, "missing", f"{error}.")
    except DatasetCorrupt as error:
        return DatasetStatus(name, f"corrupt: {error.problem}", f"{error.remedy[:1].upper()}{error.remedy[1:]}.")
    if splits != SPLITS:
        absent = " or ".join(split for split in SPLITS if split not in splits)
        return DatasetStatus(name, f"partial: {', '.join(splits)} only", f"Add {what} for {absent} if you need it.")
    return DatasetStatus(name, "found", "Nothing to do.")
