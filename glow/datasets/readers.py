"""Readers of known data sets: each reads images and labels from files into memory, or generates them.

A reader takes a `Request` and returns images, uint8 (N, C, H, W), in the size that they have in the files, and labels,
int64 (N,). Its caller has checked that the files exist. A reader raises DatasetCorrupt for files without the expected
content. torchvision reads CIFAR-10, CIFAR-100 and SVHN. It reads MNIST and the like only if the files of both parts are
there, so `read_idx` reads them.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glow.datasets.base import DatasetCorrupt, Shape
from glow.datasets.decode import convert
from glow.errors import SMALLER_ADVICE

PHOTOS = ("china", "flower")
"""The photographs that scikit-learn includes, without ".jpg"."""


@dataclass(frozen=True)
class Request:
    """The arguments of a reader.

    Attributes:
        split: "train", "validation" or "test".
        root: the data root, the folder that contains the files of known data sets.
        files: the paths of all files of the part; the files exist.
        image_shape: (C, H, W) that was asked for, or else the default of the data set. Only the readers that generate
            images use it.

    Examples:
        >>> Request("validation", Path("data"), (), image_shape=(3, 8, 8)).part
        'train'
    """

    split: str
    root: Path
    files: tuple[Path, ...]
    image_shape: Shape

    @property
    def part(self) -> str:
        """The official part that contains the split, "train" or "test"."""
        return part_with(self.split)


Reader = Callable[[Request], tuple[Tensor, Tensor]]
"""A function that reads a data set: a request -> images, uint8 (N, C, H, W), and labels, int64 (N,)."""

Opener = Callable[[Path | str, bool, bool], Any]
"""A function that opens a data set of torchvision: root, whether the train part, whether to download."""


def part_with(split: str) -> str:
    """Return the official part that contains a split: "train" contains "validation".

    Examples:
        >>> part_with("validation")
        'train'
    """
    return "test" if split == "test" else "train"


def map_idx(
    files: tuple[Path, ...], classes: int, first_label: int = 0, transposed: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Map a pair of IDX files of 28x28 images into memory, the format of MNIST (LeCun et al. 1998).

    Args:
        files: the image file and the label file.
        classes: number of classes.
        first_label: the label of the first class in the file; 1 for the letters of EMNIST.
        transposed: whether the files hold rows and columns exchanged, as those of EMNIST (Cohen et al. 2017) do.

    Returns:
        Images, uint8 (N, 28, 28), of which no pixel is read yet, and labels from 0, int64 (N,).

    Raises:
        DatasetCorrupt: if there are no images of 28x28, the headers of the two files do not agree with the files' sizes
            or with each other, or a label is not that of a class.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> files = Path(folder.name, "images"), Path(folder.name, "labels")
        >>> _ = files[0].write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(2 * 28 * 28))
        >>> _ = files[1].write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 3]))
        >>> images, labels = map_idx(files, classes=10)
        >>> images.shape, labels.tolist()
        ((2, 28, 28), [7, 3])
    """
    image_file, label_file = files
    images, labels = _idx(image_file, (28, 28)), _idx(label_file, ())
    if len(images) != len(labels):
        raise DatasetCorrupt.file(label_file, f"holds {len(labels)} labels for {len(images)} images")
    if labels.min() < first_label or labels.max() >= first_label + classes:
        raise DatasetCorrupt.file(label_file, f"has labels outside {first_label} to {first_label + classes - 1}")
    return images.transpose(0, 2, 1) if transposed else images, labels.astype(np.int64) - first_label


def _idx(path: Path, item: tuple[int, ...]) -> np.ndarray:
    """Map the array (N, *item) of an IDX file into memory.

    The header has the bytes 0, 0, 8 (for unsigned bytes) and the number of dimensions, then each dimension as a
    big-endian int32.
    """
    start = 8 + 4 * len(item)
    with path.open("rb") as file:
        header = file.read(start)
    count = int.from_bytes(header[4:8], "big")
    expected = bytes((0, 0, 8, 1 + len(item))) + b"".join(size.to_bytes(4, "big") for size in (count, *item))
    if header != expected or count == 0 or path.stat().st_size != start + count * math.prod(item):
        of = " of 28x28 images" if item else " of labels"
        raise DatasetCorrupt.file(path, f"is empty, cut short or no IDX file{of}")
    return np.memmap(path, np.uint8, "r", start, (count, *item))


