"""The settings of ablations: axes, configurations, trials, their labels, and what is refused."""

import json
from typing import get_args

import pytest

from glow.config import Permutation
from glowctl.commands.options import read_ablate_spec
from glowctl.errors import SpecError
from glowctl.specs.ablation import make_ablate_spec
from glowctl.specs.training import make_train_spec


def spec(**values):
    return make_ablate_spec("smoke", values)


def test_a_grid_is_the_cross_product_once_for_each_seed_in_turn():
    found = spec(permutations="1x1,shuffle", depths="2,4", seeds=2, seed=5)
    assert [(v["permutation"], v["depth"], v["seed"]) for v in found.trials()] == [
        *[("1x1", 2, 5), ("1x1", 4, 5), ("shuffle", 2, 5), ("shuffle", 4, 5)],
        *[("1x1", 2, 6), ("1x1", 4, 6), ("shuffle", 2, 6), ("shuffle", 4, 6)],
    ]
    assert found.number_of_configurations == 4


@pytest.mark.parametrize(
    ("axis", "text", "values"),
    [
        ("permutations", "all", get_args(Permutation)),
        ("scales", " all ", ("sigmoid", "bounded", "floored")),
        ("permutations", "reverse, 1x1,reverse", ("reverse", "1x1")),
        ("depths", "8, 16,8", (8, 16)),
        ("checkerboards", "0,2", (0, 2)),
        ("learning_rates", "1e-3,0.002", (0.001, 0.002)),
    ],
)
def test_what_an_axis_names(axis, text, values):
    assert getattr(spec(**{axis: text}), axis) == values


def test_a_coupling_that_is_not_affine_has_no_scale_to_vary():
    found = spec(couplings="all", scales="all", seeds=1)
    assert [(v["coupling"], v["scale"]) for v in found.trials()] == [
        ("affine", "sigmoid"),
        ("affine", "bounded"),
        ("affine", "floored"),
        ("additive", "sigmoid"),
        ("spline", "sigmoid"),
    ]


def test_what_is_not_named_keeps_its_value_in_the_preset_or_beside_the_axes():
    found = spec(depths="5", width=7)
    assert found.train == make_train_spec("smoke", {"test_every": 1, "width": 7})
    trial = found.trial_spec(found.trials()[1])
    assert trial == found.train.model_copy(update={"depth": 5, "seed": 1})
    assert spec(seeds=3).trials() == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
    assert spec(run_name="study").trial_spec({"seed": 0}).run_name is None


def test_a_random_search_draws_distinct_configurations_by_its_seed():
    axes = {"depths": "1,2,3,4", "widths": "8,16,32", "search": "random", "samples": 7}
    drawn = spec(**axes).configurations()
    assert len({json.dumps(values) for values in drawn}) == 7
    assert all(values in spec(depths="1,2,3,4", widths="8,16,32").configurations() for values in drawn)
    assert spec(**axes).configurations() == drawn
    assert spec(**axes, seed=1).configurations() != drawn


def test_what_a_random_search_draws_gets_all_seeds():
    found = spec(depths="1,2,3,4", search="random", samples=2, seeds=3)
    assert found.trials() == [{**values, "seed": seed} for seed in range(3) for values in found.configurations()]


@pytest.mark.parametrize(("search", "known"), [("grid", True), ("random", True), ("optuna", False)])
def test_only_optuna_leaves_open_what_will_be_tried(search, known):
    samples = {} if search == "grid" else {"samples": 2}
    found = spec(depths="1,2,3", search=search, **samples)
    assert (found.known_beforehand, found.number_of_configurations) == (known, 3 if search == "grid" else 2)


def test_labels_tell_the_trials_of_a_large_product_apart():
    found = spec(
        permutations="all",
        depths="1,2,16,128",
        widths="1,2,16,512",
        couplings="all",
        scales="all",
        learning_rates="1e-3,2e-3,1e-4,1.5e-4",
        seeds=4,
    )
    trials = found.trials()
    couplings = 3 + 2  # affine couplings with three scales, the other two with none
    assert len(trials) == len(get_args(Permutation)) * 4 * 4 * couplings * 4 * 4
    assert len({found.label(values) for values in trials}) == len(trials)


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ({"permutation": "1x1", "depth": 8, "width": 128, "seed": 0}, "1x1 K8 w128 s0"),
        ({"learning_rate": 0.001, "seed": 2}, "lr0.001 s2"),
        ({"seed": 1}, "1x1 s1"),
    ],
)
def test_labels(values, label):
    assert spec().label(values) == label


def test_a_trials_workers_share_what_the_trial_gets():
    found = spec(workers_per_trial=2, gpus_per_trial=1, cpus_per_trial=3)
    trial = found.trial_spec({"seed": 0})
    assert (trial.workers, trial.gpus_per_worker, trial.cpus_per_worker) == ("2", 0.5, 1.5)
    trial = spec(workers_per_trial=2).trial_spec({"seed": 0})
    assert (trial.gpus_per_worker, trial.cpus_per_worker) == (None, None)


def test_a_spec_survives_json_and_takes_values_of_both_kinds_over_it(tmp_path):
    values = {"permutations": "all", "learning_rates": "1e-3,2e-3", "seeds": 2, "width": 7, "scheduler": "asha"}
    (tmp_path / "spec.json").write_text(spec(**values).to_json())
    assert read_ablate_spec(tmp_path / "spec.json", {}) == spec(**values)
    changes = {"depths": "3,5", "epochs": 9}
    assert read_ablate_spec(tmp_path / "spec.json", changes) == spec(**values, **changes)


def test_the_spec_of_a_training_is_not_one_of_an_ablation(tmp_path):
    (tmp_path / "spec.json").write_text(make_train_spec("smoke", {}).to_json())
    with pytest.raises(SpecError) as caught:
        read_ablate_spec(tmp_path / "spec.json", {})
    assert caught.value.code == "not-a-spec"
    assert str(tmp_path / "spec.json") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [{"seed": 20240101, "seeds": 3}, {"learning_rates": "0.001,0.0010000001"}])
def test_labels_differ_where_numbers_differ_in_their_last_digits(values):
    spec = make_ablate_spec("smoke", values)
    assert len({spec.label(trial) for trial in spec.trials()}) == spec.number_of_trials
