"""Glow normalizing flows: exact likelihoods of images, and tests of whether images belong.

The public names. They are imported when first used, so that `import glow` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glow.checkpoint import load_checkpoint, save_checkpoint
    from glow.config import FitConfig, GlowConfig
    from glow.datasets import load_dataset
    from glow.dequantization import uniform_noise
    from glow.interpolation import interpolate
    from glow.model import Glow
    from glow.ood import TypicalityTest
    from glow.scoring import score
    from glow.training import Trainer, fit

_HOMES = {
    "FitConfig": "config",
    "Glow": "model",
    "GlowConfig": "config",
    "Trainer": "training",
    "TypicalityTest": "ood",
    "fit": "training",
    "interpolate": "interpolation",
    "load_checkpoint": "checkpoint",
    "load_dataset": "datasets",
    "save_checkpoint": "checkpoint",
    "score": "scoring",
    "uniform_noise": "dequantization",
}

__all__ = [
    "FitConfig",
    "Glow",
    "GlowConfig",
    "Trainer",
    "TypicalityTest",
    "fit",
    "interpolate",
    "load_checkpoint",
    "load_dataset",
    "save_checkpoint",
    "score",
    "uniform_noise",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"glow.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'glow' has no attribute {name!r}")
