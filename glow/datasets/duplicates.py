"""Images that occur more than once in a data set, within a split or in two."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pandas as pd

from glow.datasets.lazy import LazyDataset

PIECE = 1024
"""Number of images in memory at a time."""


def digests(dataset: LazyDataset) -> pd.Series:
    """Return 16 bytes per image, in order; two images have the same only if all their values are equal.

    Args:
        dataset: N images, which are all read.

    Returns:
        bytes (N,), a BLAKE2 hash of the values of each image.

    Raises:
        DatasetCorrupt: if an image cannot be read.

    Examples:
        >>> import torch
        >>> from glow.datasets.lazy import LazyDataset
        >>> images = torch.tensor([7, 9, 7], dtype=torch.uint8).view(3, 1, 1, 1)
        >>> digests(LazyDataset.held(images, torch.zeros(3))).duplicated().tolist()
        [False, False, True]
    """
    pieces = (dataset.images(start, start + PIECE) for start in range(0, len(dataset), PIECE))
    return pd.Series(
        [hashlib.blake2b(image, digest_size=16).digest() for piece in pieces for image in piece.numpy()], dtype=object
    )


def duplicates(splits: Mapping[str, LazyDataset]) -> pd.DataFrame:
    """Count the images of each split that occur elsewhere in the data set.

    Args:
        splits: the splits by name; their images have one shape, and are all read.

    Returns:
        One row per split, in order: ``"again"`` is the number of images that are equal to an earlier image of the
        split; ``"in SPLIT"`` is, for each other split, the number of images that are equal to an image of it.

    Raises:
        DatasetCorrupt: if an image cannot be read.

    Examples:
        >>> import torch
        >>> from glow.datasets.lazy import LazyDataset
        >>> def split(*values):
        ...     images = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1)
        ...     return LazyDataset.held(images, torch.zeros(len(values)))
        >>> duplicates({"train": split(1, 2, 3, 2), "test": split(3, 3, 4)})
               again  in train  in test
        train      1         0        1
        test       1         2        0
    """
    found = {split: digests(dataset) for split, dataset in splits.items()}
    rows = {
        split: {
            "again": int(own.duplicated().sum()),
            **{f"in {other}": 0 if other == split else int(own.isin(of).sum()) for other, of in found.items()},
        }
        for split, own in found.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")
