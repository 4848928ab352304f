"""What the other files of this package speak in: a shape, a split, an answer, an error. It reads nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

__all__ = [
    "DOWNLOAD_ADVICE",
    "SPLITS",
    "DatasetCorrupt",
    "DatasetInfo",
    "DatasetNotFound",
    "DatasetStatus",
    "MemberRule",
    "Shape",
    "Source",
]

Shape = tuple[int, int, int]  # (C, H, W)
MemberRule = Callable[[Tensor, str], Tensor]  # labels (N,), split -> indices (n,) of the images in the split
SPLITS = ("train", "validation", "test")
DOWNLOAD_ADVICE = "load with download=True"  # in messages; a program with another way to say it can replace it


class DatasetNotFound(FileNotFoundError):
    """Files are missing, or could not be downloaded; the message says which, where, and how to get them."""


class DatasetCorrupt(OSError):
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

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclass(frozen=True)
class DatasetStatus:
    """Whether a data set's files are there, judged by their names, headers and sizes."""

    name: str
    state: str  # "found", "partial: test only", "missing" or "corrupt: ..."
    advice: str  # one sentence: what to do


@dataclass(frozen=True)
class Source:
    """An opened split of a data set: `labels` may cover more images, `members` are those of the split."""

    labels: Tensor  # int64 (N,)
    members: Tensor  # int64 (n,), indices of `labels` in file order
    class_names: tuple[str, ...]
    pick: Callable[[Tensor], Tensor]  # indices (n,) -> uint8 images (n, C, H, W)
