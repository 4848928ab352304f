"""The plan of ``glowctl pack``: which shards to write, and which of them an earlier command has written already.

`prepare` makes a plan from the settings, `Plan.begin` creates the destination, and `Plan.complete` writes the index
when all shards have been written. A `Shard` is the images of one file, and `Done` the facts about it when it is written
to the `Destination`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glow.datasets import (
    DatasetCorrupt,
    DatasetInfo,
    DatasetNotFound,
    LazyDataset,
    describe,
    open_dataset,
    own_channels,
)
from glow.datasets.base import ImageRefused, ImageUnreadable, Shape
from glow.datasets.buckets import BucketFolder, is_uri
from glow.datasets.lazy import one_look
from glow.datasets.names import absolute_dataset, place_of
from glow.datasets.packed_index import INDEX, PackedIndex, PackedShard, PackedSplit, labels_file, shard_file
from glowctl.errors import JobError, SpecError
from glowctl.specs.base import colour
from glowctl.specs.request import PackSpec
from glowctl.text import JsonObject, megabytes

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
class Shard:
    """The images of a split that are written to one file.

    Attributes:
        split: "train", "validation" or "test".
        number: number of the shard within its split, from 0.
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
        images: number of images in the shard.
        fingerprint: hash of the images and labels (`glow.datasets.packed_index.shard_fingerprint`).
        left_out: for each image that could not be read, its position in the split of the source, and the error.
        source: identifies the sizes and times of the files of the packed images (`source_of`). None if they have none.
    """

    images: int
    fingerprint: str
    left_out: Sequence[tuple[int, str]]
    source: str | None

    @classmethod
    def read(cls, text: bytes | None) -> Done | None:
        """Read the facts from the content of their file (`done_file`); return None if it is missing or incomplete."""
        try:
            said = json.loads(text or b"")
            left_out = [(position, why) for position, why in said["left_out"]]
            return cls(said["images"], said["fingerprint"], left_out, said["source"])
        except (ValueError, KeyError):
            return None


def done_file(shard: Shard) -> str:
    """Return the name of the file with the facts about a shard (`Done`), which is written after the shard itself.

    Examples:
        >>> done_file(Shard("train", 3, 300, 400))
        'train-00003.npy.json'
    """
    return f"{shard_file(shard.split, shard.number)}.json"


def stamps_of(dataset: LazyDataset, start: int = 0, stop: int | None = None) -> np.ndarray | None:
    """Look up the sizes and times of change of the files of some images, int64 (n, 2); return None without files.

    Args:
        dataset: a split of the source.
        start: position of the first image.
        stop: position after the last image; None for all. Both count as in a slice.

    Examples:
        >>> import torch
        >>> stamps_of(LazyDataset.held(torch.zeros(2, 1, 8, 8), torch.zeros(2))) is None
        True
    """
    if dataset.stamps is None:
        return None
    start, stop, _ = slice(start, stop).indices(len(dataset))
    return dataset.stamps(torch.arange(start, max(start, stop))).numpy()


def files_gone(stamps: np.ndarray | None) -> list[int]:
    """Return the positions within a shard of images whose files are not there, or have no known size and time.

    Args:
        stamps: what `stamps_of` returned for the shard.

    Examples:
        >>> files_gone(np.array([[100, 7], [0, 0], [200, 8]])), files_gone(None)
        ([1], [])
    """
    return [] if stamps is None else np.flatnonzero((stamps == 0).all(axis=1)).tolist()


def source_of(stamps: np.ndarray | None, shard: Shard, left_out: Sequence[tuple[int, str]]) -> str | None:
    """Return 16 hex digits that identify the sizes and times of change of the files of a shard, or None without files.

    Args:
        stamps: what `stamps_of` returned for the shard.
        shard: the shard.
        left_out: the images that are not in the shard (`Done.left_out`). Their files do not count.

    Examples:
        >>> stamps, shard = np.array([[100, 7], [200, 8]]), Shard("test", 3, 40, 42)
        >>> source_of(stamps, shard, [(41, "41.png is damaged")]) == source_of(stamps[:1], shard, [])
        True
    """
    if stamps is None:
        return None
    gone = [position - shard.start for position, _ in left_out]
    return hashlib.sha256(np.delete(stamps, gone, axis=0).tobytes()).hexdigest()[:16]


def listing_of(dataset: LazyDataset, shard: Shard, stamps: np.ndarray | None) -> str:
    """Return 16 hex digits that identify which images a process has found for a shard, without reading the images.

    The processes of a packing look at the source at different times. If their digits differ, files were removed or
    exchanged, or added to a source that each process lists for itself, and the position of an image may not be the same
    in all processes.

    Args:
        dataset: the split of the source, as the process has opened it.
        shard: the shard.
        stamps: what `stamps_of` returned for the shard.

    Examples:
        >>> one, other = (LazyDataset.held(torch.zeros(n, 1, 8, 8), torch.zeros(n)) for n in (8, 9))
        >>> shard = Shard("test", 0, 0, 4)
        >>> digits = listing_of(one, shard, None)
        >>> listing_of(one, shard, None) == digits, listing_of(other, shard, None) == digits
        (True, False)
    """
    labels = dataset.labels[shard.start : shard.stop].tolist()
    said = [len(dataset), dataset.class_names, labels, source_of(stamps, shard, [])]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def npy(array: np.ndarray) -> bytes:
    """Return the contents of a .npy file with an array.

    Examples:
        >>> np.load(io.BytesIO(npy(np.arange(3))))
        array([0, 1, 2])
    """
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


class Bucket(BucketFolder):
    """A destination in a bucket, where a file appears whole when it has been sent."""

    def sizes(self) -> Mapping[str, int]:
        """Return the names of all files and their sizes in bytes; empty if there are none."""
        return {str(file.relative): file.size for file in self.files()}

    def check_room(self, size: int) -> None:
        """Accept any size, because a bucket does not tell how much room it has."""


class Folder:
    """A folder, in which a file has another name until it is complete."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes | None:
        """Return the contents of a file, or None if there is no such file."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / f"{name}.{os.getpid()}.part"
        try:
            unfinished.write_bytes(content)
            unfinished.replace(self._folder / name)
        finally:
            unfinished.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file, if it exists. Raises OSError."""
        (self._folder / name).unlink(missing_ok=True)

    def sizes(self) -> Mapping[str, int]:
        """Return the names of all files and their sizes in bytes; empty if the folder does not exist."""
        if not self._folder.is_dir():
            return {}
        return {path.name: path.stat().st_size for path in self._folder.iterdir()}

    def check_room(self, size: int) -> None:
        """Raise JobError if the disk has less than `size` free bytes."""
        parent = next(folder for folder in (self._folder, *self._folder.parents) if folder.is_dir())
        free = shutil.disk_usage(parent).free
        if size > free:
            raise JobError(
                f"the images that remain to be packed take {megabytes(size)}, but the disk with {parent} has only "
                f"{megabytes(free)} free",
                remedy="free some space, or give another DEST or a smaller --image-size",
                code="disk-full",
            )


Destination = Bucket | Folder
"""Where `glowctl pack` writes: a bucket, or a folder that all machines share."""


def destination_of(dest: str) -> Destination:
    """Return the destination that the argument DEST names; `dest` is an absolute path or a URI."""
    return Bucket(dest) if is_uri(dest) else Folder(Path(dest))


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
            datasets = {split: opened(spec, split, info.image_shape, spec.download) for split in info.splits}
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


def opened(spec: PackSpec, split: str, image_shape: Shape, download: bool = False) -> LazyDataset:
    """Open a split of the source; `image_shape` is (C, H, W) of the images to write."""
    return open_dataset(
        spec.source,
        split,
        spec.data_root,
        image_shape=image_shape,
        download=download,
        background=colour(spec.background),
        refuse_other_sizes=spec.image_size is None,
    )


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
