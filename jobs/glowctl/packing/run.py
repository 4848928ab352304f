"""Write the shards of a plan on Ray Data.

Each process of Ray Data opens the source once, and then writes one shard after another. It does not list a folder on
this machine's disks again. Several threads of a process decode the images of a shard.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from ray.data import DataContext, TaskPoolStrategy
from ray.exceptions import RayError

from glow.datasets import DatasetCorrupt, LazyDataset
from glow.datasets.base import Shape
from glow.datasets.lazy import one_look, read_all_but
from glow.datasets.packed_index import shard_file, shard_fingerprint
from glowctl.display.events import Noted, Packed, Packing, Show
from glowctl.errors import JobError
from glowctl.packing.plan import (
    SKIPPED,
    Done,
    Plan,
    Shard,
    destination_of,
    done_file,
    files_gone,
    listing_of,
    npy,
    opened,
    refusal,
    source_of,
    stamps_of,
)
from glowctl.ray_runtime.machines import Machine, machines_up
from glowctl.specs.request import PackSpec
from glowctl.system.process_setup import set_up_process

Looks = ray.ObjectRef
"""`Plan.looks` in Ray's object store."""

CORES = 4
"""Number of cores per process, if the numbers of cores and of shards allow it."""

MOST_CORES = 8
"""Largest number of cores per process: more would wait for each other, because Python runs one thread at a time."""


def run(plan: Plan, show: Show) -> None:
    """Write the shards that the destination lacks, then the index.

    Args:
        plan: what to write, and where.
        show: receives events with notes about the source, with the progress, and with the result.

    Raises:
        JobError: for an image that cannot be read, unless it is damaged and `--on-error` is skip; for a destination
            that cannot be used; and if Ray's workers fail.
    """
    for note in plan.info.notes:
        show(Noted(note))
    plan.begin()
    done = plan.done()
    before = packed = sum(shard.stop - shard.start for shard in done)
    started = time.monotonic()
    show(Packing(images=packed, of=plan.images, images_per_second=0.0))
    for row in _written(plan, [shard for shard in plan.shards if shard not in done]):
        if row["code"]:
            raise JobError(row["problem"], remedy=row["remedy"], code=row["code"])
        packed += row["images"]
        pace = (packed - before) / (time.monotonic() - started)
        show(Packing(images=packed, of=plan.images, images_per_second=pace))
    index = plan.complete()
    show(
        Packed(
            place=plan.spec.dest,
            images={split: of.images for split, of in index.splits.items()},
            image_shape=index.image_shape,
            left_out=index.left_out,
            fingerprint=index.fingerprint,
            seconds=time.monotonic() - started,
        )
    )


def _written(plan: Plan, missing: Sequence[Shard]) -> Iterator[dict[str, Any]]:
    """Write shards on Ray Data, and yield the result of each as it is finished."""
    if not missing:
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    DataContext.get_current().enable_progress_bars = False
    readers = readers_for(machines_up(), plan.spec.workers, len(missing))
    looks = ray.put(plan.looks) if plan.looks else None  # once per machine, instead of once per task
    rows = ray.data.from_items([plan.task(shard) for shard in missing], override_num_blocks=len(missing))
    packed = rows.map_batches(
        partial(pack_shards, spec=plan.spec, image_shape=plan.info.image_shape, looks=looks, threads=readers.threads),
        compute=TaskPoolStrategy(size=readers.processes),
        batch_size=1,
        num_cpus=readers.cores,
    )
    try:
        yield from packed.iter_rows()
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        said = [type(cause).__name__, *str(cause).strip().splitlines()[-1:]]  # a MemoryError may have no text
        raise JobError(
            f"packing stopped ({': '.join(said)})",
            remedy="run the same command again: it continues where it stopped",
            code="packing-stopped",
        ) from error


