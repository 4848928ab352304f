"""What a report is made from: the runs that it shows, grouped by data set, and what MLflow has of them.

For each data set that models were trained on, a report shows ablations and trainings (`Study`), and the evaluations of
some of the models (`Model`). A `Reader` reads their artifacts.
"""

from __future__ import annotations

import io
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from glowctl.report.document import Note
from glowctl.tracking import metric_names, tag_names
from glowctl.tracking.runs import (
    child_runs,
    experiment_runs,
    find_run,
    read_artifact,
    read_table,
    recorded_images,
    run_of_id,
)
from glowctl.tracking.store import open_command
from glowctl.tracking.uris import TrackingError

if TYPE_CHECKING:
    from glowctl.text import JsonObject
    from glowctl.tracking.runs import Run

EVALUATIONS = ("nll", "sample", "interpolate", "ood")
"""Kinds of evaluations, as in the tag `glow.job`."""

MOST_TESTS = 10
"""The most OOD tests per model in which the benchmark looks for data sets."""

MOST_MODELS = 3
"""The most models per data set, unless runs are named."""

UNKNOWN = "unknown data set"


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes:
        name: name of the training run, or the name of the model in its newest evaluation if `training` is None.
        reference: value for --model that selects the model.
        training: the run that trained the model, or None if the store does not have that run.
        evaluations: kind of evaluation, one of `EVALUATIONS` -> its newest run.
        ood_tests: the OOD tests, the newest first, at most `MOST_TESTS`.
    """

    name: str
    reference: str
    training: Run | None
    evaluations: Mapping[str, Run] = field(default_factory=dict)
    ood_tests: Sequence[Run] = ()


@dataclass(frozen=True)
class Study:
    """The runs of models that were trained on one data set.

    Attributes:
        dataset: name of the data set.
        ablations: the ablations to show.
        trials: id of an ablation -> its trials.
        trainings: other trainings to show. If there are `ablations`, trials of other ablations are among them only if
            the user named these trials.
        models: the models whose evaluations are shown.
        left_out: number of evaluated models that are not in `models`.
    """

    dataset: str
    ablations: Sequence[Run]
    trials: Mapping[str, Sequence[Run]]
    trainings: Sequence[Run]
    models: Sequence[Model]
    left_out: int = 0

    @property
    def runs(self) -> list[Run]:
        """All runs that the report shows for this data set, each once."""
        trained = [run for ablation in self.ablations for run in (ablation, *self.trials[ablation.info.run_id])]
        trained += self.trainings
        for model in self.models:
            trained += [run for run in (model.training, *model.evaluations.values()) if run is not None]
        return list({run.info.run_id: run for run in trained}.values())


@dataclass(frozen=True)
class Material:
    """Everything that a report is made from.

    Attributes:
        uri: address of the MLflow store.
        experiment: name of the experiment.
        studies: one per data set, the one with the newest training or ablation first.
    """

    uri: str
    experiment: str
    studies: Sequence[Study]

    @property
    def runs(self) -> list[Run]:
        """All runs that the report shows, each once, the oldest first."""
        every = {run.info.run_id: run for study in self.studies for run in study.runs}
        return sorted(every.values(), key=lambda run: run.info.start_time)

    def command(self, *words: str) -> str:
        """Return a glowctl command line: `words`, then the flags that select the report's store and experiment."""
        here = [] if self.experiment == "glow" else ["--experiment", self.experiment]
        return f"glowctl {shlex.join([*words, *here])}{open_command(self.uri).removeprefix('glowctl ui')}"


def gather(uri: str, experiment: str, names: Sequence[str] | None) -> Material:
    """Return the runs that a report shows.

    Args:
        uri: address of the MLflow store.
        experiment: name of the experiment.
        names: ids or names of runs to show; the runs nested under them are added. If None or empty, runs are chosen
            from the whole experiment.

    Raises:
        TrackingError: if a run or the experiment does not exist, or there are no runs to show.
    """
    named: set[str] = set()
    if names:
        given = [find_run(uri, experiment, name) for name in names]
        named = {run.info.run_id for run in given}
        runs = _with_nested(uri, given)
        nothing = TrackingError(
            f"none of the runs {', '.join(map(repr, names))} is an ablation, a training or an evaluation",
            remedy="name such runs with --runs; glowctl runs lists them",
            code="no-runs-to-report",
        )
    else:
        runs = experiment_runs(uri, experiment)
        nothing = TrackingError(
            f"experiment {experiment!r} has no runs to report on",
            remedy=f"train with glowctl ablate --permutations all --experiment {experiment}, or run glowctl demo",
            code="no-runs-to-report",
        )
    runs = [run for run in runs if job_of(run) in ("ablate", "train", *EVALUATIONS)]
    runs = sorted(runs, key=lambda run: run.info.start_time, reverse=True)
    studies = _studies(uri, runs, named)
    if not studies:
        raise nothing
    return Material(uri, experiment, studies)


