"""The plan of ``glowctl pack``: which shards to write, and which of them an earlier command has written already.

`prepare` makes a plan from the settings, `Plan.begin` creates the destination, and `Plan.complete` writes the index
when all shards have been written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glow.datasets import (
    DatasetCorrupt,
    DatasetInfo,
    DatasetNotFound,
    LazyDataset,
    describe,
    open_dataset,
    own_channels,
)
from glow.datasets.base import ImageRefused, ImageUnreadable
from glow.datasets.buckets import is_uri
from glow.datasets.lazy import one_look
from glow.datasets.names import absolute_dataset, place_of
from glow.datasets.packed_index import INDEX, PackedIndex, PackedShard, PackedSplit, labels_file
from jobs.errors import JobError, SpecError
from jobs.packing.shards import (
    Destination,
    Done,
    Shard,
    destination_of,
    done_file,
    listing_of,
    npy,
    source_of,
    stamps_of,
)
from jobs.specs.base import colour
from jobs.specs.request import PackSpec
from jobs.text import JsonObject

SKIPPED = (ImageUnreadable, ImageRefused)
"""The errors of images that ``--on-error skip`` leaves out, which are the same on every machine and at every time."""

SKIP_ADVICE = ", or give --on-error skip, which leaves such files out and lists them"
"""The end of the remedy for an image of `SKIPPED`."""

BEGUN = "packing.json"
"""The file in an incomplete destination with the source and the settings, so that a later command can continue."""

LEFT_OUT = "left-out.txt"
"""The file in the destination that lists the files that could not be read, one line for each."""

READERS = 16
"""Number of files that are read or removed at once."""

SHARD_BYTES = 32 * 2**20
"""Size of a shard's images by default. If the command is killed, each process loses at most one shard."""


