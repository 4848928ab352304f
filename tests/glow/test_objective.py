"""The gradients that training processes exchange, in real processes over gloo."""

import copy
from dataclasses import asdict

import pytest
import torch

from glow import FitConfig
from glow.config import GradientPrecision
from glow.distributed import rank
from glow.training.objective import BitsPerDim, make_objective
from tests.glow.flows import random_images, small_glow
from tests.glow.processes import run_in_processes
from tests.glow.test_training import fresh_trainer, train, weights


def _gradients(objective, share):
    images, noise = random_images(8)[share::2], torch.full((4, 1, 8, 8), 0.5)
    objective(images, None, noise).sum().backward()
    return [parameter.grad for parameter in objective.parameters()]


def _own_and_averaged(precision: GradientPrecision) -> dict:
    glow = small_glow()
    own = _gradients(BitsPerDim(copy.deepcopy(glow)), rank())
    config = FitConfig(gradient_precision=precision)
    return {"own": own, "averaged": _gradients(make_objective(glow, config, torch.device("cpu")), rank())}


@pytest.mark.slow
def test_gradients_in_bf16_are_those_of_the_processes_rounded_and_their_mean_rounded(tmp_path):
    """Equality to the last bit: halving is exact, and the sum over two processes is one rounded addition."""
    first, second = run_in_processes(2, _own_and_averaged, ("bf16",), tmp_path)
    for a, b, mean, same in zip(first["own"], second["own"], first["averaged"], second["averaged"], strict=True):
        assert torch.equal(mean, (a.bfloat16() / 2 + b.bfloat16() / 2).float())
        assert torch.equal(mean, same)  # otherwise the processes would drift apart
        assert mean.dtype == torch.float32


@pytest.mark.slow
def test_gradients_in_float32_are_not_rounded(tmp_path):
    first, second = run_in_processes(2, _own_and_averaged, ("float32",), tmp_path)
    for a, b, mean in zip(first["own"], second["own"], first["averaged"], strict=True):
        torch.testing.assert_close(mean, (a + b) / 2, rtol=1e-6, atol=1e-6 * float(a.abs().max() + b.abs().max()))
    assert any(not torch.equal(mean, mean.bfloat16().float()) for mean in first["averaged"])


def _trained(changes: dict) -> dict:
    trainer = fresh_trainer(n=65, epochs=1, **changes)  # the last batch has no image for the second process
    [result] = train(trainer)
    return {"weights": weights(trainer), "result": asdict(result)}


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_processes_that_send_bf16_stay_equal_and_train(tmp_path, accumulate):
    changes = {"gradient_precision": "bf16", "accumulate": accumulate}
    first, second = run_in_processes(2, _trained, (changes,), tmp_path)
    assert torch.equal(first["weights"], second["weights"])
    alone = _trained({})
    assert not torch.equal(first["weights"], alone["weights"])
    # Three steps: gradients have a relative error of 2**-9, and if a small one changes its sign, so does Adam's step.
    lost = alone["result"]["validation_bits_per_dim"] - first["result"]["validation_bits_per_dim"]
    assert abs(lost) < 0.05
    assert first["result"]["skipped_steps"] == 0


def test_in_one_process_the_precision_of_gradients_changes_nothing():
    assert torch.equal(_trained({"gradient_precision": "bf16"})["weights"], _trained({})["weights"])