def _with_nested(uri: str, given: Iterable[Run]) -> list[Run]:
    found: dict[str, Run] = {}
    waiting = list(given)
    while waiting:
        run = waiting.pop()
        if run.info.run_id not in found:
            found[run.info.run_id] = run
            if job_of(run) in ("ablate", "train"):
                waiting += child_runs(uri, run)
    return list(found.values())


def _studies(uri: str, runs: Sequence[Run], named: set[str]) -> list[Study]:
    """Group runs, the newest first, by data set."""
    known = {run.info.run_id: run for run in runs}
    models = _models(uri, [run for run in runs if job_of(run) in EVALUATIONS and _counts(run, named)], known, named)
    others = [dataset for run in runs if job_of(run) in ("ablate", "train") and (dataset := dataset_of(run))]
    datasets = list(dict.fromkeys([*others, *models]))
    studies = [_study(uri, dataset, runs, models.get(dataset, []), named) for dataset in datasets]
    return [study for study in studies if study.runs]


def _counts(run: Run, named: set[str]) -> bool:
    """Return whether to show a run: it is finished, or the user named it."""
    return run.info.status == "FINISHED" or run.info.run_id in named


def _models(uri: str, evaluations: Sequence[Run], known: Mapping[str, Run], named: set[str]) -> dict[str, list[Model]]:
    """Return the evaluated models by data set: those of named runs first, then those evaluated last."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(evaluations, key=lambda run: run.info.run_id not in named):  # a stable sort
        tags = run.data.tags
        groups.setdefault(tags.get(tag_names.TRAIN_RUN) or tags.get(tag_names.MODEL_DIGEST) or "", []).append(run)
    found: dict[str, list[Model]] = {}
    for key, group in groups.items():
        newest = group[0]
        training = known.get(key) or (run_of_id(uri, key) if newest.data.tags.get(tag_names.TRAIN_RUN) else None)
        dataset = next((name for run in (*group, training) if run is not None and (name := dataset_of(run))), UNKNOWN)
        kinds: dict[str, list[Run]] = {}
        for run in group:
            kinds.setdefault(job_of(run), []).append(run)
        newest_of = {kind: runs[0] for kind, runs in kinds.items()}
        name = training.info.run_name if training else newest.data.tags.get(tag_names.MODEL, "unnamed model")
        reference = key if training else str(spec_of(newest).get("model") or key)
        ood_tests = kinds.get("ood", [])[:MOST_TESTS]
        found.setdefault(dataset, []).append(Model(name, reference, training, newest_of, ood_tests))
    return found


def _study(uri: str, dataset: str, runs: Sequence[Run], models: list[Model], named: set[str]) -> Study:
    own = [run for run in runs if dataset_of(run) == dataset]
    ablations = _ablations([run for run in own if job_of(run) == "ablate" and _counts(run, named)], named)
    trials = {
        ablation.info.run_id: [
            run for run in child_runs(uri, ablation, pruned=True) if tag_names.TRIAL in run.data.tags
        ]
        for ablation in ablations
    }
    in_ablations = {run.info.run_id for group in trials.values() for run in group}
    trainings = [run for run in own if job_of(run) == "train" and run.info.run_id not in in_ablations]
    if ablations:  # trials of other ablations are not comparable to these
        trainings = [run for run in trainings if tag_names.TRIAL not in run.data.tags or run.info.run_id in named]
    shown = models if named else models[:MOST_MODELS]
    if not shown:
        best = best_training([*(run for group in trials.values() for run in group), *trainings])
        shown = [] if best is None else [Model(best.info.run_name, best.info.run_id, best)]
    return Study(dataset, ablations, trials, trainings, shown, len(models) - len(shown) if models else 0)


def _ablations(ablations: Sequence[Run], named: set[str]) -> list[Run]:
    """Return the named ablations, or else the newest one that compares permutations, or else the newest one."""
    asked = [run for run in ablations if run.info.run_id in named]
    return asked or sorted(ablations, key=lambda run: len(spec_of(run).get("permutations") or ()) < 2)[:1]


# Facts about a run.


def job_of(run: Run) -> str:
    """Return the kind of job that made a run, such as "train" or "ood", or "" if glowctl did not make the run."""
    return str(run.data.tags.get(tag_names.JOB, ""))


def spec_of(run: Run) -> JsonObject:
    """Return the settings of a run, or an empty dict if they are missing or damaged."""
    with suppress(ValueError):
        found = json.loads(run.data.tags.get(tag_names.SPEC, ""))
        if isinstance(found, dict):
            return found
    return {}


def bits_of(run: Run) -> int:
    """Return the bits per value of the images of a training or an ablation."""
    spec = spec_of(run)
    return int(spec.get("train", spec).get("bits", 8))


def dataset_of(run: Run) -> str | None:
    """Return the name of the data set that a run's model is trained on, or None if MLflow does not have it."""
    spec = spec_of(run)
    return run.data.tags.get(tag_names.DATASET) or spec.get("dataset") or spec.get("train", {}).get("dataset")