@dataclass(frozen=True)
class Plan:
    """The work of one ``glowctl pack``, whose settings and destination have been checked.

    Attributes:
        spec: the settings, with absolute paths.
        info: the description of the source, the data set that is packed.
        datasets: the opened splits of the source, by name.
        stamps: for each split, the sizes and times of the files of its images, int64 (N, 2), as they were when the plan
            was made; None for a source without files of images.
        shards: all shards of all splits.
        looks: what `glow.datasets.lazy.one_look` has learnt of the source, so that the processes that write the shards
            need not list it. Empty for a bucket, of which each process has to make a listing of its own to see whether
            files have changed, and for a source that is not listed.
    """

    spec: PackSpec
    info: DatasetInfo
    datasets: Mapping[str, LazyDataset]
    stamps: Mapping[str, np.ndarray | None]
    shards: Sequence[Shard]
    looks: dict[object, Any]

    @property
    def dest(self) -> Destination:
        """The folder or bucket that the shards are written to."""
        return destination_of(self.spec.dest)

    @property
    def images(self) -> int:
        """The number of images in all splits of the source."""
        return sum(len(dataset) for dataset in self.datasets.values())

    def kept_stamps(self, shard: Shard) -> np.ndarray | None:
        """Return the rows of `stamps` for a shard."""
        stamps = self.stamps[shard.split]
        return None if stamps is None else stamps[shard.start : shard.stop]

    def task(self, shard: Shard) -> dict[str, object]:
        """Return the row of Ray Data's table that asks a process to write a shard."""
        return asdict(shard) | {"listing": listing_of(self.datasets[shard.split], shard, self.kept_stamps(shard))}

    def done(self) -> dict[Shard, Done]:
        """Return the shards that this or an earlier command has written, with the facts about each.

        Without ``--on-error skip``, these are only shards for which no image was left out.
        """
        there = self.dest.sizes()
        written = [shard for shard in self.shards if done_file(shard) in there]
        with ThreadPoolExecutor(READERS) as threads:  # a bucket answers after many milliseconds
            texts = threads.map(lambda shard: self.dest.read(done_file(shard)), written)
            found = [(shard, Done.read(text)) for shard, text in zip(written, texts, strict=True)]
        skip = self.spec.on_error == "skip"
        return {shard: done for shard, done in found if done is not None and (skip or not done.left_out)}

    def begin(self) -> None:
        """Create the destination, or continue what an earlier command with the same settings has begun.

        The earlier command may have had another ``--on-error``, which changes no shard that is written.

        Raises:
            JobError: if the destination contains other files or a packing with other settings, or cannot be written,
                or if files have changed since their images were packed.
            DatasetNotFound: if the destination is a bucket that cannot be read.
        """
        said = json.dumps(self._said(), indent=1)
        try:
            begun = self.dest.read(BEGUN)
            if begun is not None:
                self._check_same(begun)
                self._check_unchanged(self.done())
            there = self.dest.sizes()
            if begun is None and there:
                raise JobError(
                    f"{self.spec.dest} is not empty",
                    remedy="give a DEST that does not exist yet",
                    code="dest-not-empty",
                )
            for name in there:
                if name.endswith(".part"):  # a file of a command that was killed
                    self.dest.remove(name)
            self.dest.write(BEGUN, said.encode())
        except DatasetNotFound:  # a bucket that cannot be read, as its sentence explains
            raise
        except OSError as error:
            raise JobError(
                f"{self.spec.dest} cannot be written ({error.strerror or error})",
                remedy="give another DEST",
                code="dest-unwritable",
            ) from error

    def complete(self) -> PackedIndex:
        """Write the labels and the index, and remove the files that only an interrupted packing needs to continue.

        Every shard must have been written.

        Returns:
            The index, which describes the splits and shards of the packed data set.

        Raises:
            JobError: if a shard is missing, or contains other images than those whose labels are written.
        """
        done = self.done()
        self._check_complete(done)
        self._check_unchanged(done)
        splits = {}
        for split, dataset in self.datasets.items():
            of = {shard: done[shard] for shard in self.shards if shard.split == split}
            left_out = [position for each in of.values() for position, _ in each.left_out]
            self.dest.write(labels_file(split), npy(np.delete(dataset.labels.numpy(), left_out)))
            splits[split] = PackedSplit([PackedShard(each.images, each.fingerprint) for each in of.values()])
        problems = [why for each in done.values() for _, why in each.left_out]
        if problems:
            self.dest.write(LEFT_OUT, "".join(f"{why}\n" for why in problems).encode())
        index = PackedIndex(
            image_shape=self.info.image_shape,
            original_shape=self.info.original_shape,
            class_names=self.info.class_names,
            splits=splits,
            source=self.spec.source,
            made_with=self._settings(),
            left_out=len(problems),
        )
        self.dest.write(INDEX, index.to_json().encode())
        with ThreadPoolExecutor(READERS) as threads:
            list(threads.map(self.dest.remove, [*map(done_file, self.shards), BEGUN]))
        return index

    def _settings(self) -> JsonObject:
        return self.spec.model_dump(include={"image_size", "background", "on_error"})

    def _check_same(self, begun: bytes) -> None:
        """Raise JobError if an earlier command, which wrote `begun`, packed other images or had other settings."""
        now = self._said()
        try:
            earlier: JsonObject = json.loads(begun)
        except ValueError:
            earlier = {}
        if earlier == now:
            return
        if earlier == now | {name: earlier.get(name) for name in ("images", "largest_shard")}:
            counts = [sum(each["images"].values()) for each in (earlier, now)]
            if counts[0] != counts[1]:
                raise JobError(
                    f"{self.spec.dest} contains an unfinished packing of {counts[0]} images, and {self.spec.source} "
                    f"now has {counts[1]}, which are divided into other shards",
                    remedy="restore the earlier files, of which --on-error skip leaves out those that are damaged, or "
                    "give another DEST to begin again",
                    code="packing-differs",
                )
        raise JobError(
            f"{self.spec.dest} contains an unfinished packing of other images or with other settings",
            remedy="give another DEST, or remove this folder",
            code="packing-differs",
        )

    def _check_complete(self, done: Mapping[Shard, Done]) -> None:
        """Raise JobError if a shard is missing, for example because another command has removed it."""
        missing = [shard for shard in self.shards if shard not in done]
        if missing:
            raise JobError(
                f"{self.spec.dest} lacks {len(missing)} of its {len(self.shards)} shards, such as "
                f"{done_file(missing[0])}, although all were written",
                remedy="run the same command again: it writes only those",
                code="shards-missing",
            )

    def _check_unchanged(self, done: Mapping[Shard, Done]) -> None:
        """Raise JobError if a file has another size or time than when its image was packed."""
        for shard, facts in done.items():
            now = source_of(self.kept_stamps(shard), shard, facts.left_out)
            if facts.source != now:
                raise JobError(
                    f"{self.spec.dest} contains an unfinished packing of {self.spec.source}, of which files have "
                    f"changed since they were packed (at least one of images {shard.start} to {shard.stop - 1} of "
                    f"{shard.split})",
                    remedy=f"remove {done_file(shard)} from DEST to pack these images again, or give another DEST",
                    code="source-changed",
                )

    def _said(self) -> JsonObject:
        """Return the facts that a later command must have in common with the first, to continue with its shards."""
        return {
            "source": self.spec.source,
            "settings": self.spec.model_dump(include={"image_size", "background"}),
            "image_shape": list(self.info.image_shape),
            "class_names": list(self.info.class_names),
            "images": {split: len(dataset) for split, dataset in self.datasets.items()},
            # With the numbers of images, this decides where every shard begins and ends.
            "largest_shard": max(shard.stop - shard.start for shard in self.shards),
        }


