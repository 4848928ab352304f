"""The whole way of a model of logits, learned noise and splines: train, kill, resume, register, serve and score."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file

from glow import load_checkpoint, load_dataset, score
from glowctl.tracking.registry import registered_versions
from tests.jobs.command_line import Running, alive, check_quiet, glowctl, wait_until
from tests.jobs.served import default_store, load
from tests.jobs.training.test_train import SMOKE, best_weights, record_of, results, run_id_of

LAYERS = {"input": "logit", "dequantization": "variational", "coupling": "spline"}
"""Settings of the model; the first two are those of the default preset."""


@pytest.mark.nightly
@pytest.mark.ray
def test_a_model_of_logits_learned_noise_and_splines_is_resumed_served_and_scored(tmp_path):
    flags = [part for name, value in LAYERS.items() for part in (f"--{name}", value)]
    long = ("--per-class", "16", "--epochs", "6", "--checkpoint-every", "3", "--sample-every", "3")
    running = Running(tmp_path, *SMOKE, *flags, *long)
    running.wait_for("epoch 4/6")
    family = running.family()
    running.process.kill()
    running.wait()
    wait_until(lambda: not alive(family), timeout=60)
    run_id = run_id_of(running.lines())
    resumed = glowctl(tmp_path, "train", "--resume", run_id)
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch 3/6" not in resumed.stdout

    checkpoint = results(tmp_path, run_id) / "checkpoint"
    weights = load_file(checkpoint / "model.safetensors")
    expected = best_weights({**LAYERS, "per_class": 16, "epochs": 6, "checkpoint_every": 3})
    assert weights.keys() == expected.keys()
    assert all(np.array_equal(weights[name], expected[name]) for name in expected)
    run = record_of(tmp_path, run_id)
    assert run.data.metrics["restarts"] == 1
    assert run.data.metrics["inverse_error"] < 0.5  # of a grey level
    assert run.data.metrics["non_finite_samples"] == 0

    images, labels = load_dataset("digits", "test")
    model = load_checkpoint(checkpoint)
    assert {name: getattr(model.config, name) for name in LAYERS} == LAYERS
    of_library = score(model, images, labels)
    done = glowctl(tmp_path, "nll", "--json")
    check_quiet(done)
    (row,) = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert row["bits_per_dim"] == pytest.approx(of_library["bits_per_dim"].mean(), rel=1e-5)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (version,) = registered_versions(uri)
    with default_store(uri):
        answer = load(version.uri).predict(images[:10].numpy(), params={"bootstraps": 100})
    # float32 may round differently with another number of images in a batch
    np.testing.assert_allclose(answer["nll"], of_library["nll"][:10], rtol=1e-5)
