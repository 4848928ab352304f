"""Score data sets on Ray, with one task per shard of `glow.scoring.SHARD` images.

The scores of a split of a data set form a table. Later jobs find this table in MLflow and do not score the split again.
If a worker dies, Ray gives its shard to another worker. The driver holds in memory only the images of the shards that
the workers are busy with, and of one more shard.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import ray
import torch
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

from glow.config import GlowConfig
from glow.datasets import LazyDataset
from glow.datasets.names import dataset_label
from glow.encoders import Encoder
from glow.features import features_table
from glow.model import Glow
from glow.scoring import SHARD, score
from glowctl.display.events import Scoring, Show
from glowctl.errors import JobError
from glowctl.evaluation.find_model import TrainedModel
from glowctl.ray_runtime.resources import Resources
from glowctl.system.machine_metrics import machine_facts, machine_name
from glowctl.system.process_setup import set_up_computing
from glowctl.text import JsonObject
from glowctl.tracking.scores import features_key, find_scores, key_of, labelled

RETRIES = 3
"""Number of times that Ray runs a shard again after its worker died."""


@dataclass(frozen=True)
class Table:
    """A score table that a job needs: the scores that a model gives the images of one split of a data set.

    Attributes:
        dataset: label of the data set.
        split: train, validation or test.
        source: name of the data set as `glow.datasets.open_dataset` takes it.
        images: the images of the split, which are read shard by shard.
        fingerprint: fingerprint of the images.
        key: hash of all that the scores depend on: the model, the fingerprint of the images, the split, the seed and
            number of noise samples, the precision, and the stride of gradient norms.
        how: the settings of `glow.scoring.score`: seed, precision, noise_samples and gradient_stride.
    """

    dataset: str
    split: str
    source: str
    images: LazyDataset
    fingerprint: str
    key: str
    how: dict[str, Any]

    @classmethod
    def of(cls, source: str, split: str, images: LazyDataset, model: TrainedModel, how: dict[str, Any]) -> Table:
        """Make a table and compute its key. This reads all images once, for their fingerprint."""
        fingerprint = images.fingerprint(SHARD)
        key = key_of(model.digest, fingerprint, model.config.bits, split, **how)
        return cls(dataset_label(source), split, source, images, fingerprint, key, how)

    def of_features(self, encoder: Encoder, images: LazyDataset) -> Table:
        """Return the table of the features of these images, or of a part of them whose fingerprint is known."""
        fingerprint = images.fingerprint(SHARD)
        key = features_key(encoder.digest, fingerprint)
        return replace(self, images=images, fingerprint=fingerprint, key=key, how={})

    @property
    def recorded_as(self) -> tuple[str, str]:
        """The name and the digest of the images in MLflow, which are those of the inputs of trainings."""
        return f"{self.source} {self.split}", self.fingerprint

    def of_these_images(self, scores: pd.DataFrame) -> pd.DataFrame:
        """Return scores with the name of this data set, this split, and the labels of these images.

        Equal images share a key, but may have been scored under another name of data set or split, or with other
        labels, such as before labels were corrected.
        """
        return labelled(scores, self.dataset, self.split).assign(label=self.images.labels.numpy())


@dataclass(frozen=True)
class Scored:
    """A score table and its origin.

    Attributes:
        wanted: the data set, the split and the key of the table.
        table: one row per image, with the columns of `glow.scoring.score`, and ``dataset`` and ``split``.
        run_id: id of the earlier run that computed the scores; None if this run computed them.
    """

    wanted: Table
    table: pd.DataFrame
    run_id: str | None


def cached(wanted: Table, uri: str, experiment: str) -> Scored | None:
    """Return the score table that an earlier run of the experiment recorded; None if there is none.

    Raises:
        TrackingError: if the store does not answer.
    """
    found = find_scores(uri, experiment, wanted.key)
    if found is None or len(found[0]) != len(wanted.images):
        return None
    table, run_id = found
    return Scored(wanted, wanted.of_these_images(table), run_id)


def score_on_ray(
    model: TrainedModel | Encoder,
    tables: Sequence[Table],
    resources: Resources,
    machines: dict[str, JsonObject],
    show: Show,
) -> Iterator[Scored]:
    """Score the tables, and yield each in order as soon as all its shards are scored.

    Args:
        model: the model, or an encoder, whose features then are the scores; Ray's object store holds one copy of it for
            all tasks.
        tables: what to score, each with another key.
        resources: the workers. As many tasks run at once as there are workers, each with one worker's cores and GPUs.
        machines: receives the facts of each machine that has scored a shard, by the machine's name.
        show: receives a `Scoring` event after each shard.

    Raises:
        JobError: if a task fails, or its worker dies more than `RETRIES` times.
    """
    most = resources.workers[1]
    scorer, reference = (
        (encode_shard, [ray.put(model)]) if isinstance(model, Encoder) else (score_shard, put_model(model))
    )
    task = scorer.options(**resources.task_options(), max_retries=RETRIES, scheduling_strategy="SPREAD")
    shards = _shards(tables)
    done: dict[str, dict[int, pd.DataFrame]] = {table.key: {} for table in tables}
    pending: dict[Any, tuple[Table, int]] = {}
    started = time.monotonic()
    following = next(shards, None)
    for table in tables:
        while len(done[table.key]) < -(-len(table.images) // SHARD):
            while following is not None and len(pending) < most:
                of, start, images, labels = following
                submitted = task.remote(reference, images, labels, start, of.how, resources.threads)
                pending[submitted] = of, start
                following = next(shards, None)  # read while the workers are busy
            (finished,), _ = ray.wait(list(pending), num_returns=1)
            of, start = pending.pop(finished)
            done[of.key][start], (machine, machines[machine]) = result_of(finished)
            scored = sum(len(part) for parts in done.values() for part in parts.values())
            show(
                Scoring(
                    dataset=of.dataset,
                    split=of.split,
                    images=sum(len(part) for part in done[of.key].values()),
                    of=len(of.images),
                    images_per_second=scored / (time.monotonic() - started),
                )
            )
        parts = done[table.key]
        whole = pd.concat([parts[start] for start in sorted(parts)], ignore_index=True)
        yield Scored(table, table.of_these_images(whole), None)


def _shards(tables: Sequence[Table]) -> Iterator[tuple[Table, int, np.ndarray, np.ndarray]]:
    """Yield table, first position, images and labels of each shard. Its images are read only then."""
    for table in tables:
        for start in range(0, len(table.images), SHARD):
            images = table.images.images(start, start + SHARD).numpy()
            yield table, start, images, table.images.labels[start : start + SHARD].numpy()


def result_of(reference: Any) -> Any:
    """Wait for a task and return its result.

    Raises:
        JobError: if the task failed, or its worker died at every try that Ray made.
    """
    try:
        return ray.get(reference)
    except RayError as error:
        raise _sentence(error) from error


def _sentence(error: RayError) -> JobError:
    """Return the error of Ray as a sentence for the user."""
    if isinstance(error, (WorkerCrashedError, OutOfMemoryError)):
        return JobError(
            f"workers died {RETRIES + 1} times while they ran the same task, most likely because memory is short",
            remedy="give each worker more cores with --cpus-per-worker, so that fewer run at once",
            code="workers-died",
        )
    again = "run the command again; with glowctl --verbose COMMAND it shows more"
    if isinstance(error, RayTaskError):
        cause = error.cause
        first_line = str(cause).splitlines()[0] if str(cause) else ""
        return JobError(f"a worker failed ({type(cause).__name__}: {first_line})", remedy=again, code="worker-failed")
    return JobError(f"Ray failed ({str(error).splitlines()[0]})", remedy=again, code="ray-failed")


def put_model(model: TrainedModel) -> Any:
    """Put the model into Ray's object store, once for all tasks.

    Returns:
        A list with one reference. Ray would replace a reference that is itself an argument of a task by its value, but
        it leaves a reference in a list as it is.
    """
    return [ray.put((model.config.to_dict(), model.weights))]


@ray.remote
def score_shard(
    reference: list[Any], images: np.ndarray, labels: np.ndarray, start: int, how: dict[str, Any], threads: int
) -> tuple[pd.DataFrame, tuple[str, JsonObject]]:
    """Score one shard of a data set on a worker; `start` is the position of its first image in the data set.

    Returns:
        The scores, and the name and the facts of the machine (`glowctl.system.machine_metrics.machine_facts`).
    """
    model = model_on(reference, threads)
    positions = torch.arange(start, start + len(images))
    # Ray's arrays are read-only, and torch needs arrays that it may write to.
    table = score(model, torch.tensor(images), torch.tensor(labels), indices_N=positions, **how)
    return table, (machine_name(), machine_facts())


@ray.remote
def encode_shard(
    reference: list[Any], images: np.ndarray, labels: np.ndarray, start: int, how: dict[str, Any], threads: int
) -> tuple[pd.DataFrame, tuple[str, JsonObject]]:
    """Compute the features of one shard on a worker, one column per feature, and whether they are finite.

    The name and the facts of the machine follow, as in `score_shard`.
    """
    set_up_computing(threads)
    features = ray.get(reference[0]).features(torch.tensor(images), "cuda" if ray.get_gpu_ids() else "cpu")
    return features_table(features), (machine_name(), machine_facts())


def model_on(reference: list[Any], threads: int) -> Glow:
    """Build the model that `put_model` stored, inside a Ray task, on the GPU if the task has one."""
    set_up_computing(threads)
    return _rebuilt(reference[0])


@lru_cache(maxsize=1)
def _rebuilt(reference: Any) -> Glow:
    """Build the model once per worker process, which runs many tasks."""
    config, weights = ray.get(reference)
    return made_of(GlowConfig.from_dict(config), weights).to("cuda" if ray.get_gpu_ids() else "cpu")


def made_of(config: GlowConfig, weights: Mapping[str, np.ndarray]) -> Glow:
    """Make the model of a `TrainedModel`, on the CPU."""
    model = Glow(config)
    model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    return model
