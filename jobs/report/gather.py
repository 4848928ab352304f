"""Choice of the runs that a report shows, grouped by data set.

For each data set that models were trained on, a report shows ablations and trainings (`Study`), and the evaluations of
some of the models (`Model`).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobs.report.comparable import best_training
from jobs.report.run_facts import dataset_of, job_of, spec_of
from jobs.tracking import (
    TrackingError,
    child_runs,
    experiment_runs,
    find_run,
    open_command,
    run_of_id,
    tag_names,
)

if TYPE_CHECKING:
    from jobs.tracking import Run

__all__ = [
    "EVALUATIONS",
    "REPORT_PROTOCOL",
    "Material",
    "Model",
    "Study",
    "gather",
]

EVALUATIONS = ("nll", "sample", "interpolate", "ood")
"""Kinds of evaluations, as in the tag `glow.job`."""

REPORT_PROTOCOL = "ood by the report's protocol"
"""Additional key of a model's evaluations: its newest OOD test by the course report's protocol.

That run is kept apart from the newest run of the default protocol, which has the key "ood".
"""

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
        evaluations: kind of evaluation -> its newest run. The kinds are those of `EVALUATIONS`, and `REPORT_PROTOCOL`.
        ood_tests: the OOD tests by the default protocol, the newest first, at most `MOST_TESTS`.
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
        runs = _with_those_beneath(uri, given)
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


def _with_those_beneath(uri: str, given: Iterable[Run]) -> list[Run]:
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
            report = job_of(run) == "ood" and spec_of(run).get("protocol") == "report"
            kinds.setdefault(REPORT_PROTOCOL if report else job_of(run), []).append(run)
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
        ablation.info.run_id: [run for run in child_runs(uri, ablation) if tag_names.TRIAL in run.data.tags]
        for ablation in ablations
    }
    in_ablations = {run.info.run_id for group in trials.values() for run in group}
    trainings = [run for run in own if job_of(run) == "train" and run.info.run_id not in in_ablations]
    if ablations:  # trials of other ablations are not comparable to these
        trainings = [run for run in trainings if tag_names.TRIAL not in run.data.tags or run.info.run_id in named]
    kept = models if named else models[:MOST_MODELS]
    if not kept:
        best = best_training([*(run for group in trials.values() for run in group), *trainings])
        kept = [] if best is None else [Model(best.info.run_name, best.info.run_id, best)]
    return Study(dataset, ablations, trials, trainings, kept, len(models) - len(kept) if models else 0)


def _ablations(ablations: Sequence[Run], named: set[str]) -> list[Run]:
    """Return the named ablations, or else the newest one that compares permutations, or else the newest one."""
    asked = [run for run in ablations if run.info.run_id in named]
    return asked or sorted(ablations, key=lambda run: len(spec_of(run).get("permutations") or ()) < 2)[:1]
