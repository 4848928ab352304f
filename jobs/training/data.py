"""The images that a training is given: whether they are held in memory, and how each worker comes by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from glow.datasets import LazyDataset, open_dataset
from glow.datasets.names import place_of
from jobs.specs.base import colour
from jobs.specs.training import TrainSpec, worker_range
from jobs.system.machine_memory import memory_left
from jobs.text import megabytes

if TYPE_CHECKING:
    from glow.datasets.base import Shape

__all__ = ["Splits", "given_to_workers", "held", "is_packed", "open_splits"]

Splits = Mapping[str, LazyDataset]
"""The images of "train", "validation" and "test"."""

HELD_OF_PACKED = 0.1
"""The share of this machine's free memory that a packed data set, which need not be held, may take by itself."""


def open_splits(spec: TrainSpec, shape: Shape | None) -> dict[str, LazyDataset]:
    """Opens the three splits. Raises what `glow.datasets.open_dataset` raises, and ValueError for a class to leave out
    that there is not."""
    splits = {
        split: open_dataset(
            spec.dataset,
            split,
            spec.data_root,
            image_shape=shape,
            per_class=spec.per_class if split == "train" else None,
            download=spec.download,
            background=colour(spec.background),
        )
        for split in ("train", "validation", "test")
    }
    if not spec.leave_out:
        return splits
    return {split: dataset.of_classes(spec.leave_out, others=True) for split, dataset in splits.items()}


def given_to_workers(spec: TrainSpec, splits: Splits) -> dict[str, LazyDataset]:
    """The splits as the workers shall have them: held in memory by each, or mapped by each from where they lie.

    Raises ValueError for images that do not fit into memory, before they are read, and for images that shall stay in
    their files and cannot.
    """
    size = sum(dataset.nbytes for dataset in splits.values())
    mappable = all(dataset.mapped for dataset in splits.values())
    if spec.images_in == "files" and not mappable:
        raise ValueError(f"images are read from their files where they are packed: {_how_to_pack(spec)}")
    if mappable and spec.images_in != "memory":
        copies = _copies(spec)
        if spec.images_in == "files" or size * copies > HELD_OF_PACKED * memory_left():
            return dict(splits)
    _check_that_it_fits(spec, size, mappable)
    return {split: held(dataset) for split, dataset in splits.items()}


def held(dataset: LazyDataset) -> LazyDataset:
    """The same images, read into memory."""
    images = LazyDataset.held(dataset.images(), dataset.labels, dataset.class_names)
    return images if dataset.known_fingerprint is None else images.known_as(dataset.known_fingerprint)


def is_packed(dataset: str) -> bool:
    """Whether the name is of a packed data set."""
    place = place_of(dataset)
    return place is not None and place.kind == "packed"


def _copies(spec: TrainSpec) -> int:
    """How often images that are held are in memory: here, in Ray's object store, and in each worker."""
    return 2 + worker_range(spec.workers)[1]


def _check_that_it_fits(spec: TrainSpec, size: int, mappable: bool) -> None:
    needed, left = size * _copies(spec), memory_left()
    if needed <= left:
        return
    remedy = "leave out --images-in memory" if mappable else _how_to_pack(spec)
    raise ValueError(
        f"the images of {spec.dataset} take {megabytes(size)}, which {_copies(spec)} copies of (here, in Ray's object "
        f"store and in each worker) do not fit into the {megabytes(left)} of memory that are free: {remedy}"
    )


def _how_to_pack(spec: TrainSpec) -> str:
    place = place_of(spec.dataset)
    name = "packed" if place is None else place.path.rstrip("/").rpartition("/")[2] + "-packed"
    size = "" if spec.image_size is None else f" --image-size {spec.image_size}"
    return f"glowctl pack {spec.dataset} {name}{size}, then --dataset packed:{name}"
