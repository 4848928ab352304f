import pytest

from jobs.errors import SpecError
from jobs.specs.base import flag_of, theme_of, validated
from jobs.specs.evaluation import InterpolateSpec, NllSpec, OodSpec, SampleSpec
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


def test_settings_of_several_jobs_that_share_a_name_share_their_flag():
    flags = {}
    for spec in EVALUATIONS.values():
        for name, field in spec.model_fields.items():
            assert flags.setdefault(name, (flag_of(spec, name), field.description)) == (
                flag_of(spec, name),
                field.description,
            )


@pytest.mark.parametrize(
    ("spec", "values", "message"),
    [
        (OodSpec, {"alpha": 1.0}, "alpha must be between 0 and 1"),
        (OodSpec, {"alpha": 0.0}, "alpha must be between 0 and 1"),
        (OodSpec, {"batch_sizes": "2,x"}, "whole numbers such as 2,5,10"),
        (OodSpec, {"batch_sizes": ","}, "whole numbers such as 2,5,10"),
        (OodSpec, {"batch_sizes": "0,2"}, "batch_sizes must be at least 1, not 0"),
        (OodSpec, {"bootstraps": 0}, "bootstraps must be at least 1, not 0"),
        (OodSpec, {"repeats": 0}, "repeats must be at least 1, not 0"),
        (OodSpec, {"ood_datasets": " ,"}, "names no data set"),
        (OodSpec, {"protocol": "paper"}, "protocol: input should be 'held-out' or 'report'"),
        (OodSpec, {"workers": 0}, "workers must be at least 1, not 0"),
        (OodSpec, {"gpus_per_worker": 1.5}, "gpus_per_worker is a whole number or a fraction"),
        (NllSpec, {"split": "all"}, "split: input should be"),
        (NllSpec, {"seed": -1}, "seed must be between 0"),
        (SampleSpec, {"grid": "10"}, "ROWSxCOLUMNS such as 10x10"),
        (SampleSpec, {"grid": "0x10"}, "ROWSxCOLUMNS such as 10x10"),
        (SampleSpec, {"temperature": -1.0}, "temperature must be at least 0"),
        (SampleSpec, {"temperatures": "hot"}, "numbers such as 0,0.5,0.7"),
        (SampleSpec, {"model": " "}, "model must not be empty"),
        (InterpolateSpec, {"from_image": "A.png"}, "--from and --to"),
        (InterpolateSpec, {"steps": 1}, "at least 2, not 1"),
        (InterpolateSpec, {"pairs_per_class": 0}, "pairs_per_class must be at least 1"),
    ],
)
def test_what_cannot_be_is_one_sentence(spec, values, message):
    with pytest.raises(SpecError) as error:
        validated(spec, values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
