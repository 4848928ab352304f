"""Readers: files of one data set -> images uint8 (N, C, H, W), unpadded, and labels int64 (N,).

A reader finds its files present; it raises DatasetCorrupt, naming the file, when one is not as it should be.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glow.datasets.base import DatasetCorrupt, Shape

__all__ = [
    "Reader", "Request", "check_idx", "check_not_empty",
    "read_cifar10", "read_constant", "read_digits", "read_idx", "read_noise", "read_svhn",
]  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What a reader is asked for."""

    split: str
    part: str  # "train" or "test": which of the official files hold the split
    root: Path
    files: tuple[Path, ...]  # those of the part; they exist
    num_classes: int
    image_shape: Shape  # only data sets that are made, not read, look at it


Reader = Callable[[Request], tuple[Tensor, Tensor]]


def read_digits(request: Request) -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 digits of 8x8; their 17 grey levels 0..16 become min(16 * level, 255)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.minimum(bunch.images * 16, 255).astype(np.uint8)
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(bunch.target.astype(np.int64))


def read_idx(request: Request, *, transposed: bool = False, first_label: int = 0) -> tuple[Tensor, Tensor]:
    """A pair of files like MNIST's. EMNIST stores its images `transposed`, and letters from label 1."""
    image_file, label_file = request.files
    check_idx(request.files)
    images = np.fromfile(image_file, np.uint8, offset=16).reshape(-1, 28, 28)
    labels = np.fromfile(label_file, np.uint8, offset=8).astype(np.int64) - first_label
    if len(labels) and not 0 <= labels.min() <= labels.max() < request.num_classes:
        expected = f"{first_label} to {first_label + request.num_classes - 1}"
        raise DatasetCorrupt.file(label_file, f"has labels outside {expected}")
    if transposed:
        images = images.transpose(0, 2, 1)
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels)


def check_idx(files: tuple[Path, ...]) -> None:
    """DatasetCorrupt unless the headers of images and labels agree with the sizes and each other."""
    image_file, label_file = files
    (images, *_), (labels,) = _idx_shape(image_file, 3), _idx_shape(label_file, 1)
    if images != labels:
        raise DatasetCorrupt.file(label_file, f"has {labels} labels for {images} images")


def check_not_empty(files: tuple[Path, ...]) -> None:
    """DatasetCorrupt for a file of no bytes; formats with a published MD5 are checked when they are read."""
    for path in files:
        if path.stat().st_size == 0:
            raise DatasetCorrupt.file(path, "is empty")


def _idx_shape(path: Path, dimensions: int) -> tuple[int, ...]:
    """The shape in an IDX file's header, checked against the file's size: (N, 28, 28), or (N,) for labels.

    The header: bytes 0, 0, 8 (unsigned bytes), the number of dimensions, then each as big-endian int32.
    """
    with path.open("rb") as file:
        header = file.read(4 * (dimensions + 1))
    if header[:4] != bytes((0, 0, 8, dimensions)):
        raise DatasetCorrupt.file(path, f"does not begin like an IDX file of {dimensions}-dimensional bytes")
    shape = tuple(int.from_bytes(header[4 * i : 4 * i + 4], "big") for i in range(1, dimensions + 1))
    if dimensions == 3 and shape[1:] != (28, 28):
        raise DatasetCorrupt.file(path, f"holds images of {shape[1]}x{shape[2]}, not 28x28")
    size, expected = path.stat().st_size, 4 * (dimensions + 1) + math.prod(shape)
    if size != expected:
        raise DatasetCorrupt.file(path, f"has {size} bytes where its header promises {expected}")
    return shape


def read_cifar10(request: Request) -> tuple[Tensor, Tensor]:
    """CIFAR-10's pickles, opened only if their MD5 is the published one: a pickle can run code."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    md5 = dict([*CIFAR10.train_list, *CIFAR10.test_list, [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]])
    for path in request.files:
        if not check_integrity(path, md5[path.name]):
            raise DatasetCorrupt.file(path, "does not have the published MD5")
    data = CIFAR10(request.root, train=request.part == "train")
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2)
    return images, torch.tensor(data.targets, dtype=torch.int64)


def read_svhn(request: Request) -> tuple[Tensor, Tensor]:
    """SVHN's MATLAB file, which torchvision opens only if its MD5 is the published one."""
    from torchvision.datasets import SVHN

    try:
        data = SVHN(request.root, request.part)
    except RuntimeError as error:
        raise DatasetCorrupt.file(request.files[0], "does not have the published MD5") from error
    return torch.from_numpy(data.data), torch.from_numpy(data.labels)


def read_noise(request: Request) -> tuple[Tensor, Tensor]:
    """Every value of every image drawn uniformly from 0..255."""
    return _random_images("noise", request, request.image_shape)


def read_constant(request: Request) -> tuple[Tensor, Tensor]:
    """One value for each channel of each image, drawn uniformly from 0..255."""
    images, labels = _random_images("constant", request, (request.image_shape[0], 1, 1))
    return images.expand(-1, *request.image_shape), labels


def _random_images(name: str, request: Request, shape: Shape) -> tuple[Tensor, Tensor]:
    seed = int.from_bytes(hashlib.sha256(f"{name} {request.split}".encode()).digest()[:4], "big")
    count = 10_000 if request.split == "train" else 1_000
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)
    return images, torch.zeros(count, dtype=torch.int64)
