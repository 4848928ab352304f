"""Checkpoints in a bucket, which are uploaded while the training continues. The bucket is a stand-in for S3."""

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.jobs.command_line import Running, check_quiet, glowctl, wait_until
from tests.jobs.training.test_train import best_weights

pytestmark = [pytest.mark.ray, pytest.mark.nightly]

SMOKE = ("train", "--preset", "smoke", "--epochs", "6", "--cpus-per-worker", "1", "--sample-every", "0")


def checkpoints(bucket):
    keys = bucket.keys()
    return {key.split("/")[3] for key in keys if "/checkpoint_" in key and key.endswith("model.safetensors")}


def test_a_training_that_was_killed_goes_on_from_a_bucket_and_ends_as_without_a_kill(bucket, tmp_path):
    running = Running(tmp_path, *SMOKE, "--checkpoint-every", "5steps", "--output", bucket.uri("runs"))
    wait_until(lambda: len(checkpoints(bucket)) >= 2)
    running.process.kill()
    running.wait()
    keys = bucket.keys()
    [run_id] = {key.split("/")[1] for key in keys if key.startswith("runs/")}
    check_quiet(glowctl(tmp_path, "train", "--resume", run_id))
    assert len(checkpoints(bucket)) == 1
    [weights] = tmp_path.glob("mlartifacts/**/model.safetensors")  # with a bucket, results are kept as artifacts alone
    found, expected = load_file(weights), best_weights({"epochs": 6})
    assert all(np.array_equal(found[name].numpy(), expected[name]) for name in expected)
