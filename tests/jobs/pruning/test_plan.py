"""What is no longer needed, decided on runs that the tests make up."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from glowctl.errors import SpecError
from glowctl.pruning.plan import Plan, Rule, make_plan
from glowctl.pruning.run import prune
from glowctl.text import seconds_in
from glowctl.tracking import metric_names, tag_names
from glowctl.tracking.removal import Registration

if TYPE_CHECKING:
    from mlflow.entities import Run

DAY, NOW = 86400.0, 1_800_000_000.0


def a_run(name: str, job: str = "train", age_d: float = 40, status: str = "FINISHED", score: float = 3.0, **tags: str):
    """Make a run whose id is its name."""
    ended = int(1000 * (NOW - age_d * DAY))
    info = SimpleNamespace(
        run_id=name, run_name=name, experiment_id=tags.pop("experiment", "1"), status=status, start_time=ended
    )
    info.end_time = None if status == "RUNNING" else ended
    named = {tag_names.JOB: job} | {getattr(tag_names, key): value for key, value in tags.items()}
    data = SimpleNamespace(tags=named, metrics={metric_names.BEST_VALIDATION: score})
    return cast("Run", SimpleNamespace(info=info, data=data))


def trial(name: str, ablation: str = "ablation", **more: Any):
    return a_run(name, TRIAL=name, PARENT=ablation, **more)


def evaluation(name: str, of: str, job: str = "ood", **more: Any):
    return a_run(name, job, TRAIN_RUN=of, PARENT=of, **more)


def planned(*runs: Run, registered: dict[str, Registration] | None = None, **rule: Any) -> Plan:
    settings: dict[str, Any] = {"older_s": 30 * DAY, "trials": False, "keep_best": 1, "experiments": ["1"]}
    return make_plan(runs, registered or {}, Rule(**settings | rule), NOW)


def going(plan: Plan) -> dict[str, set[str]]:
    return {family.head_id: {run.info.run_id for run in family.evaluations} for family in plan.going}


def staying(plan: Plan) -> dict[str, str]:
    return {family.head_id: reason for family, reason in plan.staying}


ABLATION = a_run("ablation", "ablate")


def test_the_best_trials_of_each_ablation_stay():
    trials = [trial(f"a{score}", score=score) for score in (4.0, 2.0, 3.0)]
    others = [trial(f"b{score}", "other", score=score) for score in (7.0, 5.0)]
    runs = [ABLATION, *trials, a_run("other", "ablate"), *others, a_run("alone"), a_run("report", "report")]
    assert set(going(planned(*runs, trials=True))) == {"a4.0", "a3.0", "b7.0"}
    assert set(going(planned(*runs, trials=True, keep_best=2))) == {"a4.0"}
    assert set(going(planned(*runs))) == {"a4.0", "a3.0", "b7.0", "alone"}  # neither ablations nor reports
    assert set(staying(planned(*runs, trials=True))) == {"a2.0", "b5.0"}


def test_a_trial_without_a_result_is_not_among_the_best():
    failed = [trial("failed", status="FAILED", score=1.0), trial("stopped", status="KILLED", score=1.0)]
    begun = trial("begun", score=1.0, PRUNED="1")
    runs = [ABLATION, trial("good", score=2.0), *failed, begun]
    assert set(going(planned(*runs))) == {"failed", "stopped", "begun"}


def test_the_trial_that_the_ablation_names_stays_also_if_another_scores_lower():
    named = a_run("ablation", "ablate", CHAMPION="b")
    assert going(planned(named, trial("a", score=1.0), trial("b", score=2.0))) == {}


def test_a_model_and_its_evaluations_stay_or_go_together():
    young = evaluation("young", "a", age_d=2)
    runs = [a_run("a"), evaluation("old", "a"), a_run("b"), evaluation("of b", "b")]
    assert going(planned(*runs)) == {"a": {"old"}, "b": {"of b"}}
    assert going(planned(*runs, young)) == {"b": {"of b"}}
    assert "recently" in staying(planned(*runs, young))["a"]


def test_an_evaluation_whose_training_is_gone_goes_alone():
    runs = [evaluation("lost", "nothing"), a_run("of a folder", "nll"), evaluation("young", "nothing", age_d=1)]
    assert going(planned(*runs)) == {"lost": set(), "of a folder": set()}
    assert going(planned(*runs, trials=True)) == {}


def test_what_runs_stays_with_all_that_it_needs():
    running = a_run("ablation", "ablate", status="RUNNING")
    runs = [running, trial("a", score=1.0), trial("b", score=2.0), trial("c", score=3.0, PRUNED="1")]
    assert going(planned(*runs)) == {}
    assert going(planned(a_run("a"), evaluation("now", "a", status="RUNNING"), older_s=0.0)) == {}
    assert going(planned(a_run("resumed", status="RUNNING"), older_s=0.0)) == {}


def test_registered_versions_that_are_used_stay():
    registered = {"a": Registration(("m/1",), "m/1 has the alias champion"), "b": Registration(("m/2",))}
    plan = planned(a_run("a"), a_run("b"), registered=registered)
    assert going(plan) == {"b": set()}
    assert staying(plan) == {"a": "m/1 has the alias champion"}


def test_scores_that_an_evaluation_uses_stay_with_their_model():
    def scored_by(run: str) -> str:
        return json.dumps({"0123": run})

    runs = [
        a_run("used"),
        evaluation("with its table", "used", SCORED_BY=scored_by("also used")),
        a_run("also used"),
        a_run("unused", SCORED_BY=scored_by("unused")),
        a_run("young", age_d=1),
        evaluation("uses it", "young", SCORED_BY=scored_by("with its table")),
    ]
    for order in itertools.islice(itertools.permutations(runs), 0, 720, 37):
        assert set(going(planned(*order))) == {"unused"}
    elsewhere = a_run("elsewhere", "ood", experiment="2", SCORED_BY=scored_by("used"))
    assert going(planned(a_run("used"), elsewhere)) == {}


def test_only_the_chosen_experiment_is_pruned():
    plan = planned(a_run("here"), a_run("there", experiment="2"), evaluation("of here", "here", experiment="2"))
    assert going(plan) == {"here": {"of here"}}
    assert staying(plan) == {}


def test_what_a_command_has_begun_is_completed_by_any_other():
    begun = [a_run("a", PRUNED="1"), evaluation("new", "a", age_d=0), trial("b", PRUNED="1")]
    assert set(going(planned(ABLATION, *begun, trials=True, keep_best=9))) == {"a", "b"}


@pytest.mark.parametrize(("age", "seconds"), [("12h", 43200), ("30d", 2592000), ("0.5w", 302400), ("0h", 0)])
def test_ages(age, seconds):
    assert seconds_in(age) == seconds


@pytest.mark.parametrize("age", ["30", "d", "30 days", "-1d", "1y", "1e3d", ""])
def test_what_is_no_age_is_refused(age):
    with pytest.raises(SpecError, match="--older") as refused:
        prune(None, "glow", age, trials=False, keep_best=1, delete=False, as_json=False)
    assert refused.value.code == "setting-not-allowed"
    assert refused.value.exit_code == 2
