"""Known data sets whose images are published as files of images, such as "textures": they serve as tests for OOD.

The files are put into the data root as their publishers pack them. They are not downloaded: most licences ask that one
gets them from the publisher. All images of a data set are its test split.

Shapes: C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glow.datasets.base import DatasetInfo, DatasetNotFound, Shape
from glow.datasets.files import Listing, image_files
from glow.datasets.folder import FolderDataset
from glow.datasets.lazy import LazyDataset, once


@dataclass(frozen=True)
class Layout:
    """How a data set is published.

    Attributes:
        folder: the folder of the images, relative to the data root.
        shape: (C, H, W) of the images, or of the smallest ones.
        sizes: the sizes of the images in words.
        page: the web page that has the files.
        last: keep only so many images, the last by name, which are the official test set; None for all.

    Examples:
        >>> LAYOUTS["textures"].folder, LAYOUTS["textures"].shape
        ('dtd/images', (3, 300, 300))
    """

    folder: str
    shape: Shape
    sizes: str
    page: str
    last: int | None = None


LAYOUTS: Mapping[str, Layout] = {
    "textures": Layout("dtd/images", (3, 300, 300), "300x300 to 640x640", "https://www.robots.ox.ac.uk/~vgg/data/dtd/"),
    "tiny-imagenet": Layout(
        "tiny-imagenet-200/val/images", (3, 64, 64), "64x64", "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    ),
    "places365": Layout("val_256", (3, 256, 256), "256x256", "http://places2.csail.mit.edu/download.html"),
    "celeba": Layout(
        "celeba/img_align_celeba",
        (3, 218, 178),
        "218x178",
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        last=19_962,
    ),
    "gtsrb": Layout(
        "gtsrb/GTSRB/Final_Test/Images",
        (3, 25, 25),
        "25x25 to 266x232",
        "https://benchmark.ini.rub.de/gtsrb_dataset.html",
    ),
    "notmnist": Layout(
        "notMNIST_small", (1, 28, 28), "28x28", "https://yaroslavvb.blogspot.com/2011/09/notmnist-dataset.html"
    ),
    "omniglot": Layout(
        "omniglot-py/images_evaluation", (1, 105, 105), "105x105", "https://github.com/brendenlake/omniglot"
    ),
}
"""The layouts by name. Where torchvision has the data set, the folder is the one that it makes, but for textures."""


class KnownFolder(FolderDataset):
    """A data set of `LAYOUTS`, whose files are in the data root.

    Args:
        name: a name in `LAYOUTS`.
        root: the data root.
        how: arguments of `ImageSource`.

    Examples:
        >>> KnownFolder("textures", Path("/no/such/folder")).status().state
        'missing'
    """

    def __init__(self, name: str, root: Path, **how: Any) -> None:
        super().__init__(name, **how)
        self.root, self.layout = root, LAYOUTS[name]

    def open(self, split: str, image_shape: Shape | None) -> LazyDataset:
        """Open the test split; no file is opened before its image is asked for."""
        return super().open(split, image_shape or self.layout.shape)

    def describe(self, image_shape: Shape | None) -> DatasetInfo:
        """Describe the data set by its layout; if its files are missing, it has no splits."""
        shape = image_shape or self.layout.shape
        try:
            listing = self._listing()
        except DatasetNotFound:
            return DatasetInfo(self.name, self.layout.shape, shape, (), ())
        return DatasetInfo(self.name, self.layout.shape, shape, listing.class_names, listing.splits)

    def channels(self) -> int:
        """Return the number of channels of the published images."""
        return self.layout.shape[0]

    def _listing(self) -> Listing:
        return once(("listing", self.name, self.root), self._list)

    def _list(self) -> Listing:
        folder = self.root / self.layout.folder
        files = image_files(folder)[-(self.layout.last or 0) :]
        if not files:
            raise DatasetNotFound(
                f"{self.name} has no images in {folder}",
                remedy=f"put them there (from {self.layout.page}), or set GLOW_DATA_ROOT to a folder that has "
                f"{self.layout.folder}",
                code="dataset-files-missing",
            )
        inside = [path.relative_to(folder).parts for path in files]
        classes = [parts[0] if len(parts) > 1 else self.name for parts in inside]
        return Listing({"test": list(zip(files, classes, strict=True))})
