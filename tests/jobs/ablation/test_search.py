"""The search of an ablation tries each configuration at every seed, and its schedulers stop the worst trials."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from glowctl.ablation.tuner import SeededSearch, make_scheduler, make_search
from glowctl.outputs import KeptResult
from glowctl.specs.ablation import AblateSpec, make_ablate_spec
from glowctl.training.worker import COUNTED_EPOCH, SCORE

EPOCHS = 8


def spec(**values):
    axes = {"depths": "1,2,3", "permutations": "1x1,shuffle", "search": "optuna", "samples": 3, "seeds": 2}
    return make_ablate_spec("smoke", axes | values)


def config(permutation, depth):
    return {"permutation": permutation, "depth": depth}


A, B, C = config("1x1", 1), config("1x1", 2), config("shuffle", 3)


class Scripted(Searcher):
    """Proposes the given configurations, then the last one forever, and keeps what is reported about each."""

    def __init__(self, *proposals):
        super().__init__(metric=SCORE, mode="min")
        self.proposals = list(proposals)
        self.proposed = {}  # id -> proposal
        self.told = []  # (proposal, score or None, error)

    def suggest(self, trial_id):
        self.proposed[trial_id] = self.proposals.pop(0) if len(self.proposals) > 1 else self.proposals[0]
        return dict(self.proposed[trial_id])

    def on_trial_complete(self, trial_id, result=None, error=False):
        self.told.append((self.proposed[trial_id], result and result[SCORE], error))


def started(search, count, first=0):
    """Ask for `count` trials, called t0, t1, ..., and return their values."""
    return [search.suggest(f"t{number}")["values"] for number in range(first, first + count)]


def seeded(*proposals, seeds=2):
    return [{**proposal, "seed": seed} for proposal in proposals for seed in range(seeds)]


def run_to_the_end(search, first=0):
    """Run all remaining trials one after the other, each with its depth as score, and return their values."""
    values: list[dict[str, Any]] = []
    while (suggested := search.suggest(f"t{first + len(values)}")) != Searcher.FINISHED:
        search.on_trial_complete(f"t{first + len(values)}", {SCORE: float(suggested["values"]["depth"])})
        values.append(suggested["values"])
    return values


def test_each_configuration_goes_to_every_seed_before_the_next():
    search = SeededSearch(spec(seeds=3, seed=4), Scripted(A, B), {})
    assert started(search, 6) == [{**proposal, "seed": seed} for proposal in (A, B) for seed in (4, 5, 6)]


def test_the_searcher_receives_the_mean_when_all_seeds_have_ended():
    inner = Scripted(A, B)
    search = SeededSearch(spec(), inner, {})
    started(search, 4)
    search.on_trial_complete("t1", {SCORE: 3.0})
    search.on_trial_complete("t2", {SCORE: 7.0})
    assert inner.told == []
    search.on_trial_complete("t0", {SCORE: 1.0})
    assert inner.told == [(A, 2.0, False)]


@pytest.mark.parametrize(
    "end",
    [
        {"error": True, "result": {SCORE: 1.0}},
        {"result": None},
        {"result": {SCORE: math.inf}},
        {"result": {SCORE: math.nan}},
        {"result": {}},
    ],
    ids=["error", "no result", "infinite", "NaN", "no score"],
)
def test_a_configuration_with_a_trial_without_a_finite_score_is_an_error(end):
    inner = Scripted(A)
    search = SeededSearch(spec(), inner, {})
    started(search, 2)
    search.on_trial_complete("t0", **end)
    search.on_trial_complete("t1", {SCORE: 1.0})
    assert inner.told == [(A, None, True)]


def test_a_repeated_proposal_is_answered_with_its_known_score_and_not_run_again():
    inner = Scripted(A, A, A, B)
    search = SeededSearch(spec(), inner, {})
    started(search, 2)
    search.on_trial_complete("t0", {SCORE: 1.0})
    search.on_trial_complete("t1", {SCORE: 3.0})
    assert started(search, 2, first=2) == seeded(B)
    assert inner.told == [(A, 2.0, False)] * 3


def test_a_repeated_proposal_without_a_score_yet_is_answered_with_an_error():
    inner = Scripted(A, A, B)
    search = SeededSearch(spec(), inner, {})
    assert started(search, 4) == seeded(A, B)
    assert inner.told == [(A, None, True)]


def test_untried_configurations_replace_proposals_that_only_repeat():
    search = SeededSearch(spec(samples=6), Scripted(A), {})
    values = started(search, 12)
    assert values[:2] == seeded(A)
    assert sorted(values, key=str) == sorted(spec().trials(), key=str)


def test_the_search_ends_after_all_seeds_of_as_many_configurations_as_were_asked_for():
    search = SeededSearch(spec(samples=3), Scripted(A, B, C, config("shuffle", 1)), {})
    assert started(search, 6) == seeded(A, B, C)
    assert search.suggest("t6") == Searcher.FINISHED


def test_proposals_that_differ_in_the_scale_of_an_additive_coupling_are_one():
    both = spec(couplings="all", scales="all")
    proposals = [{**A, "coupling": "additive", "scale": scale} for scale in ("bounded", "sigmoid")]
    search = SeededSearch(both, Scripted(*proposals, {**B, "coupling": "affine", "scale": "bounded"}), {})
    values = started(search, 4)
    assert [(v["depth"], v["coupling"], v["scale"]) for v in values[::2]] == [
        (1, "additive", "sigmoid"),
        (2, "affine", "bounded"),
    ]


def test_a_resumed_search_receives_the_scores_of_trials_that_have_ended_and_runs_the_others():
    asked, inner = spec(), Scripted(A, B, C)
    ended = {asked.label(values): score for values, score in zip(seeded(A, B), (1.0, 2.0, 5.0), strict=False)}
    search = SeededSearch(asked, inner, ended)
    assert started(search, 3) == [*seeded(B)[1:], *seeded(C)]
    assert inner.told == [(A, 1.5, False)]
    search.on_trial_complete("t0", {SCORE: 6.0})
    assert inner.told == [(A, 1.5, False), (B, 5.5, False)]
    assert search.suggest("t3") == Searcher.FINISHED


def optuna_search(asked: AblateSpec, settled: Mapping[str, KeptResult] = {}, begun: Sequence[str] = ()) -> Searcher:
    search = make_search(asked, settled, begun)
    assert search is not None
    return search


@pytest.mark.parametrize(
    ("axes", "count"),
    [
        ({"samples": 6}, 6),
        ({"learning_rates": "1e-3,2e-3", "couplings": "affine,additive", "scales": "all", "samples": 48}, 48),
    ],
)
def test_optuna_tries_a_whole_product_once_for_each_seed(axes, count):
    asked = spec(**axes)
    values = run_to_the_end(optuna_search(asked))
    assert len(values) == count * 2
    assert sorted(values, key=str) == sorted(asked.trials(), key=str)


def test_optuna_continues_with_the_trials_that_have_begun_and_what_was_known():
    asked = spec(samples=4, seeds=1)
    whole = run_to_the_end(optuna_search(asked))
    labels = [asked.label(values) for values in whole]
    settled = {labels[0]: KeptResult(state="finished", score=float(whole[0]["depth"]))}
    resumed = run_to_the_end(optuna_search(asked, settled, labels[1:2]))
    assert len(resumed) == 3
    assert resumed[0] == whole[1]
    assert whole[0] not in resumed


def test_optuna_proposes_the_same_at_the_same_seed():
    first, again, other = (run_to_the_end(optuna_search(spec(samples=4, seed=seed, seeds=1))) for seed in (0, 0, 1))
    assert first == again
    assert [{**v, "seed": 0} for v in other] != first


def test_configurations_that_the_searcher_did_not_propose_keep_separate_scores():
    one, two = config("1x1", 2), config("1x1", 3)  # the untried ones, which are taken after A
    inner = Scripted(A, *[A] * 100, two, one, C)
    search = SeededSearch(spec(samples=4, seeds=1), inner, {})
    assert started(search, 3) == seeded(A, one, two, seeds=1)
    for number in range(3):
        search.on_trial_complete(f"t{number}", {SCORE: float(number)})
    search.suggest("t3")  # proposes both before C
    assert inner.told[-2:] == [(two, 2.0, False), (one, 1.0, False)]


def test_a_trial_that_failed_and_was_resumed_counts_once():
    inner = Scripted(A, B)
    search = SeededSearch(spec(seeds=2), inner, {})
    started(search, 2)
    search.on_trial_complete("t0", error=True)
    search.on_trial_complete("t0", {SCORE: 1.0})
    assert inner.told == []
    search.on_trial_complete("t1", {SCORE: 3.0})
    assert inner.told == [(A, 2.0, False)]


def test_optuna_stays_within_the_product():
    asked = spec(couplings="all", scales="bounded", permutations="1x1", depths="1,2", samples=4, seeds=1)
    search = optuna_search(asked)
    assert all(values in asked.trials() for values in started(search, 4))


@pytest.mark.parametrize("search", ["grid", "random"])
def test_trials_that_are_known_beforehand_need_no_searcher(search):
    assert make_search(spec(search=search, samples=3 if search == "random" else None), {}, ()) is None


@pytest.mark.parametrize(
    ("scheduler", "kind"), [("none", FIFOScheduler), ("asha", AsyncHyperBandScheduler), ("median", MedianStoppingRule)]
)
def test_schedulers_can_be_made_for_any_number_of_epochs(scheduler, kind):
    for epochs in (1, 2, 3, EPOCHS, 70):
        assert isinstance(make_scheduler(spec(scheduler=scheduler, epochs=epochs)), kind)


@dataclass(frozen=True)
class FakeTrial:
    trial_id: str


def fake_trial(trial_id: str) -> Trial:
    return cast(Trial, FakeTrial(trial_id))


class Trials:
    """Trials that run at the same time under a scheduler; all are good but the last, which is bad.

    The trials `live` are those that Tune's controller gives, such as trials that have not begun.
    """

    def __init__(self, scheduler, good, live=()):
        self.scheduler = make_scheduler(spec(scheduler=scheduler, epochs=EPOCHS))
        controller = SimpleNamespace(get_live_trials=lambda: live, get_trials=lambda: live)
        self.controller = cast(TuneController, controller)
        self.good = [fake_trial(f"good {number}") for number in range(good)]
        self.bad = fake_trial("bad")
        for trial in (*self.good, self.bad):
            self.scheduler.on_trial_add(self.controller, trial)

    def decide(self, trial, epoch):
        """Report an epoch as `glowctl.training.worker` does, and return the scheduler's decision."""
        counted = {COUNTED_EPOCH: epoch} if epoch < EPOCHS else {}
        result = {SCORE: 9.0 if trial is self.bad else 1.0, "epoch": epoch, **counted}
        return self.scheduler.on_trial_result(self.controller, trial, result)


