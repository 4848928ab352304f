"""Which models are no longer needed: a decision about the runs of a store, which changes nothing.

A training and the evaluations of its model stay or go together. They stay if anything uses one of them.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glowctl.specs.request import EVALUATIONS
from glowctl.tracking import metric_names, tag_names
from glowctl.tracking.removal import ENDED, Registration

if TYPE_CHECKING:
    from glowctl.tracking.runs import Run

RECENT = "it ended too recently"
BEST = "it is among the best trials of its ablation"
RUNS = "it runs, or its ablation does"
SCORES = "an evaluation that stays uses its scores"
OUTSIDE = "it is not asked for"


@dataclass(frozen=True)
class Family:
    """A training with the evaluations of its model, or an evaluation of a model without a training in the store.

    Attributes:
        head: the run of the training, or of the evaluation.
        evaluations: runs of the evaluations of the training's model.
    """

    head: Run
    evaluations: Sequence[Run] = ()

    @property
    def head_id(self) -> str:
        """The id of the run that is deleted last."""
        return str(self.head.info.run_id)

    @property
    def runs(self) -> list[Run]:
        """All runs, in the order of their deletion."""
        return [*self.evaluations, self.head]

    @property
    def ids(self) -> set[str]:
        """The ids of all runs."""
        return {run.info.run_id for run in self.runs}

    @property
    def trial(self) -> str | None:
        """The label of a trial of an ablation; None for other runs."""
        return self.head.data.tags.get(tag_names.TRIAL)

    @property
    def has_begun(self) -> bool:
        """Whether a command that was interrupted has begun to delete it."""
        return tag_names.PRUNED in self.head.data.tags

    @property
    def ended(self) -> float:
        """When the last of its runs ended, in seconds since 1970."""
        return max((run.info.end_time or run.info.start_time) / 1000 for run in self.runs)


@dataclass(frozen=True)
class Rule:
    """What the user wants to be deleted.

    Attributes:
        older_s: least time since the end of the last run of a family, in seconds.
        trials: whether to delete nothing but trials of ablations.
        keep_best: number of trials of each ablation that stay, those with the lowest validation NLL.
        experiments: ids of the experiments.
    """

    older_s: float
    trials: bool
    keep_best: int
    experiments: Collection[str]

    def includes(self, family: Family) -> bool:
        """Return whether the rule is about a family at all. What an earlier command has begun is always completed."""
        asked = not self.trials or family.trial is not None or family.has_begun
        return asked and family.head.info.experiment_id in self.experiments


@dataclass(frozen=True)
class Plan:
    """What goes, and what stays of that which the rule is about.

    Attributes:
        going: the families to delete.
        staying: the others, with the reason why each stays.
    """

    going: list[Family]
    staying: list[tuple[Family, str]]


def make_plan(runs: Sequence[Run], registered: Mapping[str, Registration], rule: Rule, now: float) -> Plan:
    """Decide which families go.

    Args:
        runs: all runs of the store, the newest first.
        registered: the registered versions, by the id of their run.
        rule: what the user wants to be deleted.
        now: the present, in seconds since 1970.
    """
    running = {run.info.run_id for run in runs if run.info.status not in ENDED}
    best = _best_trials(runs, rule.keep_best)

    def reason(family: Family) -> str | None:
        """Return why a family stays, from its own runs; None if it may go."""
        if not rule.includes(family):
            return OUTSIDE
        if running & {family.head.data.tags.get(tag_names.PARENT), *family.ids}:
            return RUNS
        if family.has_begun:
            return None
        if now - family.ended < rule.older_s:
            return RECENT
        return BEST if family.head_id in best else registered.get(family.head_id, Registration(())).use

    families = _families(runs)
    reasons = {family.head_id: reason(family) for family in families}
    while True:  # what stays may use scores of what would go, which then stays and may use scores too
        staying = [run for family in families if reasons[family.head_id] for run in family.runs]
        used = {run_id for run in staying for run_id in _runs_with_scores_of(run)}
        more = [family for family in families if not reasons[family.head_id] and used & family.ids]
        more = [family for family in more if not family.has_begun]
        if not more:
            break
        reasons |= {family.head_id: SCORES for family in more}
    asked = [(family, reasons[family.head_id]) for family in families if reasons[family.head_id] != OUTSIDE]
    return Plan(
        [family for family, found in asked if found is None],
        [(family, found) for family, found in asked if found is not None],
    )


def _families(runs: Iterable[Run]) -> list[Family]:
    """Return the families of trainings and evaluations. Ablations and reports, which are small, are in none."""
    trainings = {run.info.run_id for run in runs if run.data.tags.get(tag_names.JOB) == "train"}
    of_model: dict[str | None, list[Run]] = defaultdict(list)
    for run in runs:
        if run.data.tags.get(tag_names.JOB) in EVALUATIONS:
            model = run.data.tags.get(tag_names.TRAIN_RUN)
            of_model[model if model in trainings else None].append(run)
    heads = [run for run in runs if run.info.run_id in trainings]
    return [*(Family(run, of_model[run.info.run_id]) for run in heads), *(Family(run) for run in of_model[None])]


def _best_trials(runs: Iterable[Run], number: int) -> set[str]:
    """Return the ids of the best finished trials of each ablation by validation NLL."""
    finished: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        tags = run.data.tags
        if tag_names.TRIAL in tags and run.info.status == "FINISHED" and tag_names.PRUNED not in tags:
            finished[tags.get(tag_names.PARENT, "")].append(run)
    best = {run.data.tags.get(tag_names.CHAMPION, "") for run in runs}
    for trials in finished.values():
        trials.sort(key=lambda run: run.data.metrics.get(metric_names.BEST_VALIDATION, math.inf))
        best |= {run.info.run_id for run in trials[:number]}
    return best


def _runs_with_scores_of(run: Run) -> set[str]:
    """Return the ids of the runs that have the score tables which an evaluation has used."""
    return set(json.loads(run.data.tags.get(tag_names.SCORED_BY, "{}")).values())