def prepare(spec: PackSpec) -> Plan:
    """Open the source, check the destination, and divide the images into shards.

    Raises:
        SpecError: for an unknown source, or settings that do not fit its images.
        DatasetNotFound: if the source does not exist, or could not be downloaded.
        JobError: for an image that cannot be read, or a destination that cannot be used.
    """
    spec = _absolute(spec)
    size, background, skip = spec.image_size, colour(spec.background), spec.on_error == "skip"
    looks: dict[object, Any] = {}
    try:
        with one_look(looks):
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
                    refuse_other_sizes=size is None,
                )
                for split in info.splits
            }
            stamps = {split: stamps_of(dataset) for split, dataset in datasets.items()}
    except DatasetCorrupt as error:
        raise refusal(error, skip) from error
    except ValueError as error:
        raise SpecError(str(error), code="source-unusable") from error
    images = spec.shard_size or max(1, SHARD_BYTES // int(np.prod(info.image_shape)))
    shards = [
        Shard(split, number, start, min(start + images, len(dataset)))
        for split, dataset in datasets.items()
        for number, start in enumerate(range(0, len(dataset), images))
    ]
    place = place_of(spec.source)
    plan = Plan(spec, info, datasets, stamps, shards, looks={} if place is None or place.is_remote else looks)
    _check_room(plan)
    return plan


def refusal(error: DatasetCorrupt | ValueError, skip: bool) -> JobError:
    """Return the error that ends a packing because of an image.

    Args:
        error: the error that the library raised.
        skip: whether ``--on-error skip`` was given.
    """
    if isinstance(error, DatasetCorrupt):
        problem, remedy, code = error.problem, error.remedy, error.code
        if code == "image-damaged":  # without the advice to remove it, which would change the shards
            remedy = "replace it with a good copy"
    else:
        problem, colon, remedy = str(error).rpartition(": ")  # as messages about an image file are written
        if not colon:
            problem, remedy = remedy, ""
        code = "image-unreadable"
    if isinstance(error, SKIPPED) and not skip:
        remedy += SKIP_ADVICE
    return JobError(problem, remedy=remedy, code=code)


def _absolute(spec: PackSpec) -> PackSpec:
    """Return the spec with absolute paths.

    Raises:
        SpecError: for a source that is packed already.
        DatasetNotFound: for a bucket that cannot be reached.
        JobError: for a destination that is a packed data set already.
    """
    source = absolute_dataset(spec.source)
    place = place_of(source)
    if place is not None and place.kind == "packed":
        raise SpecError(f"{source} is packed already", remedy=f"use it with --dataset {source}", code="already-packed")
    dest = spec.dest if is_uri(spec.dest) else str(Path(spec.dest).expanduser().absolute())
    if destination_of(dest).read(INDEX) is not None:
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
    """Raise JobError if a disk has less room than the shards take that are not there yet."""
    there = sum(size for name, size in plan.dest.sizes().items() if name.endswith(".npy"))
    plan.dest.check_room(sum(dataset.nbytes for dataset in plan.datasets.values()) - there)
