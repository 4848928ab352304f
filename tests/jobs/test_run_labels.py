"""The names of runs and models, and the descriptions of runs."""

import pytest

from glowctl.run_labels import (
    REST,
    ablation_description,
    ablation_name,
    evaluation_name,
    registered_name,
    training_description,
    training_name,
    varied,
)
from glowctl.specs.ablation import make_ablate_spec
from glowctl.specs.training import make_train_spec

RUN_ID = "abc"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "train mnist 1x1 K8 L3 w32 variational logit residual cb2 s0"),
        ({"permutation": "reverse", "seed": 3}, "train mnist reverse K8 L3 w32 variational logit residual cb2 s3"),
        ({"coupling": "additive"}, "train mnist 1x1 K8 L3 w32 additive variational logit residual cb2 s0"),
        ({"scale": "bounded"}, "train mnist 1x1 K8 L3 w32 bounded variational logit residual cb2 s0"),
        ({"dequantization": "uniform", "input": "linear"}, "train mnist 1x1 K8 L3 w32 residual cb2 s0"),
        ({"checkerboard": 0}, "train mnist 1x1 K8 L3 w32 variational logit residual s0"),
        ({"network": "plain", "width": 64}, "train mnist 1x1 K8 L3 w64 variational logit cb2 s0"),
        ({"bits": 5}, "train mnist 1x1 K8 L3 w32 variational logit residual cb2 5-bit s0"),
        (
            {"dataset": "folder:/data/my images"},
            "train folder-my_images 1x1 K8 L3 w32 variational logit residual cb2 s0",
        ),
        ({"run_name": "mine"}, "mine"),
    ],
)
def test_a_training_is_called_by_its_data_and_its_model(settings, name):
    assert training_name(make_train_spec("laptop", settings)) == name


def test_no_two_trials_of_an_ablation_have_one_name():
    axes = {"permutations": "all", "depths": "2,4", "couplings": "all", "scales": "all", "learning_rates": "1e-3,2e-3"}
    spec = make_ablate_spec("laptop", {**axes, "seeds": 2})
    assert ablation_name(spec) == "ablate mnist permutation depth coupling scale learning_rate"
    names = [training_name(spec.trial_spec(values), varied(spec)) for values in spec.trials()]
    assert len(set(names)) == len(names) == spec.number_of_trials
    assert "train mnist 1x1 K2 L3 w32 affine sigmoid variational logit residual cb2 lr0.001 s0" in names


def test_an_ablation_of_seeds_and_an_evaluation():
    assert ablation_name(make_ablate_spec("laptop", {})) == "ablate mnist seeds"
    assert evaluation_name("ood", "mnist 1x1 K8 L3 w128 s0") == "ood mnist 1x1 K8 L3 w128 s0"
    assert registered_name("fashion-mnist") == "glow-fashion-mnist"
    assert registered_name("fashion-mnist", 5) == "glow-fashion-mnist-5bit"  # or it would be champion of all


def test_a_description_says_what_the_run_is_and_how_to_repeat_it():
    text = training_description(make_train_spec("laptop", {}), RUN_ID)
    facts = ["mnist", "1x1", "K = 8", "L = 3", "width 32", "affine", "residual networks"]
    assert [fact for fact in facts if fact not in text] == []
    assert text.endswith("`glowctl train --spec runs:/abc/spec.json`")
    assert "Result" not in text  # there is none yet
    assert "at 5 bits" in training_description(make_train_spec("laptop", {"bits": 5}), RUN_ID)
    spec = make_ablate_spec("laptop", {"permutations": "1x1,reverse", "seeds": 2})
    text = ablation_description(spec, RUN_ID, "4 of 4 trials finished", "a table")
    what, result, again, details = text.split("\n\n")
    assert "1x1, reverse" in what
    assert "2 seeds" in what
    assert result == "**Result:** 4 of 4 trials finished"
    assert details == "a table"
    assert again.endswith("`glowctl ablate --spec runs:/abc/spec.json`")


@pytest.mark.parametrize("rows", [1, 147, 148, 1000])
def test_a_long_description_is_cut_between_two_lines(rows):
    table = [f"| row {number:4} | {'x' * 37} |" for number in range(rows)]
    spec = make_ablate_spec("laptop", {"permutations": "1x1,reverse"})
    text = ablation_description(spec, RUN_ID, "all finished", "\n".join(table))
    assert len(text) <= 8000  # MLflow cuts off what is longer
    assert "`glowctl ablate --spec runs:/abc/spec.json`" in text
    shown = [line for line in text.splitlines() if line.startswith("|")]
    assert shown == table[: len(shown)]
    is_cut = len(shown) < rows
    assert text.endswith(f"\n\n{REST}") == is_cut
    assert len(text) > 8000 - 2 * len(table[0]) or not is_cut