@pytest.mark.parametrize(("scheduler", "good"), [("asha", 1), ("median", 3)])
def test_the_worst_trial_is_stopped_after_a_quarter_of_its_epochs(scheduler, good):
    trials = Trials(scheduler, good)
    decided = []
    for epoch in range(1, EPOCHS // 4 + 1):
        kept = [trials.decide(trial, epoch) for trial in trials.good]
        assert kept == [TrialScheduler.CONTINUE] * good
        decided.append(trials.decide(trials.bad, epoch))
    assert decided == [TrialScheduler.CONTINUE, TrialScheduler.STOP]


def test_asha_stops_no_trial_after_its_last_epoch():
    trials = Trials("asha", good=1)
    for epoch in range(1, EPOCHS):
        trials.decide(trials.good[0], epoch)
    assert [trials.decide(trial, EPOCHS) for trial in (*trials.good, trials.bad)] == [TrialScheduler.CONTINUE] * 2


def test_the_median_rule_still_works_after_a_trial_has_ended():
    """The last result of a trial has no counted epoch."""
    trials = Trials("median", good=1)
    trials.decide(trials.good[0], 3)
    trials.decide(trials.good[0], EPOCHS)
    trials.scheduler.on_trial_complete(trials.controller, trials.good[0], {SCORE: 1.0})
    assert trials.decide(trials.bad, 3) == TrialScheduler.CONTINUE


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_no_scheduler_pauses_a_trial_until_others_have_run(scheduler):
    waiting = SimpleNamespace(status="PENDING", is_finished=lambda: False)
    trials = Trials(scheduler, good=1, live=[waiting])
    decided = [trials.decide(trials.good[0], epoch) for epoch in range(1, EPOCHS + 1)]
    assert decided == [TrialScheduler.CONTINUE] * EPOCHS
