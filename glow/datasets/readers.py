"""Readers of known data sets: each reads images and labels from files into memory, or generates them.

A reader takes a `Request` and returns images, uint8 (N, C, H, W), in the size that they have in the files, and labels,
int64 (N,). Its caller has checked that the files exist. A reader raises DatasetCorrupt, with the path, for a file
without the expected content.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
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

PHOTOS = ("china", "flower")
"""The photographs that scikit-learn includes, without ".jpg"."""


@dataclass(frozen=True)
class Request:
    """The arguments of a reader.

    Attributes:
        split: "train", "validation" or "test".
        part: "train" or "test", the official part that contains the split; "train" for the split "validation".
        root: the data root, the folder that contains the files of known data sets.
        files: the paths of all files of the part; the files exist.
        num_classes: number of classes.
        image_shape: (C, H, W) that was asked for, or else the default of the data set. Only the readers that generate
            images use it.

    Example:
        >>> request = Request("test", "test", Path("data"), (), num_classes=1, image_shape=(3, 8, 8))
        >>> images, labels = read_noise(request)
        >>> images.shape, labels.shape
        (torch.Size([1000, 3, 8, 8]), torch.Size([1000]))
    """

    split: str
    part: str
    root: Path
    files: tuple[Path, ...]
    num_classes: int
    image_shape: Shape


Reader = Callable[[Request], tuple[Tensor, Tensor]]
"""A function that reads a data set: a request -> images, uint8 (N, C, H, W), and labels, int64 (N,)."""


def read_digits(request: Request) -> tuple[Tensor, Tensor]:
    """Read scikit-learn's 1,797 digits of 8x8 pixels.

    They are part of "Optical recognition of handwritten digits" (Alpaydin & Kaynak 1998). A level l of their 17 grey
    levels, 0 to 16, becomes min(16 l, 255).

    Args:
        request: not used: the images of all splits are returned, and the caller selects those of one split.

    Returns:
        Images, uint8 (1797, 1, 8, 8), and labels, int64 (1797,).

    Example:
        >>> images, labels = read_digits(Request("test", "test", Path("data"), (), 10, (1, 8, 8)))
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


def read_idx(request: Request, *, transposed: bool = False, first_label: int = 0) -> tuple[Tensor, Tensor]:
    """Read a pair of IDX files of 28x28 images, the format of MNIST (LeCun et al. 1998).

    Args:
        request: `files` are the image file and the label file.
        transposed: whether the files hold rows and columns exchanged, as those of EMNIST (Cohen et al. 2017) do.
        first_label: the label of the first class in the file; 1 for the letters of EMNIST.

    Returns:
        Images, uint8 (N, 1, 28, 28), and labels from 0, int64 (N,).

    Raises:
        DatasetCorrupt: if `check_idx` finds an error in the files.

    Example:
        >>> import tempfile
        >>> images = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(2 * 28 * 28)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = Path(folder, "images"), Path(folder, "labels")
        ...     for file, content in zip(files, (images, bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 3]))):
        ...         _ = file.write_bytes(content)
        ...     images, labels = read_idx(Request("test", "test", Path(folder), files, 10, (1, 28, 28)))
        >>> images.shape, labels.tolist()
        (torch.Size([2, 1, 28, 28]), [7, 3])
    """
    image_file, label_file = request.files
    check_idx(request.files, first_label=first_label, num_classes=request.num_classes)
    images = np.fromfile(image_file, np.uint8, offset=16).reshape(-1, 28, 28)
    if transposed:
        images = images.transpose(0, 2, 1)
    labels = _idx_labels(label_file).astype(np.int64) - first_label
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels)


