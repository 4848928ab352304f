"""The images of a training: they are opened, and then either held in memory or read from files by each worker.

The files of a packed data set (`glowctl pack`) can be mapped into memory, so that the images may take more space than
the machine has memory. All other data sets are held in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from glow.datasets import LazyDataset, open_dataset
from glow.datasets.base import WHITE
from glow.datasets.names import place_of
from glow.datasets.packed_index import read_index
from glowctl.errors import SpecError
from glowctl.specs.base import colour
from glowctl.specs.training import TrainSpec, worker_range
from glowctl.system.machine_metrics import memory_left
from glowctl.text import megabytes

if TYPE_CHECKING:
    from glow.datasets.base import Shape

Splits = Mapping[str, LazyDataset]
"""The data sets by the name of their split: "train", "validation" and "test"."""

HELD_OF_PACKED = 0.1
"""A packed data set is held in memory by default only if its copies take at most this share of the free memory."""


def open_splits(spec: TrainSpec, shape: Shape | None) -> dict[str, LazyDataset]:
    """Open the splits "train", "validation" and "test", without the classes that `spec.leave_out` names.

    Args:
        spec: the settings of the training.
        shape: the channels, height and width that the images shall have; None for those of the data set. Without
            `spec.image_size`, an image of Parquet files that has another size is refused when it is read.

    Raises:
        DatasetNotFound, DatasetCorrupt: if a data set is missing or damaged.
        SpecError: if `spec.leave_out` names a class that the data set does not have, or all that it has.
        ValueError: if `shape` or `spec.per_class` does not fit the data set.
    """
    splits = {
        split: open_dataset(
            spec.dataset,
            split,
            spec.data_root,
            image_shape=shape,
            per_class=spec.per_class if split == "train" else None,
            download=spec.download,
            background=colour(spec.background),
            refuse_other_sizes=spec.image_size is None,
        )
        for split in ("train", "validation", "test")
    }
    if not spec.leave_out:
        return splits
    try:
        return {split: dataset.of_classes(spec.leave_out, others=True) for split, dataset in splits.items()}
    except ValueError as error:
        raise SpecError(
            f"--leave-out {','.join(spec.leave_out)}: {error}",
            remedy="correct --leave-out",
            code="classes-unfit-for-data",
        ) from error


def with_background_of_packed(spec: TrainSpec) -> TrainSpec:
    """Return the settings with the background over which a packed data set was composited when it was packed.

    Its images have no transparency any more. The record of the training then has the background that evaluations shall
    use for other images.

    Raises:
        SpecError: if `spec.background` is another colour than white, the default, and than that of the data set.
        DatasetNotFound, DatasetCorrupt: if the index of the data set cannot be read.
    """
    if not is_packed(spec.dataset):
        return spec
    _, index = read_index(spec.dataset)
    packed = str(index.made_with.get("background", spec.background))
    if colour(packed) == colour(spec.background):
        return spec
    if colour(spec.background) != WHITE:
        raise SpecError(
            f"--background {spec.background}: {spec.dataset} was packed with --background {packed}, and its images "
            "have no transparency any more",
            remedy=f"leave out --background, or pack {index.source} again with --background {spec.background}",
            code="background-differs",
        )
    return spec.model_copy(update={"background": packed})


def given_to_workers(spec: TrainSpec, splits: Splits) -> dict[str, LazyDataset]:
    """Return the splits in the form that the workers use: held in memory, or mapped from their files.

    `spec.images_in` is "memory", "files" or "auto". With "auto", a data set that is not packed is held in memory. A
    packed one is held in memory only if its copies (one here, one in Ray's object store, one per worker) take at most
    the share `HELD_OF_PACKED` of the free memory; otherwise it is mapped. With "memory", nothing is compared with the
    free memory, because the workers of a cluster hold their copies on other machines.

    Raises:
        SpecError: for "auto", if the images do not fit into memory (raised before they are read); or if `--images-in
            files` was given for a data set that is not packed.
    """
    size = sum(dataset.nbytes for dataset in splits.values())
    mappable = all(dataset.mapped for dataset in splits.values())
    if spec.images_in == "files" and not mappable:
        raise SpecError(
            f"--images-in files: {spec.dataset} is not a packed data set",
            remedy=_how_to_pack(spec),
            code="not-packed",
        )
    if mappable and spec.images_in != "memory":
        copies = _copies(spec)
        if spec.images_in == "files" or size * copies > HELD_OF_PACKED * memory_left():
            return dict(splits)
    if spec.images_in != "memory":
        _check_that_it_fits(spec, size)
    return {split: held(dataset) for split, dataset in splits.items()}


def held(dataset: LazyDataset) -> LazyDataset:
    """Read a data set into memory.

    If the fingerprint of the data set is known, the copy in memory gets it. Otherwise the copy's method `fingerprint`
    computes it.
    """
    images = LazyDataset.held(dataset.images(), dataset.labels, dataset.class_names)
    return images if dataset.known_fingerprint is None else images.known_as(dataset.known_fingerprint)


def is_packed(dataset: str) -> bool:
    """Return whether this is the name of a packed data set, such as "packed:faces"."""
    place = place_of(dataset)
    return place is not None and place.kind == "packed"


def _copies(spec: TrainSpec) -> int:
    """Return the number of copies of held images: one here, one in Ray's object store, and one per worker."""
    return 2 + worker_range(spec.workers)[1]


def _check_that_it_fits(spec: TrainSpec, size: int) -> None:
    needed, left = size * _copies(spec), memory_left()
    if needed <= left:
        return
    raise SpecError(
        f"the images of {spec.dataset} take {megabytes(size)}, and a training holds {_copies(spec)} copies of them (in "
        f"this process, in Ray's object store and in each worker), but only {megabytes(left)} of memory are free",
        remedy=f"{_how_to_pack(spec)}; or give --images-in memory, which skips this check",
        code="images-exceed-memory",
    )


def _how_to_pack(spec: TrainSpec) -> str:
    place = place_of(spec.dataset)
    name = "packed" if place is None else place.path.rstrip("/").rpartition("/")[2] + "-packed"
    flags = "" if spec.image_size is None else f" --image-size {spec.image_size}"
    if colour(spec.background) != WHITE:
        flags += f" --background {spec.background.replace(' ', '')}"
    return f"run glowctl pack {spec.dataset} {name}{flags}, then train with --dataset packed:{name}"
