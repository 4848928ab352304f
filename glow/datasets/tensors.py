"""Functions of images and labels in memory: rules for splits, conversions and fingerprints.

`everything`, `hold_out` and `deal` are the three rules that assign images to splits. `convert` gives images the shape
that a model reads.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from glow.datasets.base import Shape
from glow.errors import ALL_IMAGES_ADVICE, PER_CLASS

__all__ = [
    "check_channels",
    "convert",
    "deal",
    "everything",
    "fingerprint",
    "fingerprint_pieces",
    "first_of_each_class",
    "hold_out",
]


def convert(images_NCHW: Tensor, image_shape: Shape) -> Tensor:
    """Convert the channels of images, shrink the images if they are too large, and pad them with zeros.

    Grey becomes RGB by repetition. RGB becomes grey by the luminance of ITU-R BT.601 with torchvision's coefficients,
    0.2989 R + 0.587 G + 0.114 B, rounded down. Shrinking is antialiased and keeps the aspect ratio. The padding is on
    all sides; an odd row or column is added at the bottom or on the right. Images are never enlarged.

    Args:
        images_NCHW: uint8 (N, C, H, W).
        image_shape: (C, H, W) of the result.

    Returns:
        uint8 (N, *image_shape), contiguous.

    Raises:
        ValueError: if the number of channels would change, but not from 1 to 3 or from 3 to 1.

    Example:
        >>> white = torch.full((5, 1, 28, 28), 255, dtype=torch.uint8)
        >>> convert(white, (3, 32, 32)).shape
        torch.Size([5, 3, 32, 32])
        >>> convert(white, (1, 32, 32))[0, 0, 0].unique().tolist()  # the first row is padding
        [0]
    """
    channels, height, width = image_shape
    images_NCHW = _match_channels(images_NCHW, channels)
    old_height, old_width = images_NCHW.shape[-2:]
    scale = min(height / old_height, width / old_width)
    if scale < 1:
        from torchvision.transforms.v2 import functional as tv

        size = [max(1, round(old_height * scale)), max(1, round(old_width * scale))]
        images_NCHW = tv.resize(images_NCHW, size, antialias=True)
    rows, columns = height - images_NCHW.shape[-2], width - images_NCHW.shape[-1]
    if rows or columns:
        border = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        images_NCHW = F.pad(images_NCHW, border)
    return images_NCHW.contiguous()


def check_channels(own: int, asked: int) -> None:
    """Check that `convert` can change the number of channels.

    Args:
        own: channels of the images.
        asked: channels of the result.

    Raises:
        ValueError: unless the two are equal, or 1 and 3.

    Example:
        >>> check_channels(1, 3)
        >>> check_channels(3, 2)
        Traceback (most recent call last):
        ValueError: images with 3 channels cannot be converted to 2: an image_shape has 1 or 3 channels
    """
    if own != asked and {own, asked} != {1, 3}:
        raise ValueError(
            f"images with {own} channels cannot be converted to {asked}: an image_shape has 1 or 3 channels"
        )


def _match_channels(images_NCHW: Tensor, channels: int) -> Tensor:
    own = images_NCHW.shape[1]
    check_channels(own, channels)
    if own == channels:
        return images_NCHW
    if channels == 3:
        return images_NCHW.expand(-1, 3, -1, -1)
    from torchvision.transforms.v2 import functional as tv

    grey: Tensor = tv.rgb_to_grayscale(images_NCHW)
    return grey


def everything(labels_N: Tensor, split: str) -> Tensor:
    """Return the indices of all images: the rule for files, or generated images, that belong to a single split.

    Args:
        labels_N: (N,) labels.
        split: not used; a `MemberRule` takes it.

    Returns:
        int64 (N,).

    Example:
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

    Example:
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

    Example:
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

    Example:
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


def fingerprint(images: Tensor) -> str:
    """Return 16 hex digits that identify a tensor: the first 16 of the SHA-256 of its shape, dtype and bytes.

    Args:
        images: a tensor of at least one dimension, of any dtype, on any device.

    Example:
        >>> fingerprint(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
        '90b12f5c6996f936'
    """
    return fingerprint_pieces(images.shape, images.dtype, [images])


def fingerprint_pieces(shape: torch.Size, dtype: torch.dtype, pieces: Iterable[Tensor]) -> str:
    """Return the `fingerprint` of a tensor that does not fit into memory.

    Args:
        shape: the shape of the whole tensor.
        dtype: the type of its elements.
        pieces: the tensor, cut along its first dimension into consecutive pieces.

    Example:
        >>> whole = torch.arange(6, dtype=torch.uint8)
        >>> fingerprint_pieces(whole.shape, whole.dtype, whole.split(4)) == fingerprint(whole)
        True
    """
    digest = hashlib.sha256(f"{tuple(shape)} {dtype}".encode())
    for piece in pieces:
        digest.update(piece.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _by_class(labels_N: Tensor) -> Iterator[Tensor]:
    """Yield the indices of the images of each class that occurs, ascending."""
    order_N = labels_N.argsort(stable=True)
    _, counts = labels_N[order_N].unique_consecutive(return_counts=True)
    yield from order_N.split(counts.tolist())
