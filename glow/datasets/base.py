"""What the other files of this package speak in: a shape, a split, an answer, an error. It reads nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from glow.errors import DOWNLOAD_ADVICE, UserError

__all__ = [
    "SPLITS",
    "DatasetCorrupt",
    "DatasetInfo",
    "DatasetNotFound",
    "DatasetStatus",
    "MemberRule",
    "Shape",
    "padding",
]

Shape = tuple[int, int, int]  # (C, H, W)
MemberRule = Callable[[Tensor, str], Tensor]  # labels (N,), split -> indices (n,) of the images in the split
SPLITS = ("train", "validation", "test")


def padding(image_shape: Shape, original_shape: Shape) -> float:
    """Pixels of an image for each pixel of the original; 1 for images that were shrunk."""
    _, height, width = image_shape
    _, old_height, old_width = original_shape
    if height < old_height or width < old_width:
        return 1.0
    return (height * width) / (old_height * old_width)


class DatasetNotFound(UserError, FileNotFoundError):
    """Files are missing, or could not be downloaded; the message says which, where, and how to get them."""


class DatasetCorrupt(UserError, OSError):
    """A file is there but is not what it should be; the message names it and says what to do."""

    ADVICE = f"replace it with a good copy, or delete it and {DOWNLOAD_ADVICE}"

    @classmethod
    def file(cls, path: Path, problem: str) -> DatasetCorrupt:
        return cls(f"{path} {problem}; {cls.ADVICE}")


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set without reading its images."""

    name: str
    original_shape: Shape  # before padding; of a folder whose images differ in size: the image_shape asked for
    image_shape: Shape  # as `load_dataset` returns them
    class_names: tuple[str, ...]
    splits: tuple[str, ...]  # those whose files are there
    notes: tuple[str, ...] = ()  # of a folder: what to know of how its images are read; each a sentence

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def padding(self) -> float:
        return padding(self.image_shape, self.original_shape)


@dataclass(frozen=True)
class DatasetStatus:
    """Whether a data set's files are there, judged by their names, headers and sizes."""

    name: str
    state: str  # "found", "partial: test only", "missing" or "corrupt: ..."; in brackets what lies in the files' place
    advice: str  # one sentence: what to do
