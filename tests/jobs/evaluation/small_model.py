"""A model of grey images of 8x8, for tests of evaluations that start no Ray."""

from pathlib import Path

import torch

from glow import Glow, save_checkpoint
from glow.config import GlowConfig

__all__ = ["SHAPE", "save_model", "where"]

SHAPE = (1, 8, 8)


def save_model(folder: Path, seed: int = 0) -> Glow:
    """Save an initialized Glow of images of `SHAPE` in the folder, and return it."""
    torch.manual_seed(seed)
    model = Glow(GlowConfig(image_shape=SHAPE, levels=1, depth=1, width=4))
    model.initialize(torch.randint(256, (8, *SHAPE), dtype=torch.uint8))
    save_checkpoint(model, folder / "checkpoint")
    return model


def where(folder: Path) -> dict[str, str]:
    """Return the settings that keep the record and the results of an evaluation in the folder."""
    return {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "output": str(folder / "out")}
