"""Glow normalizing flows: likelihoods of images, and tests of whether images belong to what a model was trained on.

- Data: `load_dataset`.
- Models: `GlowConfig` and `Glow`; `save_checkpoint`, `load_checkpoint` and `load_pretrained`.
- Training: `FitConfig` (the settings), and `fit`, or `Trainer` if you need checkpoints.
- Evaluation: `score` (a table of likelihoods), `TypicalityTest` (detects out-of-distribution images), `interpolate`,
  and `uniform_noise` (dequantization noise that makes likelihoods repeatable).

These names are imported when they are first used, so that `import glow` is cheap.

Examples:
    A model of handwritten digits finds noise less likely than digits that it has not seen:

    >>> from glow import FitConfig, Glow, GlowConfig, fit, load_dataset, score
    >>> digits, _ = load_dataset("digits", "train")
    >>> noise, _ = load_dataset("noise", "test", image_shape=(1, 8, 8))
    >>> model = Glow(GlowConfig(image_shape=(1, 8, 8), levels=1, depth=2, width=8))
    >>> config = FitConfig(epochs=1, batch_size=32, learning_rate=0.01, warmup_steps=1)
    >>> results = fit(model, digits[:256], config=config)
    >>> noise_bits, digit_bits = (score(model, images)["bits_per_dim"].mean() for images in (noise[:50], digits[-50:]))
    >>> bool(noise_bits > digit_bits + 0.1)
    True
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
    from glow.pretrained import load_pretrained
    from glow.scoring import score
    from glow.training.trainer import Trainer, fit

# The module of each public name.
_HOMES = {
    "FitConfig": "config",
    "Glow": "model",
    "GlowConfig": "config",
    "Trainer": "training.trainer",
    "TypicalityTest": "ood",
    "fit": "training.trainer",
    "interpolate": "interpolation",
    "load_checkpoint": "checkpoint",
    "load_dataset": "datasets",
    "load_pretrained": "pretrained",
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
    "load_pretrained",
    "save_checkpoint",
    "score",
    "uniform_noise",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"glow.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'glow' has no attribute {name!r}")