def read_idx(request: Request, classes: int, first_label: int = 0, transposed: bool = False) -> tuple[Tensor, Tensor]:
    """Read a pair of IDX files of 28x28 images.

    Args:
        request: `files` are the image file and the label file.
        classes: as in `map_idx`, like the other arguments.
        first_label: the label of the first class in the file.
        transposed: whether the files hold rows and columns exchanged.

    Returns:
        Images, uint8 (N, 1, 28, 28), and labels from 0, int64 (N,).

    Raises:
        DatasetCorrupt: as `map_idx`.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> files = Path(folder.name, "images"), Path(folder.name, "labels")
        >>> _ = files[0].write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(2 * 28 * 28))
        >>> _ = files[1].write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 3]))
        >>> images, labels = read_idx(Request("test", Path(folder.name), files, (1, 28, 28)), classes=10)
        >>> images.shape, labels.tolist()
        (torch.Size([2, 1, 28, 28]), [7, 3])
    """
    images, labels = map_idx(request.files, classes, first_label, transposed)
    return torch.from_numpy(np.array(images)).unsqueeze(1), torch.from_numpy(labels)


def read_with_torchvision(request: Request, opener: Opener) -> tuple[Tensor, Tensor]:
    """Read a data set that torchvision opens only if its files have the published MD5s.

    For CIFAR-10 and CIFAR-100 this must be so, because their files are pickles, which can run code.

    Args:
        request: `files` are all files of the part, under `root`.
        opener: opens a data set of torchvision whose images are (N, 32, 32, 3), as in CIFAR-10, or (N, 3, 32, 32), as
            in SVHN.

    Returns:
        Images, uint8 (N, 3, 32, 32), and labels, int64 (N,).

    Raises:
        DatasetCorrupt: for a file whose MD5 is not the published one.

    Examples:
        >>> import tempfile
        >>> from torchvision.datasets import SVHN
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "test_32x32.mat")
        ...     _ = file.write_bytes(b"other bytes than the published ones")
        ...     request = Request("test", Path(folder), (file,), (3, 32, 32))
        ...     try:
        ...         read_with_torchvision(request, lambda root, train, download: SVHN(root, "test"))
        ...     except DatasetCorrupt as error:
        ...         print(error.code)
        dataset-damaged
    """
    try:
        found = opener(request.root, request.part == "train", False)
    except RuntimeError as error:
        names = ", ".join(path.name for path in request.files)
        raise DatasetCorrupt(
            f"a file in {request.files[0].parent} does not have the published MD5 ({names})",
            remedy=DatasetCorrupt.ADVICE,
            code="dataset-damaged",
        ) from error
    images = torch.from_numpy(found.data)
    labels = found.labels if hasattr(found, "labels") else found.targets
    if images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    return images.contiguous(), torch.as_tensor(labels, dtype=torch.int64)


def read_digits(request: Request) -> tuple[Tensor, Tensor]:
    """Read scikit-learn's 1,797 digits of 8x8 pixels.

    They are part of "Optical recognition of handwritten digits" (Alpaydin & Kaynak 1998). A level l of their 17 grey
    levels, 0 to 16, becomes min(16 l, 255).

    Args:
        request: not used: the images of all splits are returned, and the caller selects those of one split.

    Returns:
        Images, uint8 (1797, 1, 8, 8), and labels, int64 (1797,).

    Examples:
        >>> images, labels = read_digits(Request("test", Path("data"), (), (1, 8, 8)))
        >>> images.shape, int(images.max()), labels[:3].tolist()
        (torch.Size([1797, 1, 8, 8]), 255, [0, 1, 2])
    """
    rows = np.loadtxt(_digits_file(), delimiter=",", dtype=np.int64)  # 64 grey levels and the label
    images = np.minimum(rows[:, :64] * 16, 255).astype(np.uint8).reshape(-1, 1, 8, 8)
    return torch.from_numpy(images), torch.from_numpy(rows[:, 64].copy())


