import json

import pytest

from glow.config import FitConfig, GlowConfig
from jobs.commands.spec_files import read_spec
from jobs.errors import SpecError
from jobs.specs.presets import PRESETS, make_train_spec
from jobs.specs.training import TrainSpec, worker_range


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_spec_that_survives_json(preset, tmp_path):
    spec = make_train_spec(preset, {})
    (tmp_path / "spec.json").write_text(spec.to_json())
    assert read_spec(TrainSpec, tmp_path / "spec.json", {}) == spec


def test_the_paper_preset_is_the_reports_configuration():
    spec = make_train_spec("paper", {})
    assert (spec.dataset, spec.per_class) == ("mnist", 4000)
    assert (spec.levels, spec.depth, spec.width, spec.coupling, spec.scale) == (3, 32, 512, "affine", "sigmoid")
    assert (spec.input, spec.dequantization, spec.permutation, spec.bits) == ("linear", "uniform", "1x1", 8)
    assert (spec.optimizer, spec.learning_rate, spec.batch_size, spec.epochs) == ("adam", 1e-4, 128, 70)
    assert (spec.schedule, spec.warmup_steps, spec.clip_norm, spec.ema) == ("constant", 0, None, None)


def test_a_presets_subset_is_of_its_own_data_set():
    assert make_train_spec("laptop", {}).per_class == 4000
    assert make_train_spec("laptop", {"dataset": "mnist"}).per_class == 4000
    assert make_train_spec("laptop", {"dataset": "digits"}).per_class is None
    assert make_train_spec("laptop", {"dataset": "digits", "per_class": 9}).per_class == 9


def test_a_spec_of_an_older_version_keeps_the_model_that_it_meant(tmp_path):
    """It names none of the settings that came later, of which a preset may have others than it had."""
    older = json.loads(make_train_spec("paper", {}).to_json())
    for name in ("input", "dequantization"):
        del older[name]
    (tmp_path / "spec.json").write_text(json.dumps(older))
    assert read_spec(TrainSpec, tmp_path / "spec.json", {}) == make_train_spec("paper", {})


def test_values_override_the_preset():
    assert make_train_spec("smoke", {"depth": 5}).depth == 5


def test_every_optimisation_setting_of_the_library_can_be_set():
    assert set(FitConfig.__dataclass_fields__) <= set(TrainSpec.model_fields)


def test_every_setting_of_a_model_reaches_it():
    values = {"permutation": "shuffle", "depth": 3, "levels": 2, "width": 24, "coupling": "additive", "bits": 5}
    spec = make_train_spec("smoke", {**values, "scale": "bounded", "class_conditional": True, "seed": 7})
    expected = GlowConfig((1, 8, 8), **values, scale="bounded", num_classes=10, seed=7)
    assert spec.glow_config((1, 8, 8), 10) == expected
    assert make_train_spec("smoke", {}).glow_config((1, 8, 8), 10).bits == 8


def test_every_setting_has_a_theme_a_description_and_an_example():
    for name, field in TrainSpec.model_fields.items():
        assert field.json_schema_extra["theme"] in ("Data", "Model", "Optimisation", "Compute", "Record"), name
        assert field.description, name
        assert field.examples, name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depth": 0}, "depth must be at least 1, not 0"),
        ({"levels": 0}, "levels must be at least 1"),
        ({"permutation": "swap"}, "permutation: input should be '1x1', 'shuffle' or 'reverse', not 'swap'"),
        ({"learning_rate": -1}, "learning_rate must be above 0"),
        ({"workers": "4:2"}, "first number must not be above the second"),
        ({"workers": "many"}, "workers is a number such as 4"),
        ({"workers": "0"}, "workers is a number"),
        ({"batch_size": 2, "workers": "3"}, "cannot be shared by 3 workers"),
        ({"per_class": -1}, "per_class must be above 0"),
        ({"gpus_per_worker": -1}, "gpus_per_worker is a whole number or a fraction below 1"),
        ({"gpus_per_worker": 1.5}, "gpus_per_worker is a whole number or a fraction below 1"),
        ({"seed": 10**20}, "seed must be between"),
        ({"temperature": float("nan")}, "temperature must be at least 0"),
        ({"temperature": -0.1}, "temperature must be at least 0"),
        ({"checkpoint_every": 0}, "checkpoint_every is a number of epochs such as 2, of steps as 500steps"),
        ({"epochs": "ten"}, "epochs: input should be a valid integer"),
        ({"bits": 9}, "bits must be a whole number from 1 to 8, not 9"),
        ({"colour": "red"}, "there is no setting called colour"),
        ({"run_name": " "}, "run_name must not be empty"),
    ],
)
def test_what_cannot_be_is_one_sentence(values, message):
    with pytest.raises(SpecError, match=message) as caught:
        make_train_spec("laptop", values)
    assert "\n" not in str(caught.value)


def test_files_that_hold_no_spec_are_named(tmp_path):
    with pytest.raises(SpecError, match="cannot read the spec"):
        read_spec(TrainSpec, tmp_path / "none.json", {})
    for text, message in (("{", "is not JSON"), ("[1]", "holds no settings"), (json.dumps({"a": 1}), "called a")):
        (tmp_path / "spec.json").write_text(text)
        with pytest.raises(SpecError, match=message):
            read_spec(TrainSpec, tmp_path / "spec.json", {})


def test_an_unknown_preset_is_answered_with_the_valid_ones():
    with pytest.raises(SpecError, match="paper, laptop, best, smoke"):
        make_train_spec("desktop", {})


def test_zero_unsets():
    spec = make_train_spec("laptop", {"per_class": 0, "clip_norm": 0, "ema": 0})
    assert (spec.per_class, spec.clip_norm, spec.ema) == (None, None, None)


def test_worker_ranges():
    assert worker_range("3") == (3, 3)
    assert worker_range("2:8") == (2, 8)
    assert make_train_spec("smoke", {"workers": 2}).workers == "2"
