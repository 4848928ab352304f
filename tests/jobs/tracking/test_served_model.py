"""A saved model as MLflow loads it from a folder, without a store."""

import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from glow import score
from tests.jobs.command_line import check_quiet, environment
from tests.jobs.served import NOISE_SEED, ROOT, every_bad, load


@pytest.mark.parametrize("m", [1, 2, 10])
@pytest.mark.parametrize("params", [{}, {"alpha": 0.9, "bootstraps": 500, "seed": 4, "first_index": 7}])
def test_predictions_are_those_of_the_library(served, trained_glow, m, params):
    found = served.predict(trained_glow.images[:m], params=params)
    assert found == trained_glow.expected(trained_glow.images[:m], **params)


def test_images_are_scored_by_their_position(served, trained_glow):
    """A part of a test set gets the scores of one pass over the whole set, as in `glowctl ood`."""
    whole = score(trained_glow.model, trained_glow.test, seed=NOISE_SEED)["nll"].to_numpy()
    part = served.predict(trained_glow.test[100:105].numpy(), params={"first_index": 100})["nll"]
    assert part == pytest.approx(whole[100:105], rel=1e-6)
    assert part != pytest.approx(served.predict(trained_glow.test[100:105].numpy())["nll"], rel=1e-6)


@pytest.mark.parametrize(
    "form", [np.uint8, np.int64, np.int16, np.float32, np.float64, object, "no channels", "read-only", "strided"]
)
def test_the_same_numbers_in_any_form_give_the_same(served, trained_glow, form):
    images = trained_glow.images[:3]
    forms = {
        "no channels": lambda: images[:, 0],
        "read-only": lambda: np.frombuffer(images.tobytes(), np.uint8).reshape(images.shape),
        "strided": lambda: np.repeat(images, 2, axis=0)[::2],
    }
    given = forms[form]() if form in forms else images.astype(form)
    assert served.predict(given) == trained_glow.expected(images)


@every_bad
def test_what_cannot_be_tested_is_one_sentence(served, given, params, facts):
    from mlflow.exceptions import MlflowException

    try:
        array = np.array(given)
    except ValueError:
        array = np.array(given, dtype=object)
    with pytest.raises(MlflowException) as refusal:
        served.predict(array, params=params)
    for fact in facts:
        assert fact in refusal.value.message
    assert refusal.value.get_http_status_code() == 400


def test_a_request_cannot_take_all_memory(trained_glow, tmp_path):
    small = trained_glow.calibration
    many = small.held_out.sample(5000, replace=True, random_state=0).reset_index(drop=True)
    try:
        trained_glow.calibration = replace(small, held_out=many)
        model = load(trained_glow.save(tmp_path / "model"))
    finally:
        trained_glow.calibration = small
    images = np.resize(trained_glow.images, (2500, 1, 8, 8))
    with pytest.raises(Exception, match=r"bootstraps\D+8000"):
        model.predict(images)
    assert model.predict(images, params={"bootstraps": 100})["batch_size"] == 2500


def test_what_is_not_finite_is_null_and_ood(trained_glow, saved_model, tmp_path):
    broken = shutil.copytree(saved_model, tmp_path / "model") / "artifacts" / "checkpoint" / "model.safetensors"
    save_file(
        {
            name: tensor * torch.nan if tensor.is_floating_point() else tensor
            for name, tensor in load_file(broken).items()
        },
        broken,
    )
    model = load(tmp_path / "model")
    for m in (1, 2):
        found = model.predict(trained_glow.images[:m])
        assert found["nll"] == found["bits_per_dim"] == [None] * m
        assert found["distance"] is None
        assert found["is_ood"] is True
        smallest = 1 / ((len(trained_glow.calibration.held_out) if m == 1 else 10_000) + 1)
        assert found["p_value"] == (smallest if m == 1 else pytest.approx(smallest, abs=5 * smallest))
        json.dumps(found, allow_nan=False)


def test_many_at_once_get_their_own_answers(served, trained_glow):
    expected = {m: trained_glow.expected(trained_glow.images[:m], 0.95, 300) for m in range(1, 9)}
    found = {}

    def ask(m):
        found[m] = served.predict(trained_glow.images[:m], params={"alpha": 0.95, "bootstraps": 300})

    threads = [threading.Thread(target=ask, args=(m,)) for m in expected for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_nothing_is_pickled_and_nothing_names_this_machine(saved_model, trained_glow, tmp_path_factory):
    files = {str(path.relative_to(saved_model)): path for path in saved_model.rglob("*") if path.is_file()}
    kinds = {path.suffix for path in files.values()}
    assert kinds == {"", ".py", ".typed", ".json", ".yaml", ".txt", ".safetensors"}
    assert "code/glow/model.py" in files
    assert not [name for name in files if "__pycache__" in name or name.startswith("code/jobs")]
    here = [str(ROOT), str(tmp_path_factory.getbasetemp()), str(Path.home()), sys.prefix, "/tmp"]
    for name, path in files.items():
        text = path.read_bytes()
        assert not text.startswith((b"\x80", b"PK")), f"{name} looks pickled"
        if not name.startswith("code/"):
            assert [place for place in here if place.encode() in text] == [], name


def test_requirements_are_pinned_and_can_be_had_by_others(saved_model):
    lines = (saved_model / "requirements.txt").read_text().split()
    assert all("==" in line and "+" not in line for line in lines)
    assert {"mlflow", "torch", "safetensors", "pillow"} <= {line.split("==")[0] for line in lines}
    assert not [line for line in lines if line.startswith(("ray", "glowctl"))]


def test_the_signature_says_the_defaults_of_the_model(served):
    declared = {param.name: param.default for param in served.metadata.signature.params}
    assert declared == sys.modules[type(served.unwrap_python_model()).__module__].DEFAULTS
    assert served.metadata.metadata == {"glow.dataset": "digits", "image_shape": [1, 8, 8]}
    assert served.predict(served.input_example)["batch_size"] == 2


@pytest.mark.slow
def test_saving_is_quiet(trained_glow, tmp_path):
    """With `--json`, stdout must hold nothing else; and in these tests, warnings of other packages are errors."""
    np.savez(tmp_path / "images.npz", images=trained_glow.images)
    trained_glow.calibration.save(tmp_path / "scores.safetensors")
    script = f"""
import os, time, warnings
import numpy as np, torch
from pathlib import Path
from glow.ood import Calibration
from glowctl.tracking.models import save_model
calibration, images = Calibration.load("scores.safetensors"), np.load("images.npz")["images"]
checkpoint = Path({str(trained_glow.checkpoint)!r})
warnings.simplefilter("error")
save_model(Path("model"), checkpoint, calibration, images, {{}})
assert "MLFLOW_TRACKING_URI" not in os.environ
assert sorted(os.listdir()) == [
    "images.npz", "model", "pyproject.toml", "scores.safetensors", "uv.lock"
], os.listdir()
"""
    # These files belong to a project of the user, and must not become part of the model.
    (tmp_path / "uv.lock").write_text("version = 1\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "theirs"\nversion = "1"\n')
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    check_quiet(done)
    assert done.stdout == ""
    assert not (tmp_path / "model" / "uv.lock").exists()
    assert not (tmp_path / "model" / "pyproject.toml").exists()
