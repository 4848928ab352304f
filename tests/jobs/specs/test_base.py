"""What all specs share: flags with help, lists, and how a value that is not allowed is named."""

import pytest

from glowctl.errors import SpecError
from glowctl.specs.ablation import AblateSpec, make_ablate_spec
from glowctl.specs.base import flag_of, help_of, theme_of, validated
from glowctl.specs.evaluation import InterpolateSpec, OodSpec, SampleSpec
from glowctl.specs.request import EVALUATIONS, SPECS, PackSpec
from glowctl.specs.training import TrainSpec, make_train_spec


@pytest.mark.parametrize("spec", SPECS.values())
def test_every_setting_has_a_theme_a_sentence_of_help_and_an_example(spec):
    for name, field in spec.model_fields.items():
        if name != "train":
            assert theme_of(spec, name), name
            assert help_of(spec, name).endswith("."), name
            assert field.examples, name


def test_settings_of_several_evaluations_that_share_a_name_share_their_flag():
    flags: dict[str, set[tuple[str, str]]] = {}
    for spec in EVALUATIONS.values():
        assert validated(spec, {}) == validated(spec, validated(spec, {}).model_dump())
        for name in spec.model_fields:
            flags.setdefault(name, set()).add((flag_of(spec, name), help_of(spec, name)))
    assert {name for name, different in flags.items() if len(different) > 1} == set()


def test_lists_are_taken_apart_at_commas():
    assert validated(OodSpec, {"batch_sizes": "2,5, 10,5"}).batch_sizes == (2, 5, 10)
    assert validated(OodSpec, {"ood_datasets": "noise,svhn"}).ood_datasets == ("noise", "svhn")
    assert validated(TrainSpec, {"leave_out": " ,"}).leave_out is None
    assert validated(SampleSpec, {"temperatures": "0,0.5"}).all_temperatures == (0.0, 0.5)
    assert validated(SampleSpec, {"temperature": 0.9}).all_temperatures == (0.9,)
    assert validated(SampleSpec, {"grid": "4x8"}).rows_and_columns == (4, 8)


def make(spec, values):
    """Return a spec as its command makes it."""
    if spec is AblateSpec:
        return make_ablate_spec("smoke", values)
    return make_train_spec("laptop", values) if spec is TrainSpec else validated(spec, values)


