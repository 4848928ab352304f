"""Record a trained model in a store without Ray, as a start for the tests of evaluations."""

from pathlib import Path

import torch

from glow import FitConfig, Glow, fit, save_checkpoint
from glowctl.specs.training import make_train_spec
from glowctl.tracking.record import Record
from glowctl.training.prepare import Work, prepare
from glowctl.training.publish import release

NAME = "train digits small"


def train_into(folder: Path, **settings: object) -> str:
    """Train a class-conditional Glow, by default on the digits, and record it as `glowctl train` does.

    The store is `folder`/mlflow.db, and the checkpoint is in `folder`/trained.

    Returns:
        The id of the run.
    """
    work = work_in(folder, class_conditional=True, **settings)
    torch.manual_seed(0)
    model = Glow(work.config)
    images, labels = work.splits["train"].images(), work.splits["train"].labels
    fit(model, images, labels, config=FitConfig(epochs=2, batch_size=64, warmup_steps=10, learning_rate=3e-3))
    record = Record.start(work.tracking_uri, "glow", NAME, work.tags(), {"depth": 2})
    trained = folder / "trained"
    release(work, record, save_checkpoint(model, trained / "checkpoint"), {}, 3.0)
    (trained / "spec.json").write_text(work.spec.to_json())
    record.folder(trained, leave_out="checkpoint")
    record.finish("FINISHED")
    return record.run_id


def work_in(folder: Path, **settings: object) -> Work:
    """Prepare the training of the smoke preset, by default on the digits, to be recorded in `folder`/mlflow.db."""
    where = {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "output": str(folder)}
    return prepare(make_train_spec("smoke", {**settings, **where}))
