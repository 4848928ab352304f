"""Score tables on Ray: data sets are cut into shards, a task scores one, and MLflow keeps the table for the next time.

A worker that dies costs the shard that it was at, which Ray gives to another. No more images are in memory at once than
the workers are busy with, and one shard more.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import ray
import torch
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

from glow.config import GlowConfig
from glow.datasets import LazyDataset
from glow.model import Glow, Precision
from glow.scoring import SHARD, score
from jobs.display.evaluation_events import Scoring
from jobs.display.events import Show
from jobs.errors import JobError
from jobs.evaluation.find_model import TrainedModel
from jobs.ray_runtime.resources import Resources
from jobs.system.process_setup import set_up_process
from jobs.tracking.scores import find_scores, key_of, labelled

__all__ = ["Scored", "Table", "cached", "model_on", "put_model", "result_of", "score_on_ray"]

RETRIES = 3


@dataclass(frozen=True)
class Table:
    """A score table that is wanted: a split of a data set under a model."""

    dataset: str
    split: str
    images: LazyDataset
    key: str
    """What its scores depend on: the model, the images' fingerprint, the split, the noise's seed and samples, and the
    precision."""
    noise_samples: int = 1

    @classmethod
    def of(
        cls,
        dataset: str,
        split: str,
        images: LazyDataset,
        model: TrainedModel,
        seed: int,
        precision: Precision,
        noise_samples: int = 1,
    ) -> Table:
        """Reads all images once, for their fingerprint."""
        key = key_of(model.digest, images.fingerprint(SHARD), split, seed, precision, noise_samples)
        return cls(dataset, split, images, key, noise_samples)


@dataclass(frozen=True)
class Scored:
    """A score table with where it is from: the run that scored it, or None if that was this one."""

    wanted: Table
    table: pd.DataFrame
    run_id: str | None


def cached(wanted: Table, uri: str, experiment: str) -> Scored | None:
    """The score table as an earlier run of the experiment left it; None if there is none."""
    found = find_scores(uri, experiment, wanted.key)
    if found is None or len(found[0]) != len(wanted.images):
        return None
    table, run_id = found
    # Equal images may have been scored under other names.
    return Scored(wanted, labelled(table, wanted.dataset, wanted.split), run_id)


def score_on_ray(
    model: TrainedModel,
    tables: Sequence[Table],
    resources: Resources,
    seed: int,
    precision: Precision,
    show: Show,
) -> Iterator[Scored]:
    """Scores each table in turn, with `resources.workers` tasks at a time.

    Raises JobError if a task fails, or dies with its worker more than `RETRIES` times.
    """
    most = resources.workers[1]
    reference = put_model(model)
    task = score_shard.options(**resources.task_options(), max_retries=RETRIES, scheduling_strategy="SPREAD")
    shards = _shards(tables)
    done: dict[Table, dict[int, pd.DataFrame]] = {table: {} for table in tables}
    pending: dict[Any, tuple[Table, int]] = {}
    started = time.monotonic()
    following = next(shards, None)
    for table in tables:
        while len(done[table]) < -(-len(table.images) // SHARD):
            while following is not None and len(pending) < most:
                of, start, images, labels = following
                how = (seed, precision, of.noise_samples, resources.threads)
                submitted = task.remote(reference, images, labels, start, *how)
                pending[submitted] = of, start
                following = next(shards, None)  # read while the workers are busy
            (finished,), _ = ray.wait(list(pending), num_returns=1)
            of, start = pending.pop(finished)
            done[of][start] = result_of(finished)
            scored = sum(len(part) for parts in done.values() for part in parts.values())
            show(
                Scoring(
                    dataset=of.dataset,
                    split=of.split,
                    images=sum(len(part) for part in done[of].values()),
                    of=len(of.images),
                    images_per_second=scored / (time.monotonic() - started),
                )
            )
        parts = done[table]
        whole = pd.concat([parts[start] for start in sorted(parts)], ignore_index=True)
        yield Scored(table, labelled(whole, table.dataset, table.split), None)


def _shards(tables: Sequence[Table]) -> Iterator[tuple[Table, int, np.ndarray, np.ndarray]]:
    """Each shard's table, first position, images and labels; its images are read when it is asked for."""
    for table in tables:
        for start in range(0, len(table.images), SHARD):
            images = table.images.images(start, start + SHARD).numpy()
            yield table, start, images, table.images.labels[start : start + SHARD].numpy()


def result_of(reference: Any) -> Any:
    """What a task returned. Raises JobError if it failed, or died with its worker more than `RETRIES` times."""
    try:
        return ray.get(reference)
    except RayError as error:
        raise _sentence(error) from error


def _sentence(error: RayError) -> JobError:
    """What ended a task, in words for the user."""
    if isinstance(error, (WorkerCrashedError, OutOfMemoryError)):
        return JobError(
            f"workers died {RETRIES + 1} times over one piece of work (is memory short?): give each more cores by "
            "--cpus-per-worker, so that fewer run at once"
        )
    if isinstance(error, RayTaskError):
        cause = error.cause
        return JobError(f"a worker failed: {type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}")
    return JobError(f"Ray failed: {str(error).splitlines()[0]}")


def put_model(model: TrainedModel) -> Any:
    """The model in the object store, once for all tasks. In a list, so that a task is handed the reference."""
    return [ray.put((model.config.to_dict(), model.weights))]


@ray.remote
def score_shard(
    reference: list[Any],
    images: np.ndarray,
    labels: np.ndarray,
    start: int,
    seed: int,
    precision: Precision,
    noise_samples: int,
    threads: int,
) -> pd.DataFrame:
    model = model_on(reference, threads)
    # Ray's arrays are read-only; torch wants its own.
    return score(
        model,
        torch.tensor(images),
        torch.tensor(labels),
        indices_N=torch.arange(start, start + len(images)),
        seed=seed,
        precision=precision,
        noise_samples=noise_samples,
    )


def model_on(reference: list[Any], threads: int) -> Glow:
    """In a task: the model that `put_model` put, on the GPU if the task has one."""
    set_up_process()  # on a cluster, whose workers are not preloaded
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False  # 10 bits, where what is asked for is float32
    return _rebuilt(reference[0])


@lru_cache(maxsize=1)
def _rebuilt(reference: Any) -> Glow:
    """Once a worker process, which runs many tasks."""
    config, weights = ray.get(reference)
    model = Glow(GlowConfig.from_dict(config))
    model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    return model.to("cuda" if ray.get_gpu_ids() else "cpu")
