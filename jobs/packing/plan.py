"""The plan of a packing: which shards to write, and which of them an earlier command has written already.

`prepare` makes a plan from the settings, `Plan.begin` creates the destination, and `Plan.complete` writes the index
when all shards are there.
"""

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
"""The end of the remedy for a file that cannot be read."""

BEGUN = "packing.json"
"""The file in an incomplete destination with the source and the settings, so that a later command can continue."""

LEFT_OUT = "left-out.txt"
"""The file in the destination that lists the files that could not be read, one line for each."""

SHARD_BYTES = 32 * 2**20
"""Size of a shard's images by default. If the command is killed, each process loses at most one shard."""


@dataclass(frozen=True)
class Shard:
    """The images of a split that are written to one file.

    Attributes:
        split: "train", "validation" or "test".
        number: counts the shards of the split from 0.
        start: position of the first image in the split of the source.
        stop: position after the last image.
    """

    split: str
    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Done:
    """The facts about a shard that has been written.

    Attributes:
        images: number of images in it.
        fingerprint: the `shard_fingerprint`.
        left_out: for each image that could not be read, its position in the split of the source, and the error.
    """

    images: int
    fingerprint: str
    left_out: Sequence[tuple[int, str]]

    @classmethod
    def read(cls, file: Path) -> Done | None:
        """Read the facts from the file that is written after the shard; return None if it is missing or incomplete."""
        try:
            said = json.loads(file.read_text())
            return cls(said["images"], said["fingerprint"], [(position, why) for position, why in said["left_out"]])
        except (OSError, ValueError, KeyError):
            return None


@dataclass(frozen=True)
class Plan:
    """A packing whose settings and destination have been checked.

    Attributes:
        spec: the settings, with absolute paths.
        info: the description of the source.
        datasets: the opened splits of the source.
        shards: all shards of all splits.
    """

    spec: PackSpec
    info: DatasetInfo
    datasets: Mapping[str, LazyDataset]
    shards: Sequence[Shard]

    @property
    def folder(self) -> Path:
        """The destination."""
        return Path(self.spec.dest)

    @property
    def images(self) -> int:
        """The number of images in all splits of the source."""
        return sum(len(dataset) for dataset in self.datasets.values())

    def done(self) -> dict[Shard, Done]:
        """Return the shards that have been written, with their facts."""
        found = ((shard, Done.read(self.folder / done_file(shard))) for shard in self.shards)
        return {shard: done for shard, done in found if done is not None}

    def begin(self) -> None:
        """Create the destination, or continue what an earlier command with the same settings has begun.

        Raises:
            JobError: if the destination contains anything else, or cannot be written.
        """
        said = json.dumps(self._said(), indent=1)
        file = self.folder / BEGUN
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            begun = file.read_text() if file.is_file() else None
            if begun not in (None, said):
                raise JobError(
                    f"{self.folder} was begun with other images or settings",
                    remedy="give another DEST, or remove this folder",
                    code="packing-differs",
                )
            if begun is None and any(self.folder.iterdir()):
                raise JobError(
                    f"{self.folder} is not empty", remedy="give a DEST that does not exist yet", code="dest-not-empty"
                )
            for unfinished in self.folder.glob("*.part"):  # files of a command that was killed
                unfinished.unlink(missing_ok=True)
            file.write_text(said)
        except OSError as error:
            raise JobError(
                f"{self.folder} cannot be written ({error.strerror})",
                remedy="give another DEST",
                code="dest-unwritable",
            ) from error

    def complete(self) -> PackedIndex:
        """Write the labels and the index, and remove the files that were needed to continue.

        Every shard must have been written.

        Returns:
            The index.
        """
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
        """Return the facts that a later command must have in common with the first, to continue with its shards."""
        return {
            "source": self.spec.source,
            "settings": self._settings(),
            "image_shape": list(self.info.image_shape),
            "class_names": list(self.info.class_names),
            "images": {split: len(dataset) for split, dataset in self.datasets.items()},
            "first_shard": astuple(self.shards[0]),
        }


def done_file(shard: Shard) -> str:
    """Return the name of the file that is written when a shard is complete, with its facts.

    Example:
        >>> done_file(Shard("train", 3, 300, 400))
        'train-00003.npy.json'
    """
    return f"{shard_file(shard.split, shard.number)}.json"


def prepare(spec: PackSpec) -> Plan:
    """Open the source, check the destination, and divide the images into shards.

    Raises:
        SpecError: for an unknown source, or settings that do not fit its images.
        DatasetNotFound: if the source does not exist, or could not be downloaded.
        JobError: for an image that cannot be read, or a destination that cannot be used.
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
        remedy = error.remedy if skip else f"{error.remedy}{SKIP_ADVICE}"
        raise JobError(error.problem, remedy=remedy, code=error.code) from error
    except ValueError as error:
        raise SpecError(str(error), code="source-unusable") from error
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
    """Return the spec with absolute paths.

    Raises:
        SpecError: for a source that is packed already, or a destination that is not a folder.
        JobError: for a destination that is a packed data set already.
    """
    source = absolute_dataset(spec.source)
    place = place_of(source)
    if place is not None and place.kind == "packed":
        raise SpecError(f"{source} is packed already", remedy=f"use it with --dataset {source}", code="already-packed")
    if "://" in spec.dest:
        raise SpecError(
            f"DEST {spec.dest} is not a folder", remedy="pack into a folder that all machines share", code="dest-remote"
        )
    dest = str(Path(spec.dest).expanduser().absolute())
    if Path(dest, INDEX).is_file():
        raise JobError(
            f"{dest} is a packed data set already",
            remedy=f"use it with --dataset packed:{dest}, or give another DEST",
            code="already-packed",
        )
    absolute = {"source": source, "dest": dest}
    if spec.data_root is not None:
        absolute["data_root"] = str(Path(spec.data_root).expanduser().absolute())
    return spec.model_copy(update=absolute)


def _check_room(plan: Plan) -> None:
    """Raise JobError if the free space of the disk is less than the size of the shards that are not there yet."""
    there = sum(file.stat().st_size for file in plan.folder.glob("*.npy")) if plan.folder.is_dir() else 0
    needed = sum(dataset.nbytes for dataset in plan.datasets.values()) - there
    parent = next(folder for folder in (plan.folder, *plan.folder.parents) if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise JobError(
            f"the images take {megabytes(needed)}, and the disk of {parent} has {megabytes(free)} free",
            remedy="free some space, or give another DEST or a smaller --image-size",
            code="disk-full",
        )