def _digits_file() -> Path:
    """Return the file of scikit-learn's digits; `load_digits` would import all of scikit-learn, in a second."""
    package = find_spec("sklearn")
    assert package is not None, "scikit-learn is a dependency"
    assert package.submodule_search_locations is not None, "scikit-learn is a folder"
    return Path(next(iter(package.submodule_search_locations)), "datasets", "data", "digits.csv.gz")


def read_noise(request: Request) -> tuple[Tensor, Tensor]:
    """Generate images of uniform noise: every value is drawn from 0 to 255.

    Args:
        request: `split` chooses the random numbers; they are the same in every call.

    Returns:
        Images, uint8 (N, C, H, W), and labels, int64 (N,), all 0. N is 10,000 for "train", else 1,000.

    Examples:
        >>> images, _ = read_noise(Request("test", Path("data"), (), (1, 8, 8)))
        >>> images.shape, images.unique().numel()
        (torch.Size([1000, 1, 8, 8]), 256)
    """
    return _random_images("noise", request, request.image_shape)


def read_constant(request: Request) -> tuple[Tensor, Tensor]:
    """Generate images of one colour each: one value per channel is drawn uniformly from 0 to 255.

    Args:
        request: `split` chooses the random numbers; they are the same in every call.

    Returns:
        Images, uint8 (N, C, H, W), and labels, int64 (N,), all 0. N is 10,000 for "train", else 1,000.

    Examples:
        >>> images, _ = read_constant(Request("test", Path("data"), (), (3, 8, 8)))
        >>> [images[0, channel].unique().numel() for channel in range(3)]
        [1, 1, 1]
    """
    images, labels = _random_images("constant", request, (request.image_shape[0], 1, 1))
    return images.expand(-1, *request.image_shape), labels


def read_photos(request: Request) -> tuple[Tensor, Tensor]:
    """Cut patches from two photographs of 427x640 pixels that scikit-learn includes, without resizing them.

    The patches come from the two photographs in turn, at random places. Patches may overlap, even patches of different
    splits. Pixels can differ by one grey level between versions of Pillow, which decodes the photographs.

    Args:
        request: `split` chooses the random places, which are the same in every call; `image_shape` is the shape of the
            patches.

    Returns:
        Images, uint8 (N, C, H, W), and labels, int64 (N,), the index of the photograph in `PHOTOS`. N is 10,000 for
        "train", else 1,000.

    Raises:
        ValueError: for patches larger than the photographs, or channels other than 1 and 3.

    Examples:
        >>> images, labels = read_photos(Request("test", Path("data"), (), (3, 16, 16)))
        >>> images.shape, labels[:4].tolist()
        (torch.Size([1000, 3, 16, 16]), [0, 1, 0, 1])
    """
    from sklearn.datasets import load_sample_image

    channels, height, width = request.image_shape
    photos = torch.from_numpy(np.stack([load_sample_image(f"{name}.jpg") for name in PHOTOS])).permute(0, 3, 1, 2)
    full_height, full_width = photos.shape[-2:]
    if height > full_height or width > full_width:
        raise ValueError(
            f"the photographs of photos are {full_height} pixels high and {full_width} wide, too small for patches of "
            f"{height}x{width}: {SMALLER_ADVICE}"
        )
    photos = convert(photos, (channels, full_height, full_width))  # changes only the channels
    count, generator = _count_and_generator("photos", request)
    labels = torch.arange(count) % len(PHOTOS)
    tops = torch.randint(full_height - height + 1, (count,), generator=generator)
    lefts = torch.randint(full_width - width + 1, (count,), generator=generator)
    patches = photos.unfold(2, height, 1).unfold(3, width, 1)  # a view (photos, C, tops, lefts, H, W)
    return patches[labels, :, tops, lefts], labels


def _random_images(name: str, request: Request, shape: Shape) -> tuple[Tensor, Tensor]:
    count, generator = _count_and_generator(name, request)
    images = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)
    return images, torch.zeros(count, dtype=torch.int64)


def _count_and_generator(name: str, request: Request) -> tuple[int, torch.Generator]:
    """Return the number of images of a generated data set in a split, and its random generator."""
    seed = int.from_bytes(hashlib.sha256(f"{name} {request.split}".encode()).digest()[:4], "big")
    return 10_000 if request.split == "train" else 1_000, torch.Generator().manual_seed(seed)
