"""Checkpoints in a bucket, which are uploaded while the training continues. The bucket is a stand-in for S3."""

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.jobs.command_line import Running, check_quiet, glowctl, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMOKE = ("train", "--preset", "smoke", "--epochs", "6", "--sample-every", "0", "--json")


def checkpoints(bucket):
    keys = bucket.keys()
    return {key.split("/")[2] for key in keys if "/checkpoint_" in key and key.endswith("model.safetensors")}


def test_a_training_that_was_killed_goes_on_from_a_bucket_and_ends_as_in_a_folder(bucket, tmp_path):
    running = Running(tmp_path, *SMOKE, "--checkpoint-every", "5steps", "--output", bucket.uri("runs"))
    wait_until(lambda: len(checkpoints(bucket)) >= 2)
    running.process.kill()
    running.wait()
    keys = bucket.keys()
    [run_id] = {key.split("/")[1] for key in keys if key.startswith("runs/")}
    check_quiet(glowctl(tmp_path, "train", "--resume", run_id))
    assert len(checkpoints(bucket)) <= 2  # the last and the best
    local = tmp_path / "local"
    local.mkdir()
    check_quiet(glowctl(local, *SMOKE, "--checkpoint-every", "5steps"))
    [there] = tmp_path.glob("mlartifacts/**/model.safetensors")  # with a bucket, results are kept as artifacts alone
    [here] = local.glob("outputs/*/results/checkpoint/model.safetensors")
    found, expected = load_file(there), load_file(here)
    assert all(np.array_equal(found[name].numpy(), expected[name].numpy()) for name in expected)
