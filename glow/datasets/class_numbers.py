"""Names of classes that have only numbers, as in arrays and in Parquet files without names of classes."""

from __future__ import annotations

from glow.datasets.base import DatasetCorrupt

__all__ = ["numbered_classes"]

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

    Example:
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
