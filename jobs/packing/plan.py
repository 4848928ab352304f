"""What is to be packed: the shards that there will be, and those that an earlier command has left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from glow.datasets import DatasetCorrupt, DatasetInfo, LazyDataset, describe, open_dataset, own_channels
from glow.datasets.names import absolute_dataset, place_of
from glow.datasets.packed import INDEX, PackedIndex, PackedShard, PackedSplit, labels_file, shard_file
from jobs.errors import JobError, SpecError
from jobs.specs.base import colour
from jobs.specs.packing import PackSpec
from jobs.text import JsonObject, megabytes

__all__ = ["LEFT_OUT", "SKIP_ADVICE", "Done", "Plan", "Shard", "done_file", "prepare"]

SKIP_ADVICE = ", or give --on-error skip, which leaves such files out and lists them"

BEGUN = "packing.json"
"""In the destination while it is not complete: what is packed into it, and how."""

LEFT_OUT = "left-out.txt"
"""In the destination: what could not be read, a line for each file."""

SHARD_BYTES = 32 * 2**20
"""Of images in a shard, by default. A kill costs each process one shard."""


@dataclass(frozen=True)
class Shard:
    """The images of a split at positions `start` to `stop` of the source."""

    split: str
    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Done:
    """A shard that has been written; `left_out` are the positions of what could not be read, and what was wrong."""

    images: int
    fingerprint: str
    left_out: Sequence[tuple[int, str]]

    @classmethod
    def read(cls, file: Path) -> Done | None:
        """None if the shard has not been written whole."""
        try:
            said = json.loads(file.read_text())
            return cls(said["images"], said["fingerprint"], [(position, why) for position, why in said["left_out"]])
        except (OSError, ValueError, KeyError):
            return None


@dataclass(frozen=True)
class Plan:
    """A packing that has been checked. `spec` has absolute paths."""

    spec: PackSpec
    info: DatasetInfo
    datasets: Mapping[str, LazyDataset]
    shards: Sequence[Shard]

    @property
    def folder(self) -> Path:
        return Path(self.spec.dest)

    @property
    def images(self) -> int:
        return sum(len(dataset) for dataset in self.datasets.values())

    def done(self) -> dict[Shard, Done]:
        """The shards that are there already."""
        found = ((shard, Done.read(self.folder / done_file(shard))) for shard in self.shards)
        return {shard: done for shard, done in found if done is not None}

    def begin(self) -> None:
        """Makes the folder, or goes on with what an earlier command has begun. Raises JobError if it holds other
        things."""
        said = json.dumps(self._said(), indent=1)
        file = self.folder / BEGUN
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            begun = file.read_text() if file.is_file() else None
            if begun not in (None, said):
                raise JobError(
                    f"{self.folder} was begun with other images or settings: give another DEST, or remove it"
                )
            if begun is None and any(self.folder.iterdir()):
                raise JobError(f"{self.folder} is not empty: give a DEST that is not there yet")
            for unfinished in self.folder.glob("*.part"):  # of a command that was killed
                unfinished.unlink(missing_ok=True)
            file.write_text(said)
        except OSError as error:
            raise JobError(f"{self.folder} cannot be written ({error.strerror}): give another DEST") from error

    def complete(self) -> PackedIndex:
        """Writes the labels and the index, and removes what was needed to go on. Every shard must be done."""
        done = self.done()
        splits = {}
        for split, dataset in self.datasets.items():
            of = {shard: done[shard] for shard in self.shards if shard.split == split}
            left_out = [position for each in of.values() for position, _ in each.left_out]
            np.save(self.folder / labels_file(split), np.delete(dataset.labels.numpy(), left_out))
            splits[split] = PackedSplit([PackedShard(each.images, each.fingerprint) for each in of.values()])
        problems = [why for each in done.values() for _, why in each.left_out]
        if problems:
            (self.folder / LEFT_OUT).write_text("".join(f"{why}\n" for why in problems))
        index = PackedIndex(
            image_shape=self.info.image_shape,
            original_shape=self.info.original_shape,
            class_names=self.info.class_names,
            splits=splits,
            source=self.spec.source,
            made_with=self._settings(),
            left_out=len(problems),
        )
        unfinished = self.folder / f"{INDEX}.part"
        unfinished.write_text(index.to_json())
        unfinished.replace(self.folder / INDEX)
        for shard in self.shards:
            (self.folder / done_file(shard)).unlink(missing_ok=True)
        (self.folder / BEGUN).unlink(missing_ok=True)
        return index

    def _settings(self) -> JsonObject:
        return self.spec.model_dump(include={"image_size", "background", "on_error"})

    def _said(self) -> JsonObject:
        """What a later command must have in common with the first, to go on with its shards."""
        return {
            "source": self.spec.source,
            "settings": self._settings(),
            "image_shape": list(self.info.image_shape),
            "class_names": list(self.info.class_names),
            "images": {split: len(dataset) for split, dataset in self.datasets.items()},
            "first_shard": astuple(self.shards[0]),
        }


def done_file(shard: Shard) -> str:
    """Written beside a shard when it is whole."""
    return f"{shard_file(shard.split, shard.number)}.json"


def prepare(spec: PackSpec) -> Plan:
    """Opens the source and checks the destination.

    Raises:
        SpecError: for settings that do not fit the images.
        DatasetNotFound, DatasetCorrupt: for images that cannot be had.
        JobError: for a destination that cannot be used.
    """
    spec = _absolute(spec)
    size, background, skip = spec.image_size, colour(spec.background), spec.on_error == "skip"
    try:
        shape = None if size is None else (own_channels(spec.source, skip), size, size)
        info = describe(spec.source, spec.data_root, image_shape=shape, background=background, skip_unreadable=skip)
        datasets = {
            split: open_dataset(
                spec.source,
                split,
                spec.data_root,
                image_shape=info.image_shape,
                download=spec.download,
                background=background,
            )
            for split in info.splits
        }
    except DatasetCorrupt as error:
        raise JobError(f"{error}{'' if skip else SKIP_ADVICE}") from error
    except ValueError as error:
        raise SpecError(str(error)) from error
    images = spec.shard_size or max(1, SHARD_BYTES // int(np.prod(info.image_shape)))
    shards = [
        Shard(split, number, start, min(start + images, len(dataset)))
        for split, dataset in datasets.items()
        for number, start in enumerate(range(0, len(dataset), images))
    ]
    plan = Plan(spec, info, datasets, shards)
    _check_room(plan)
    return plan


def _absolute(spec: PackSpec) -> PackSpec:
    """The spec with absolute paths. Raises SpecError or JobError for a source or destination that cannot be one."""
    source = absolute_dataset(spec.source)
    place = place_of(source)
    if place is not None and place.kind == "packed":
        raise SpecError(f"{source} is packed already: use it by --dataset {source}")
    if "://" in spec.dest:
        raise SpecError(f"DEST is a folder, not {spec.dest}: pack into one that all machines share")
    dest = str(Path(spec.dest).expanduser().absolute())
    if Path(dest, INDEX).is_file():
        raise JobError(f"{dest} is a packed data set already: use it by --dataset packed:{dest}, or give another DEST")
    absolute = {"source": source, "dest": dest}
    if spec.data_root is not None:
        absolute["data_root"] = str(Path(spec.data_root).expanduser().absolute())
    return spec.model_copy(update=absolute)


def _check_room(plan: Plan) -> None:
    """Raises JobError if the disk has no room for all that is not there yet."""
    there = sum(file.stat().st_size for file in plan.folder.glob("*.npy")) if plan.folder.is_dir() else 0
    needed = sum(dataset.nbytes for dataset in plan.datasets.values()) - there
    parent = next(folder for folder in (plan.folder, *plan.folder.parents) if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise JobError(
            f"the images take {megabytes(needed)}, and the disk of {parent} has {megabytes(free)} free: make room, or "
            "give another DEST or a smaller --image-size"
        )
