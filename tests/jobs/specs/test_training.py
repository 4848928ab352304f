"""The settings of trainings: presets, files, overrides, and what is refused."""

import json
from typing import Any

import pytest

from glow.config import FitConfig, GlowConfig
from glowctl.commands.options import read_spec
from glowctl.errors import SpecError
from glowctl.specs.training import PRESETS, TrainSpec, make_train_spec, worker_range


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
    values: dict[str, Any] = {"permutation": "shuffle", "depth": 3, "levels": 2, "width": 24, "coupling": "additive"}
    values |= {"bits": 5, "scale": "bounded", "seed": 7}
    spec = make_train_spec("smoke", {**values, "class_conditional": True})
    expected = GlowConfig((1, 8, 8), **values, num_classes=10)
    assert spec.glow_config((1, 8, 8), 10) == expected
    assert make_train_spec("smoke", {}).glow_config((1, 8, 8), 10).bits == 8


@pytest.mark.parametrize(
    ("text", "code"),
    [(None, "spec-unreadable"), ("{", "not-a-spec"), ("[1]", "not-a-spec"), ('{"a": 1}', "unknown-setting")],
)
def test_a_file_without_a_spec_is_named(tmp_path, text, code):
    path = tmp_path / "spec.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SpecError) as caught:
        read_spec(TrainSpec, path, {})
    assert caught.value.code == code
    assert str(path) in str(caught.value)
    assert caught.value.remedy


def test_a_setting_of_a_file_is_named_as_the_file_has_it_unless_a_flag_gave_it(tmp_path):
    path = tmp_path / "spec.json"
    path.write_text('{"batch_size": 0, "depth": 0}')
    for flags, start in (({}, f"{path}: batch_size "), ({"batch_size": -1}, "--batch-size ")):
        with pytest.raises(SpecError) as caught:
            read_spec(TrainSpec, path, flags)
        assert str(caught.value).startswith(start)


def test_an_unknown_preset_is_answered_with_the_valid_ones():
    with pytest.raises(SpecError) as caught:
        make_train_spec("desktop", {})
    assert caught.value.code == "unknown-preset"
    assert "--preset desktop" in str(caught.value)
    assert all(preset in caught.value.remedy for preset in PRESETS)


def test_zero_unsets():
    spec = make_train_spec("laptop", {"per_class": 0, "clip_norm": 0, "ema": 0})
    assert (spec.per_class, spec.clip_norm, spec.ema) == (None, None, None)


def test_worker_ranges():
    assert worker_range("3") == (3, 3)
    assert worker_range("2:8") == (2, 8)
    assert make_train_spec("smoke", {"workers": 2}).workers == "2"