REFUSED = [
    (TrainSpec, {"depth": 0}, ["--depth", "at least 1", "0"]),  # of GlowConfig
    (TrainSpec, {"levels": 10**12}, ["--levels", "at most 12", str(10**12)]),
    (TrainSpec, {"permutation": "swap"}, ["--permutation", "'1x1'", "'shuffle'", "'reverse'", "'swap'"]),
    (TrainSpec, {"learning_rate": -1}, ["--learning-rate", "above 0", "-1"]),  # of FitConfig
    (TrainSpec, {"clip_norm": -1}, ["--clip-norm", "at least 0", "-1"]),
    (TrainSpec, {"ema": 2}, ["--ema", "below 1", "2"]),
    (TrainSpec, {"workers": "4:2"}, ["--workers", "MIN", "MAX", "4:2"]),
    (TrainSpec, {"workers": "many"}, ["--workers", "2:8", "'many'"]),
    (TrainSpec, {"workers": "0"}, ["--workers", "'0'"]),
    (TrainSpec, {"batch_size": 2, "workers": "3"}, ["--batch-size 2", "--workers 3", "at least 3"]),
    (TrainSpec, {"compile": True, "memory": "reversible"}, ["--compile", "--memory reversible", "leave out"]),
    (TrainSpec, {"gpus_per_worker": 1.5}, ["--gpus-per-worker", "fraction below 1", "1.5"]),
    (TrainSpec, {"seed": 10**20}, ["--seed", str(2**31 - 1), str(10**20)]),
    (TrainSpec, {"temperature": float("nan")}, ["--temperature", "finite", "nan"]),
    (TrainSpec, {"checkpoint_every": 0}, ["--checkpoint-every", "500steps", "10m", "'0'"]),
    (TrainSpec, {"epochs": "ten"}, ["--epochs", "whole number", "'ten'"]),
    (TrainSpec, {"run_name": " "}, ["--run-name", "empty"]),
    (TrainSpec, {"depth": "x", "width": None}, ["--depth", "'x'", "; ", "--width", "None"]),
    (AblateSpec, {"permutations": "1x1,swap"}, ["--permutations", "'1x1'", "'shuffle'", "'reverse'", "'swap'"]),
    (AblateSpec, {"depths": []}, ["--depths", "at least one"]),
    (AblateSpec, {"depths": "8,deep"}, ["--depths", "whole number", "'deep'"]),
    (AblateSpec, {"widths": "1.5"}, ["--widths", "whole number", "'1.5'"]),
    (AblateSpec, {"learning_rates": "1e-3,-1"}, ["--learning-rates", "above 0", "-1"]),
    (AblateSpec, {"seeds": 3, "seed": 2**31 - 2}, ["--seed ", str(2**31 - 3), str(2**31 - 2), "--seeds 3"]),
    (AblateSpec, {"samples": 3, "depths": "1,2,3"}, ["--samples 3", "--search grid", "--search random"]),
    (AblateSpec, {"search": "optuna", "depths": "1,2"}, ["--search optuna", "--samples", "from 1 to 2"]),
    (AblateSpec, {"search": "random", "depths": "1,2", "samples": 3}, ["--samples", "from 1 to 2", "not 3"]),
    (AblateSpec, {"search": "optuna", "depths": "1", "samples": 1}, ["--search optuna", "one configuration"]),
    (AblateSpec, {"gpus_per_trial": 3, "workers_per_trial": 2}, ["--gpus-per-trial", "fraction below 1", "1.5"]),
    (AblateSpec, {"batch_size": 2, "workers_per_trial": 3}, ["--batch-size 2", "--workers-per-trial 3", "at least 3"]),
    (OodSpec, {"alpha": 1.0}, ["--alpha", "below 1", "1.0"]),
    (OodSpec, {"batch_sizes": ","}, ["--batch-sizes", "at least one"]),
    (OodSpec, {"corruptions": "fog"}, ["--corruptions", "blur", "'fog'"]),
    (OodSpec, {"background": "red"}, ["--background", "white", "R,G,B", "'red'"]),
    (SampleSpec, {"grid": "0x10"}, ["--grid", "from 1 to 999", "'0x10'"]),
    (InterpolateSpec, {"from_image": "A.png"}, ["--from", "add --to"]),
    (InterpolateSpec, {"to_image": "A.png"}, ["--to", "add --from"]),
    (PackSpec, {"source": "a", "dest": "b", "shard_size": 0}, ["--shard-size", "at least 1", "0"]),
]


@pytest.mark.parametrize(("spec", "values", "facts"), REFUSED)
def test_a_setting_that_is_not_allowed_is_named_by_its_flag(spec, values, facts):
    with pytest.raises(SpecError) as error:
        make(spec, values)
    said = str(error.value)
    assert error.value.code == "setting-not-allowed"
    assert [fact for fact in facts if fact not in said] == []
    assert said.startswith("--")
    assert "\n" not in said


def test_the_wrong_value_of_a_nested_setting_is_named():
    """Where a request arrives as JSON, the training's settings are checked together with the ablation's."""
    with pytest.raises(SpecError) as caught:
        validated(AblateSpec, {"train": {"depth": 0}})
    assert str(caught.value).startswith("depth ")
    assert "train" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "values", "facts", "remedy"),
    [
        (TrainSpec, {"colour": "red"}, ["'colour'"], "remove it"),
        (AblateSpec, {"colour": "red", "size": 3}, ["'colour'", "'size'"], "remove them"),
        (PackSpec, {"source": "digits"}, ["--dest"], "add it"),
    ],
)
def test_a_setting_that_is_unknown_or_missing_is_named(spec, values, facts, remedy):
    with pytest.raises(SpecError) as caught:
        make(spec, values)
    assert caught.value.code == ("setting-not-allowed" if spec is PackSpec else "unknown-setting")
    assert [fact for fact in facts if fact not in str(caught.value)] == []
    assert caught.value.remedy == remedy


def test_the_help_of_bootstraps_has_the_least_number_of_choices():
    """`test_choices_are_as_many_as_bootstraps_and_enough_for_alpha` (tests/glow/test_p_value.py) tests the number."""
    assert "at least 10 / (1 - alpha)" in help_of(OodSpec, "bootstraps")
