"""What is done to images and labels once they are in memory: split, subset, convert, fingerprint. No files.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from glow.datasets.base import Shape

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
    """uint8 images (N, C, H, W) as (N, *image_shape): recoloured, shrunk if too large, then zero-padded
    about the centre.

    Grey becomes RGB by repetition, RGB becomes grey by ITU-R 601 luminance. Shrinking is antialiased and keeps
    the aspect ratio; nothing is ever enlarged. ValueError for channels other than 1 or 3.
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
    """ValueError if `convert` cannot make `asked` channels of a data set's `own`."""
    if own != asked and {own, asked} != {1, 3}:
        raise ValueError(f"images of {own} channels cannot be given {asked}; allowed in an image shape: 1 or 3")


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
    """The rule of a data set that is made anew for each split: all images are in it."""
    return torch.arange(len(labels_N))


def hold_out(labels_N: Tensor, split: str) -> Tensor:
    """The rule of a data set with official train and test files, applied to the file that `split` is in.

    test: all of its file. validation: the last tenth, rounded down, of each class of the train file. train: the
    rest.
    """
    if split == "test":
        return everything(labels_N, split)
    held_out_N = torch.zeros(len(labels_N), dtype=torch.bool)
    for members in _by_class(labels_N):
        held_out_N[members[len(members) - len(members) // 10 :]] = True
    return (held_out_N if split == "validation" else ~held_out_N).nonzero().flatten()


def deal(labels_N: Tensor, split: str) -> Tensor:
    """The rule without official files: of each class a fifth is test, a tenth validation, the rest train.

    Which ones is settled by the SHA-256 of an image's index, so that it is the same in every version.
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
    """The positions of the first `per_class` of each class, in file order; ValueError if a class has fewer."""
    chosen = []
    for label, name in enumerate(class_names):
        of_class = (labels_N == label).nonzero().flatten()
        if len(of_class) < per_class:
            raise ValueError(f"per_class={per_class}, but class {name!r} has {len(of_class)} images in split {split!r}")
        chosen.append(of_class[:per_class])
    return torch.cat(chosen).sort().values


def fingerprint(images: Tensor) -> str:
    """16 hex digits of the SHA-256 of shape, dtype and bytes."""
    return fingerprint_pieces(images.shape, images.dtype, [images])


def fingerprint_pieces(shape: torch.Size, dtype: torch.dtype, pieces: Iterable[Tensor]) -> str:
    """The `fingerprint` of a tensor of this shape and dtype, which comes cut along its first dimension."""
    digest = hashlib.sha256(f"{tuple(shape)} {dtype}".encode())
    for piece in pieces:
        digest.update(piece.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _by_class(labels_N: Tensor) -> Iterator[Tensor]:
    """The indices of each class that occurs, in file order."""
    for label in sorted(set(labels_N.tolist())):
        yield (labels_N == label).nonzero().flatten()