def pack_shards(
    batch: Any, spec: PackSpec, image_shape: Shape, threads: int = 1, looks: Looks | None = None
) -> dict[str, list[Any]]:
    """Write one shard; this is a task of Ray Data.

    Args:
        batch: a batch with the one row that `Plan.task` returns.
        spec: the settings.
        image_shape: (C, H, W) of the images to write.
        threads: number of threads that decode images.
        looks: `Plan.looks` in Ray's object store; None if this process has to list the source by itself.

    Returns:
        A batch with one row. The column `images` is the number of images of the source in this shard, including those
        that were left out. `problem`, `remedy` and `code` are those of the `JobError` about an image that cannot be
        read, or about a source that is not as the driver found it; they are "" if there is none.
    """
    set_up_process()
    torch.set_num_threads(1)  # because each of the task's cores has a thread already
    values = {name: column[0] for name, column in batch.items()}
    shard = Shard(str(values["split"]), *(int(values[name]) for name in ("number", "start", "stop")))
    refused: JobError | None = None
    try:
        dataset = _source(spec, shard.split, image_shape, looks)
        stamps = stamps_of(dataset, shard.start, shard.stop)
        if listing_of(dataset, shard, stamps) != values["listing"]:
            for position in files_gone(stamps)[:1]:
                dataset.images(shard.start + position, shard.start + position + 1)  # the error names the file
            refused = _changed(spec, shard)
        else:
            _pack(shard, dataset, stamps, spec, threads)
    except (DatasetCorrupt, ValueError) as error:
        refused = refusal(error, skip=spec.on_error == "skip")
    said = {name: getattr(refused, name) if refused else "" for name in ("problem", "remedy", "code")}
    return {"images": [shard.stop - shard.start], **{name: [text] for name, text in said.items()}}


def _changed(spec: PackSpec, shard: Shard) -> JobError:
    return JobError(
        f"{spec.source} has changed since this command listed its files, or differs between machines (at least one of "
        f"images {shard.start} to {shard.stop - 1} of {shard.split}, or the number of images)",
        remedy="run the same command again when nothing writes to it any more, with the same files on all machines",
        code="source-changed",
    )


@lru_cache(maxsize=3)
def _source(spec: PackSpec, split: str, image_shape: Shape, looks: Looks | None) -> LazyDataset:
    """Open a split of the source, once per process, because a process runs many tasks."""
    with one_look(_known(spec, looks)):
        return opened(spec, split, image_shape)


@lru_cache(maxsize=1)
def _known(spec: PackSpec, looks: Looks | None) -> dict[object, Any]:
    """Return the listing of the source, or a dictionary for the one that this process makes once for all splits."""
    known: dict[object, Any] = {} if looks is None else ray.get(looks)
    return known


def _pack(shard: Shard, dataset: LazyDataset, stamps: np.ndarray | None, spec: PackSpec, threads: int) -> None:
    skipped = SKIPPED if spec.on_error == "skip" else ()
    images, problems = read_all_but(dataset, shard.start, shard.stop, skipped, threads)
    left_out = [(position, str(problem)) for position, problem in problems]
    gone = [position - shard.start for position, _ in left_out]
    labels = np.delete(dataset.labels[shard.start : shard.stop].numpy(), gone)
    source = source_of(stamps, shard, left_out)
    done = Done(len(images), shard_fingerprint(images.numpy(), labels), left_out, source)
    dest = destination_of(spec.dest)
    dest.write(shard_file(shard.split, shard.number), npy(images.numpy()))
    dest.write(done_file(shard), json.dumps(asdict(done)).encode())


class Readers(NamedTuple):
    """The processes that read images at the same time.

    Attributes:
        processes: their number.
        cores: number of cores of each.
    """

    processes: int
    cores: int

    @property
    def threads(self) -> int:
        """The number of threads of each: one more than cores, since one of them usually waits for Python's lock."""
        return self.cores + 1


def readers_for(machines: Sequence[Machine], most: int | None, shards: int) -> Readers:
    """Return the processes that use the most cores.

    A process reads one shard at a time. Of two numbers of cores per process that use equally many cores, the one closer
    to `CORES` is taken. Fewer processes import fewer libraries; fewer threads wait less for each other.

    Args:
        machines: the machines, of which each process uses one.
        most: the largest number of cores to use; None for all.
        shards: number of shards to write.

    Examples:
        >>> readers_for([{"CPU": 2.0}], most=None, shards=10)
        Readers(processes=1, cores=2)
        >>> readers_for([{"CPU": 64.0}], most=None, shards=100)
        Readers(processes=16, cores=4)
    """
    there = [int(machine.get("CPU", 0)) for machine in machines]
    most = min(most or sum(there), sum(there))

    def with_cores(cores: int) -> Readers:
        return Readers(min(shards, most // cores, sum(each // cores for each in there)), cores)

    choices = [with_cores(cores) for cores in range(1, max(1, min(MOST_CORES, max(there, default=1), most)) + 1)]
    best = max(choices, key=lambda each: (each.processes * each.cores, -abs(each.cores - CORES)))
    return Readers(max(1, best.processes), best.cores)