def check_idx(files: tuple[Path, ...], *, first_label: int = 0, num_classes: int) -> None:
    """Check a pair of IDX files by their headers, sizes and labels, without reading pixels.

    Args:
        files: the image file and the label file.
        first_label: the label of the first class in the file.
        num_classes: number of classes; labels are `first_label` to `first_label + num_classes - 1`.

    Raises:
        DatasetCorrupt: if there are no images of 28x28, the headers of the two files do not agree with the files' sizes
            or with each other, or a label is outside the range.

    Example:
        >>> import tempfile
        >>> images = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(2 * 28 * 28)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = Path(folder, "images"), Path(folder, "labels")
        ...     for file, content in zip(files, (images, bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 3, 1]))):
        ...         _ = file.write_bytes(content)
        ...     try:
        ...         check_idx(files, num_classes=10)
        ...     except DatasetCorrupt as error:
        ...         print(error.problem.removeprefix(folder))
        /labels has 3 labels for 2 images
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
    """Check that no file is empty. The reader checks the content of the files later.

    Args:
        files: files that exist.

    Raises:
        DatasetCorrupt: for a file of 0 bytes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "train_32x32.mat")
        ...     file.touch()
        ...     try:
        ...         check_not_empty((file,))
        ...     except DatasetCorrupt as error:
        ...         print(error.problem.removeprefix(folder))
        /train_32x32.mat is empty
    """
    for path in files:
        if path.stat().st_size == 0:
            raise DatasetCorrupt.file(path, "is empty")


def _idx_shape(path: Path, dimensions: int) -> tuple[int, ...]:
    """Return the shape in the header of an IDX file, (N, 28, 28) or (N,), after checking it against the file's size.

    The header has the bytes 0, 0, 8 (for unsigned bytes) and the number of dimensions, then each dimension as a
    big-endian int32.
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
    """Read the pickles of CIFAR-10 (Krizhevsky 2009).

    Files that differ from the published ones are refused, because a pickle can run code. For other known data sets,
    such files are read, and `LazyDataset.notes` reports the difference.

    Args:
        request: `files` are all files of the data set, under `root`; `part` chooses the images.

    Returns:
        Images, uint8 (N, 3, 32, 32), and labels, int64 (N,).

    Raises:
        DatasetCorrupt: for a file whose MD5 is not the published one.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "data_batch_1")
        ...     _ = file.write_bytes(b"other bytes than the published ones")
        ...     try:
        ...         read_cifar10(Request("train", "train", Path(folder), (file,), 10, (3, 32, 32)))
        ...     except DatasetCorrupt as error:
        ...         print(error.code)
        dataset-damaged
    """
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
    """Read a MATLAB file of SVHN, cropped digits (Netzer et al. 2011).

    Args:
        request: `files` contains one path, the file of the part.

    Returns:
        Images, uint8 (N, 3, 32, 32), and labels, int64 (N,). The file's label 10 becomes 0, the digit it stands for.

    Raises:
        DatasetCorrupt: for a file that scipy cannot read, or whose arrays have other shapes, types or labels.

    Example:
        >>> import tempfile
        >>> from scipy.io import savemat
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "test_32x32.mat")
        ...     savemat(file, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[10], [4]], np.uint8)})
        ...     images, labels = read_svhn(Request("test", "test", Path(folder), (file,), 10, (3, 32, 32)))
        >>> images.shape, labels.tolist()
        (torch.Size([2, 3, 32, 32]), [0, 4])
    """
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
    """Generate images of uniform noise: every value is drawn from 0 to 255.

    Args:
        request: `split` chooses the random numbers; they are the same in every call.

    Returns:
        Images, uint8 (N, C, H, W), and labels, int64 (N,), all 0. N is 10,000 for "train", else 1,000.

    Example:
        >>> images, _ = read_noise(Request("test", "test", Path("data"), (), 1, (1, 8, 8)))
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

    Example:
        >>> images, _ = read_constant(Request("test", "test", Path("data"), (), 1, (3, 8, 8)))
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

    Example:
        >>> images, labels = read_photos(Request("test", "test", Path("data"), (), 2, (3, 16, 16)))
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
