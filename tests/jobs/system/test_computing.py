"""Every process that computes with a model computes float32 convolutions in float32, not in TF32. No GPU, no Ray."""

import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from glow import uniform_noise
from glow.hardware import forbid_tf32
from glow.scoring import score
from glowctl.evaluation import scoring
from glowctl.training import worker
from tests.glow.flows import random_images, small_glow


class SetUp(Exception):
    """Ends a worker once its process is set up."""


CUDNN: Any = torch.backends.cudnn
NEWER = hasattr(CUDNN, "conv")
"""Whether this torch has the newer names of the settings."""


@pytest.fixture(autouse=True)
def tf32() -> Iterator[None]:
    """Begin and end with torch's defaults: convolutions are rounded on NVIDIA GPUs, and matrix products are not."""
    restore()
    yield
    restore()


def restore() -> None:
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")


def is_tf32() -> bool:
    if NEWER:
        return CUDNN.conv.fp32_precision == "tf32"
    return bool(torch.backends.cudnn.allow_tf32)


def products_are_tf32() -> bool:
    matmul = torch.backends.cuda.matmul
    return matmul.fp32_precision == "tf32" if NEWER else bool(matmul.allow_tf32)


def ends(*arguments: object) -> None:
    raise SetUp


def test_tf32_is_forbidden_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forbid_tf32()
    assert not is_tf32()


def test_a_training_worker_computes_without_tf32(monkeypatch):
    monkeypatch.setattr(worker, "splits_of", ends)
    settings = SimpleNamespace(spec=None, config=None, data=[], threads=torch.get_num_threads())
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
        seen.append((is_tf32(), products_are_tf32()))
        return uniform_noise(*arguments)

    monkeypatch.setattr("glow.scoring.uniform_noise", noise)
    torch.set_float32_matmul_precision("high")
    model = small_glow()
    score(model, random_images(2, model.config.image_shape), precision=precision)
    assert seen == [(False, False)]
    assert torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.skipif(not NEWER, reason="this torch has only the older names of the settings")
def test_the_library_scores_in_a_program_that_uses_the_newer_names(monkeypatch):
    CUDNN.conv.fp32_precision = "ieee"
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    model = small_glow()
    score(model, random_images(2, model.config.image_shape))
    assert CUDNN.conv.fp32_precision == "ieee"
    assert torch.backends.cudnn.deterministic
