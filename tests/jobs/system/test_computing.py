"""Every process that computes with a model computes float32 convolutions in float32, not in TF32. No GPU, no Ray."""

import warnings
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from glow import uniform_noise
from glow.hardware import forbid_tf32
from glow.scoring import score
from jobs.evaluation import scoring
from jobs.training import worker
from tests.glow.flows import random_images, small_glow


class SetUp(Exception):
    """Ends a worker once its process is set up."""


@pytest.fixture(autouse=True)
def tf32(monkeypatch):
    """Begin with torch's default, which rounds on NVIDIA GPUs, and restore the setting after the test."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)


def is_tf32() -> bool:
    return bool(torch.backends.cudnn.allow_tf32)


def ends(*arguments: object) -> None:
    raise SetUp


def test_tf32_is_forbidden_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forbid_tf32()
    assert not is_tf32()


def test_a_training_worker_computes_without_tf32(monkeypatch):
    monkeypatch.setattr(worker, "_splits", ends)
    settings = SimpleNamespace(spec=None, threads=torch.get_num_threads())
    with pytest.raises(SetUp):
        worker._train_share(cast(Any, settings), cast(Any, None))
    assert not is_tf32()


def test_a_task_of_an_evaluation_computes_without_tf32(monkeypatch):
    monkeypatch.setattr(scoring, "_rebuilt", ends)
    with pytest.raises(SetUp):
        scoring.model_on([None], torch.get_num_threads())
    assert not is_tf32()


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_library_scores_without_tf32_and_restores_the_setting(monkeypatch, precision):
    seen = []

    def noise(*arguments):
        seen.append(is_tf32())
        return uniform_noise(*arguments)

    monkeypatch.setattr("glow.scoring.uniform_noise", noise)
    model = small_glow()
    score(model, random_images(2, model.config.image_shape), precision=precision)
    assert seen == [False]
    assert is_tf32()
