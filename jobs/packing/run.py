"""Write the shards of a plan on Ray Data.

Each process of Ray Data opens the source once, and then writes one shard after another.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Any

import numpy as np
import ray
import torch
from ray.data import DataContext, TaskPoolStrategy
from ray.exceptions import RayError

from glow.datasets import DatasetCorrupt, LazyDataset, open_dataset
from glow.datasets.base import Shape
from glow.datasets.packed_index import shard_file, shard_fingerprint
from jobs.display.events import Noted, Packed, Packing, Show
from jobs.errors import JobError
from jobs.packing.destination import destination_of
from jobs.packing.plan import SKIP_ADVICE, Done, Plan, Shard, done_file, npy
from jobs.ray_runtime.machines import machines_up
from jobs.specs.base import colour
from jobs.specs.packing import PackSpec
from jobs.system.process_setup import set_up_process

__all__ = ["run"]


def run(plan: Plan, show: Show) -> None:
    """Write the shards that the destination lacks, then the index.

    Args:
        plan: what to write, and where.
        show: receives events with notes about the source, with the progress, and with the result.

    Raises:
        JobError: for a file that cannot be read, if `--on-error` is not skip; for a destination that cannot be used;
            and if Ray's workers fail.
    """
    for note in plan.info.notes:
        show(Noted(note))
    plan.begin()
    done = plan.done()
    before = packed = sum(shard.stop - shard.start for shard in done)
    started = time.monotonic()
    show(Packing(images=packed, of=plan.images, images_per_second=0.0))
    for row in _written(plan, [shard for shard in plan.shards if shard not in done]):
        if row["error"]:
            problem, _, remedy = row["error"].rpartition(": ")  # as messages about an image file are written
            raise JobError(problem, remedy=f"{remedy}{SKIP_ADVICE}", code="image-unreadable")
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
    cores = sum(int(machine.get("CPU", 0)) for machine in machines_up())
    rows = ray.data.from_items([asdict(shard) for shard in missing], override_num_blocks=len(missing))
    packed = rows.map_batches(
        partial(pack_shards, spec=plan.spec, image_shape=plan.info.image_shape),
        compute=TaskPoolStrategy(size=max(1, min(plan.spec.workers or cores, cores, len(missing)))),
        batch_size=1,
        num_cpus=1,
    )
    try:
        yield from packed.iter_rows()
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        why = str(cause).strip().splitlines()[-1]
        raise JobError(
            f"packing stopped ({type(cause).__name__}: {why})",
            remedy="run the same command again: it continues where it stopped",
            code="packing-stopped",
        ) from error


def pack_shards(batch: Any, spec: PackSpec, image_shape: Shape) -> dict[str, list[Any]]:
    """Write one shard; this is a task of Ray Data.

    Args:
        batch: a batch with one row, whose columns are the fields of a `Shard`.
        spec: the settings.
        image_shape: (C, H, W) of the images to write.

    Returns:
        A batch with one row and two columns: `images`, the number of images of the source in this shard, including
        those that were left out, and `error`, the message about a file that cannot be read, or "" if there is none.
    """
    set_up_process()
    torch.set_num_threads(1)  # because Ray runs one task per core
    values = {name: column[0] for name, column in batch.items()}
    shard = Shard(str(values["split"]), *(int(values[name]) for name in ("number", "start", "stop")))
    error = ""
    try:
        _pack(shard, _source(spec, shard.split, image_shape), spec)
    except (DatasetCorrupt, ValueError) as problem:
        error = str(problem)
    return {"images": [shard.stop - shard.start], "error": [error]}


@lru_cache(maxsize=3)
def _source(spec: PackSpec, split: str, image_shape: Shape) -> LazyDataset:
    """Open a split of the source, once per process, because a process runs many tasks."""
    return open_dataset(
        spec.source,
        split,
        spec.data_root,
        image_shape=image_shape,
        background=colour(spec.background),
        refuse_other_sizes=spec.image_size is None,
    )


def _pack(shard: Shard, dataset: LazyDataset, spec: PackSpec) -> None:
    left_out: list[tuple[int, str]] = []
    if spec.on_error == "refuse":
        images = dataset.images(shard.start, shard.stop)
    else:
        images, left_out = _readable(dataset, shard)
    gone = [position - shard.start for position, _ in left_out]
    labels = np.delete(dataset.labels[shard.start : shard.stop].numpy(), gone)
    done = Done(len(images), shard_fingerprint(images.numpy(), labels), left_out)
    dest = destination_of(spec.dest)
    dest.write(shard_file(shard.split, shard.number), npy(images.numpy()))
    dest.write(done_file(shard), json.dumps(asdict(done)).encode())


def _readable(dataset: LazyDataset, shard: Shard) -> tuple[torch.Tensor, list[tuple[int, str]]]:
    """Return the images of a shard that can be read, and the positions of the others with their errors."""
    images, left_out = [], []
    for position in range(shard.start, shard.stop):
        try:
            images.append(dataset.images(position, position + 1))
        except (DatasetCorrupt, ValueError) as problem:
            left_out.append((position, str(problem)))
    whole = torch.cat(images) if images else torch.empty((0, *dataset.image_shape), dtype=torch.uint8)
    return whole, left_out
