"""The splits and the classes of images: what names say about them, and rules where they say nothing.

Folders, arrays and Parquet files share the names of splits. A part is the images that the names of files, folders or
arrays assign to one split; if no name contains a split, all images are one part, `ALL`. `everything`, `hold_out` and
`deal` are the three rules that assign the images of a part to splits.

Shapes: N images.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from glow.datasets.base import SPLITS, DatasetCorrupt, DatasetNotFound, MemberRule
from glow.errors import ALL_IMAGES_ADVICE, PER_CLASS

ALL = "all"
"""The part of data that name no split."""


def splits_of(parts: Collection[str]) -> tuple[str, ...]:
    """Return the splits of a data set that has these parts.

    If there is a part "train" but no part "validation", validation images are held out from "train".

    Args:
        parts: names of splits, or only `ALL`, which is divided into all three splits.

    Examples:
        >>> splits_of(["train"]), splits_of(["test"]), splits_of([ALL])
        (('train', 'validation'), ('test',), ('train', 'validation', 'test'))
    """
    if ALL in parts:
        return SPLITS
    return tuple(split for split in SPLITS if split in parts or (split == "validation" and "train" in parts))


def part_of(name: str, parts: Collection[str], split: str, add_split: str) -> tuple[str, MemberRule]:
    """Return the part that contains a split, and the rule that selects the split's images from it.

    Args:
        name: name of the data set, for the error.
        parts: names of splits, or only `ALL`.
        split: "train", "validation" or "test".
        add_split: what the error advises if no part contains the split, with "{split}" for its name.

    Raises:
        DatasetNotFound: if no part contains the split.

    Examples:
        >>> part_of("arrays:a.npz", ["train", "test"], "validation", add_split="")[0]
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
        remedy=add_split.format(split=split),
        code="split-not-found",
    )


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

    Examples:
        >>> split_named("Val"), split_named("cats")
        ('validation', None)
    """
    return NAMES.get(name.lower())


def first_word(text: str) -> str | None:
    """Return the name of a split that a file's name starts with, in lower case, or None.

    Examples:
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

    Examples:
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

    Examples:
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

    Examples:
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


SPARE = 100_000
"""Number of classes that may have no image: a part of a data set keeps the numbers of the whole."""


def numbered_classes(name: str, highest: int, images: int) -> tuple[str, ...]:
    """Return the numbers from 0 to the highest label as text.

    Args:
        name: name of the data set, for the error.
        highest: the highest label that an image has.
        images: number of images.

    Raises:
        DatasetCorrupt: if most of these classes would have no image, as with identifiers or times as labels.

    Examples:
        >>> numbered_classes("arrays:a.npz", highest=2, images=60)
        ('0', '1', '2')
    """
    if highest >= images + SPARE:
        raise DatasetCorrupt(
            f"{name} has {images} images, but the label {highest}",
            remedy="number the classes from 0",
            code="labels-too-high",
        )
    return tuple(str(label) for label in range(highest + 1))


def everything(labels_N: Tensor, split: str) -> Tensor:
    """Return the indices of all images: the rule for files, or generated images, that belong to a single split.

    Args:
        labels_N: (N,) labels.
        split: not used; a `MemberRule` takes it.

    Returns:
        int64 (N,).

    Examples:
        >>> everything(torch.tensor([1, 0, 1]), "test").tolist()
        [0, 1, 2]
    """
    return torch.arange(len(labels_N))


def hold_out(labels_N: Tensor, split: str) -> Tensor:
    """Return the indices of a split in the official train or test file that contains it.

    "test" has all images of the test file. "validation" has the last tenth, rounded down, of each class of the train
    file, and "train" has the others.

    Args:
        labels_N: (N,) labels of the file's images.
        split: "train", "validation" or "test".

    Returns:
        int64 (n,), in the order of the file.

    Examples:
        >>> labels = torch.zeros(20)
        >>> hold_out(labels, "validation").tolist(), len(hold_out(labels, "train"))
        ([18, 19], 18)
    """
    if split == "test":
        return everything(labels_N, split)
    held_out_N = torch.zeros(len(labels_N), dtype=torch.bool)
    for members in _by_class(labels_N):
        held_out_N[members[len(members) - len(members) // 10 :]] = True
    return (held_out_N if split == "validation" else ~held_out_N).nonzero().flatten()


def deal(labels_N: Tensor, split: str) -> Tensor:
    """Return the indices of a split of data without official splits.

    A fifth of each class is "test", a tenth is "validation" (both rounded down), and the others are "train". Which
    images these are depends on the SHA-256 of their indices, and not on the version of a random generator.

    Args:
        labels_N: (N,) labels.
        split: "train", "validation" or "test".

    Returns:
        int64 (n,), ascending.

    Examples:
        >>> labels = torch.zeros(20)
        >>> [len(deal(labels, split)) for split in ("train", "validation", "test")]
        [14, 2, 4]
        >>> deal(labels, "test").tolist()
        [8, 9, 13, 17]
    """
    chosen_N = torch.zeros(len(labels_N), dtype=torch.bool)
    for members in _by_class(labels_N):
        order = sorted(members.tolist(), key=lambda index: hashlib.sha256(str(index).encode()).digest())
        test, validation = len(members) // 5, len(members) // 10
        hand = {
            "test": order[:test],
            "validation": order[test : test + validation],
            "train": order[test + validation :],
        }[split]
        chosen_N[hand] = True
    return chosen_N.nonzero().flatten()


def first_of_each_class(labels_N: Tensor, per_class: int, class_names: Sequence[str], split: str) -> Tensor:
    """Return the positions of the first images of each class.

    Args:
        labels_N: (N,) labels.
        per_class: number of images per class.
        class_names: the name of each label.
        split: the name of the split, for the error.

    Returns:
        int64 (per_class * number of classes,), ascending.

    Raises:
        ValueError: if a class has fewer images. The message names the smallest class.

    Examples:
        >>> first_of_each_class(torch.tensor([1, 0, 1, 1, 0, 0]), 2, ("cat", "dog"), "train").tolist()
        [0, 1, 2, 4]
    """
    counts = labels_N.bincount(minlength=len(class_names)).tolist()
    fewest, name = min(zip(counts, class_names, strict=True))
    if fewest < per_class:
        raise ValueError(
            f"{PER_CLASS}{per_class}, but class {name!r} has {fewest} images in split {split!r}: "
            + (f"use at most {PER_CLASS}{fewest}" if fewest else ALL_IMAGES_ADVICE)
        )
    return torch.cat([of_class[:per_class] for of_class in _by_class(labels_N)]).sort().values


def _by_class(labels_N: Tensor) -> Iterator[Tensor]:
    """Yield the indices of the images of each class that occurs, ascending."""
    order_N = labels_N.argsort(stable=True)
    _, counts = labels_N[order_N].unique_consecutive(return_counts=True)
    yield from order_N.split(counts.tolist())
