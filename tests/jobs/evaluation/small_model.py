"""A model of grey images of 8x8, for tests of evaluations that start no Ray."""

from pathlib import Path

import torch

from glow import Glow, save_checkpoint
from glow.config import GlowConfig
from glow.scoring import score
from glowctl.evaluation.run import Evaluation
from glowctl.tracking.record import Record
from glowctl.tracking.scores import save_scores

__all__ = ["SHAPE", "record_scores", "save_model", "where"]

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


def record_scores(work: Evaluation, model: Glow, name: str) -> str:
    """Record the scores that an evaluation lacks, as an earlier run would have done; return the id of that run."""
    record = Record.start(work.uri, "glow", name, {}, {})
    with record.running():
        for table in work.missing:
            images, labels = table.images.images(0, len(table.images)), table.images.labels
            save_scores(table.key, score(model, images, labels), record)
    return record.run_id
