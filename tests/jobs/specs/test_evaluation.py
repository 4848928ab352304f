"""The settings of evaluations: lists, flags, help, and what is refused."""

import pytest

from jobs.errors import SpecError
from jobs.specs.base import flag_of, theme_of, validated
from jobs.specs.evaluation import InterpolateSpec, NllSpec, OodSpec, SampleSpec
from jobs.specs.packing import PackSpec
from jobs.specs.request import EVALUATIONS


def test_lists_are_taken_apart_at_commas():
    assert validated(OodSpec, {"batch_sizes": "2,5, 10,5"}).batch_sizes == (2, 5, 10)
    assert validated(OodSpec, {"ood_datasets": "noise,svhn"}).ood_datasets == ("noise", "svhn")
    assert validated(NllSpec, {"datasets": "mnist"}).datasets == ("mnist",)
    assert validated(SampleSpec, {"temperatures": "0,0.5"}).all_temperatures == (0.0, 0.5)
    assert validated(SampleSpec, {"temperature": 0.9}).all_temperatures == (0.9,)
    assert validated(SampleSpec, {"grid": "4x8"}).rows_and_columns == (4, 8)


@pytest.mark.parametrize("spec", EVALUATIONS.values())
def test_every_setting_has_a_theme_a_description_and_an_example(spec):
    for name, field in spec.model_fields.items():
        assert theme_of(spec, name)
        assert field.description is not None
        assert field.description.endswith(".")
        assert field.examples
        assert validated(spec, {}) == validated(spec, validated(spec, {}).model_dump())


def test_the_help_of_bootstraps_has_the_least_number_of_choices():
    """`test_choices_are_as_many_as_bootstraps_and_enough_for_alpha` (tests/glow/test_p_value.py) tests the number."""
    assert "at least 10 / (1 - alpha)" in str(OodSpec.model_fields["bootstraps"].description)


def test_settings_of_several_jobs_that_share_a_name_share_their_flag():
    flags: dict[str, tuple[str, str | None]] = {}
    for spec in EVALUATIONS.values():
        for name, field in spec.model_fields.items():
            assert flags.setdefault(name, (flag_of(spec, name), field.description)) == (
                flag_of(spec, name),
                field.description,
            )


@pytest.mark.parametrize(
    ("spec", "values", "facts"),
    [
        (OodSpec, {"alpha": 1.0}, ["--alpha", "below 1", "1.0"]),
        (OodSpec, {"alpha": 0.0}, ["--alpha", "above 0", "0.0"]),
        (OodSpec, {"batch_sizes": "2,x"}, ["--batch-sizes", "2,5,10", "'2,x'"]),
        (OodSpec, {"batch_sizes": ","}, ["--batch-sizes", "2,5,10", "','"]),
        (OodSpec, {"batch_sizes": "0,2"}, ["--batch-sizes", "at least 1", "0"]),
        (OodSpec, {"bootstraps": 0}, ["--bootstraps", "at least 1", "0"]),
        (OodSpec, {"repeats": 0}, ["--repeats", "at least 1", "0"]),
        (OodSpec, {"ood_datasets": " ,"}, ["--ood-datasets", "' ,'"]),
        (OodSpec, {"protocol": "paper"}, ["--protocol", "'held-out'", "'split-test'", "'paper'"]),
        (OodSpec, {"workers": 0}, ["--workers", "at least 1", "0"]),
        (OodSpec, {"gpus_per_worker": 1.5}, ["--gpus-per-worker", "fraction below 1", "1.5"]),
        (OodSpec, {"corruptions": "fog"}, ["--corruptions", "all", "blur", "'fog'"]),
        (OodSpec, {"background": "red"}, ["--background", "white", "R,G,B", "'red'"]),
        (NllSpec, {"split": "all"}, ["--split", "'validation'", "'all'"]),
        (NllSpec, {"seed": -1}, ["--seed", str(2**31 - 1), "-1"]),
        (NllSpec, {"noise_samples": 0}, ["--noise-samples", "from 1 to 1000", "0"]),
        (SampleSpec, {"grid": "10"}, ["--grid", "ROWSxCOLUMNS", "'10'"]),
        (SampleSpec, {"grid": "0x10"}, ["--grid", "from 1 to 999", "'0x10'"]),
        (SampleSpec, {"temperature": -1.0}, ["--temperature ", "at least 0", "-1.0"]),
        (SampleSpec, {"temperatures": "-1,0"}, ["--temperatures ", "at least 0", "-1.0"]),
        (SampleSpec, {"temperatures": "hot"}, ["--temperatures", "0,0.5,0.7", "'hot'"]),
        (SampleSpec, {"model": " "}, ["--model", "empty"]),
        (InterpolateSpec, {"from_image": "A.png"}, ["--from", "add --to"]),
        (InterpolateSpec, {"to_image": "A.png"}, ["--to", "add --from"]),
        (InterpolateSpec, {"steps": 1}, ["--steps", "at least 2", "1"]),
        (InterpolateSpec, {"pairs_per_class": 0}, ["--pairs-per-class", "at least 1", "0"]),
        (PackSpec, {"source": "a", "dest": "b", "shard_size": 0}, ["--shard-size", "at least 1", "0"]),
    ],
)
def test_a_setting_that_is_not_allowed_is_named_by_its_flag(spec, values, facts):
    with pytest.raises(SpecError) as error:
        validated(spec, values)
    said = str(error.value)
    assert error.value.code == "setting-not-allowed"
    assert [fact for fact in facts if fact not in said] == []
    assert said.startswith("--")
    assert "\n" not in said