# Trainings whose negative log-likelihoods (NLL) can be compared, because they are those of the same images. Padding
# lowers bits/dim, and a class that is left out may be a hard one. Therefore an NLL is that of its test images.


def comparable(trainings: Iterable[Run]) -> list[list[Run]]:
    """Group trainings by their test images and by the bits per value of these.

    Groups with a finished training come first; among these, groups with more bits; then those with more finished
    trainings; and then those whose first training comes first. Trainings keep their order.
    """
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in trainings:
        groups.setdefault(images_of(run), []).append(run)

    def place(group: Sequence[Run]) -> tuple[bool, int, int]:
        finished = len(_finished(group))
        return not finished, -bits_of(group[0]), -finished

    return sorted(groups.values(), key=place)


def best_training(trainings: Iterable[Run]) -> Run | None:
    """Return the finished training with the lowest validation NLL in the first group of `comparable`, or None."""

    def score(run: Run) -> float:
        value = run.data.metrics.get(metric_names.BEST_VALIDATION, math.nan)
        return math.inf if math.isnan(value) else value

    return min((run for group in comparable(trainings)[:1] for run in _finished(group)), key=score, default=None)


def _finished(group: Iterable[Run]) -> list[Run]:
    return [run for run in group if run.info.status == "FINISHED"]


def images_of(run: Run) -> tuple[object, ...]:
    """Return what is equal for runs with the same test images: bits, and their fingerprint or else their settings."""
    if (digest := recorded_images(run).get(f"{dataset_of(run)} test")) is not None:
        return bits_of(run), digest
    spec = spec_of(run)
    return bits_of(run), spec.get("image_size"), tuple(spec.get("leave_out") or ()), spec.get("background")


class Reader:
    """A reader of artifacts that collects a sentence about each one that is gone or damaged.

    In its methods, `what` completes the sentence "... is gone or damaged, so {what} cannot be shown". An artifact that
    is gone or damaged is returned as None.

    Args:
        uri: address of the MLflow store.

    Attributes:
        uri: the argument `uri`.
        lost: all sentences that were collected so far.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.lost: list[str] = []
        self._told = 0

    def table(self, run: Run, name: str, what: str) -> pd.DataFrame | None:
        """Return the artifact NAME.parquet of a run as a table."""
        found = read_table(self.uri, run.info.run_id, f"{name}.parquet")
        if found is None:
            self.damaged(run, f"{name}.parquet", what)
        return found

    def array(self, run: Run, name: str, what: str) -> np.ndarray | None:
        """Return the artifact `name` of a run, a .npy file, as an array."""
        content = self.content(run, name, None)
        try:
            return np.asarray(np.load(io.BytesIO(content or b""), allow_pickle=False))
        except (ValueError, EOFError, OSError):
            self.damaged(run, name, what)
        return None

    def content(self, run: Run, name: str, what: str | None) -> bytes | None:
        """Return the content of the artifact `name` of a run.

        If `what` is None, nothing is reported, because the caller can use another artifact in its place.
        """
        found = read_artifact(self.uri, run.info.run_id, name)
        if found is None and what is not None:
            self.damaged(run, name, what)
        return found

    def damaged(self, run: Run, name: str, what: str) -> None:
        """Report that the artifact `name` of a run is gone or damaged, so that `what` cannot be shown."""
        self.lost.append(
            f"The artifact {name} of run {run.info.run_name} ({run.info.run_id}) is gone or damaged, so {what} cannot "
            "be shown."
        )

    def notes(self) -> list[Note]:
        """Return the sentences that the reader has collected since the last call of this method."""
        new, self._told = self.lost[self._told :], len(self.lost)
        return [Note(sentence) for sentence in new]
