"""A trained model in a store, made without Ray: what evaluations start from."""

import json
from pathlib import Path

import torch

from glow import FitConfig, Glow, fit, load_dataset, save_checkpoint
from jobs.specs import make_train_spec
from jobs.tracking import Record

NAME = "train digits small"


def train_into(folder: Path) -> str:
    """Trains a class-conditional Glow on the digits and records it in `folder`/mlflow.db as `glowctl train` does; the
    run's id."""
    spec = make_train_spec("smoke", {"class_conditional": True})
    images, labels = load_dataset("digits", "train")
    torch.manual_seed(0)
    model = Glow(spec.glow_config((1, 8, 8), num_classes=10))
    fit(model, images, labels, config=FitConfig(epochs=2, batch_size=64, warmup_steps=10, learning_rate=3e-3))
    uri = f"sqlite:///{folder}/mlflow.db"
    tags = {"glow.job": "train", "glow.dataset": "digits", "glow.spec": json.dumps(spec.model_dump())}
    record = Record.start(uri, "glow", NAME, tags, {"depth": 2})
    save_checkpoint(model, folder / "trained" / "checkpoint")
    record.folder(folder / "trained")
    (folder / "trained" / "spec.json").write_text(spec.to_json())
    record.finish("FINISHED")
    return record.run_id
