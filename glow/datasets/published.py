"""The MD5 checksums and image counts of published data sets, to detect files that differ from the published ones.

Files that differ are still read, and `LazyDataset.notes` says how they differ. Only `readers.read_cifar10` refuses such
files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["MD5", "differences"]

MD5: Mapping[str, str] = {
    # These are MD5s of unpacked files; those in torchvision are of the packed ones. For MNIST, the labels of
    # Fashion-MNIST and the test files of KMNIST they were computed from the official files. For the images of
    # Fashion-MNIST they come from public lists of the unpacked files, which agree with one another, and whose MD5s of
    # the labels agree with the computed ones.
    "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    "FashionMNIST/raw/train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "FashionMNIST/raw/train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "FashionMNIST/raw/t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "FashionMNIST/raw/t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    "KMNIST/raw/t10k-images-idx3-ubyte": "bf305b8cd328700fbc17f5acbc2856d2",
    "KMNIST/raw/t10k-labels-idx1-ubyte": "9f55f451c0988b028eccdf7d5cc265ab",
    # From torchvision.datasets.SVHN.
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
"""The MD5 of each published file, by its path relative to the data root."""

IMAGES: Mapping[str, int] = {
    "KMNIST/raw/train-images-idx3-ubyte": 60_000,
    "EMNIST/raw/emnist-letters-train-images-idx3-ubyte": 124_800,
    "EMNIST/raw/emnist-letters-test-images-idx3-ubyte": 20_800,
}
"""The number of images in each published file whose MD5 is not known, by its path relative to the data root."""


def differences(name: str, root: Path, files: Sequence[str], images: int) -> tuple[str, ...]:
    """Describe how the files of a known data set differ from the published ones.

    Args:
        name: the name of the data set, for the sentence.
        root: the data root, which `files` are relative to.
        files: the files to check; those whose published MD5 and number of images are both unknown are passed over.
        images: the number of images in `files`.

    Returns:
        A tuple with one sentence about all files that differ; an empty tuple if none does.

    Example:
        >>> files = ["KMNIST/raw/train-images-idx3-ubyte"]
        >>> differences("kmnist", Path("data"), files, images=100)
        ('kmnist is not as published: train-images-idx3-ubyte has 100 images, not 60000',)
        >>> differences("kmnist", Path("data"), files, images=60_000)
        ()
    """
    found = []
    for file in files:
        if file in MD5 and (digest := _md5(root / file)) != MD5[file]:
            found.append(f"{Path(file).name} has MD5 {digest}, not {MD5[file]}")
        elif file in IMAGES and images != IMAGES[file]:
            found.append(f"{Path(file).name} has {images} images, not {IMAGES[file]}")
    return (f"{name} is not as published: {', '.join(found)}",) if found else ()


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
