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
from glow.datasets.tensors import convert
from glow.errors import SMALLER_ADVICE

__all__ = [
    "PHOTOS", "Reader", "Request", "check_idx", "check_not_empty",
    "read_cifar10", "read_constant", "read_digits", "read_idx", "read_noise", "read_photos", "read_svhn",
]  # fmt: skip

PHOTOS = ("china", "flower")  # the photographs in scikit-learn's package, without ".jpg"


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
    check_idx(request.files, first_label=first_label, num_classes=request.num_classes)
    images = np.fromfile(image_file, np.uint8, offset=16).reshape(-1, 28, 28)
    if transposed:
        images = images.transpose(0, 2, 1)
    labels = _idx_labels(label_file).astype(np.int64) - first_label
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels)


def check_idx(files: tuple[Path, ...], *, first_label: int = 0, num_classes: int) -> None:
    """Check a pair of IDX files without reading pixels.

    Raises DatasetCorrupt unless there are images, the headers of images and labels agree with the sizes and each other,
    and every label is one of `num_classes` from `first_label` on.
    """
    image_file, label_file = files
    (images, *_), (labels,) = _idx_shape(image_file, 3), _idx_shape(label_file, 1)
    if images != labels:
        raise DatasetCorrupt.file(label_file, f"has {labels} labels for {images} images")
    if images == 0:
        raise DatasetCorrupt.file(image_file, "holds no images")
    found, last_label = _idx_labels(label_file), first_label + num_classes - 1
    if found.min() < first_label or found.max() > last_label:
        raise DatasetCorrupt.file(label_file, f"has labels outside {first_label} to {last_label}")


def _idx_labels(path: Path) -> np.ndarray:
    return np.fromfile(path, np.uint8, offset=8)


def check_not_empty(files: tuple[Path, ...]) -> None:
    """DatasetCorrupt for a file of no bytes; what is in it is checked when it is read."""
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
    """CIFAR-10's pickles. A pickle can run code: others than the published ones are refused, not noted."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    md5 = dict([*CIFAR10.train_list, *CIFAR10.test_list, [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]])
    for path in request.files:
        if not check_integrity(path, md5[path.name]):
            raise DatasetCorrupt.file(path, "does not have the published MD5, and a pickle can run code")
    data = CIFAR10(request.root, train=request.part == "train")
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2)
    return images, torch.tensor(data.targets, dtype=torch.int64)


def read_svhn(request: Request) -> tuple[Tensor, Tensor]:
    """SVHN's MATLAB file, whose label 10 stands for the digit 0."""
    from scipy.io import loadmat

    (path,) = request.files
    try:
        content = loadmat(path)
        images_HWCN, labels = content["X"], content["y"].astype(np.int64).flatten()
    except Exception as error:  # scipy raises anything: ValueError, TypeError, KeyError, zlib.error, ...
        raise DatasetCorrupt.file(path, f"cannot be read as a MATLAB file of SVHN ({error})") from error
    if images_HWCN.dtype != np.uint8 or images_HWCN.shape != (32, 32, 3, len(labels)) or len(labels) == 0:
        raise DatasetCorrupt.file(
            path, f"holds {images_HWCN.dtype} images {images_HWCN.shape} for {len(labels)} labels"
        )
    if labels.min() < 1 or labels.max() > 10:
        raise DatasetCorrupt.file(path, "has labels outside 1 to 10")
    return torch.from_numpy(np.ascontiguousarray(images_HWCN.transpose(3, 2, 0, 1))), torch.from_numpy(labels % 10)


def read_noise(request: Request) -> tuple[Tensor, Tensor]:
    """Every value of every image drawn uniformly from 0..255."""
    return _random_images("noise", request, request.image_shape)


def read_constant(request: Request) -> tuple[Tensor, Tensor]:
    """One value for each channel of each image, drawn uniformly from 0..255."""
    images, labels = _random_images("constant", request, (request.image_shape[0], 1, 1))
    return images.expand(-1, *request.image_shape), labels


def read_photos(request: Request) -> tuple[Tensor, Tensor]:
    """Patches of two photographs of 427x640 in scikit-learn, at full resolution: one of each in turn, anywhere in it.

    The label says which photograph. Patches, of one split or two, may overlap in pixels. Another version of Pillow can
    decode the photographs a grey level apart. ValueError for patches larger than the photographs.
    """
    from sklearn.datasets import load_sample_image

    channels, height, width = request.image_shape
    photos = torch.from_numpy(np.stack([load_sample_image(f"{name}.jpg") for name in PHOTOS])).permute(0, 3, 1, 2)
    full_height, full_width = photos.shape[-2:]
    if height > full_height or width > full_width:
        raise ValueError(
            f"photos has patches of photographs that are {full_height} pixels high and {full_width} wide, "
            f"so there are none of {height}x{width}; {SMALLER_ADVICE}"
        )
    photos = convert(photos, (channels, full_height, full_width))  # recolours them
    count, generator = _count_and_generator("photos", request)
    labels = torch.arange(count) % len(PHOTOS)
    tops = torch.randint(full_height - height + 1, (count,), generator=generator)
    lefts = torch.randint(full_width - width + 1, (count,), generator=generator)
    patches = photos.unfold(2, height, 1).unfold(3, width, 1)  # (photos, C, tops, lefts, H, W), which is only a view
    return patches[labels, :, tops, lefts], labels


def _random_images(name: str, request: Request, shape: Shape) -> tuple[Tensor, Tensor]:
    count, generator = _count_and_generator(name, request)
    images = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)
    return images, torch.zeros(count, dtype=torch.int64)


def _count_and_generator(name: str, request: Request) -> tuple[int, torch.Generator]:
    """How many images a made data set has in a split, and what they are drawn with."""
    seed = int.from_bytes(hashlib.sha256(f"{name} {request.split}".encode()).digest()[:4], "big")
    return 10_000 if request.split == "train" else 1_000, torch.Generator().manual_seed(seed)
