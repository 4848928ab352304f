"""What a training says while it runs (`TrainingLog`), and what it comes to (`TrainResult`)."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from glow.datasets import padding
from glow.figures import image_grid, nll_curve
from jobs.display.displays import Event
from jobs.display.events import TrainResult
from jobs.outputs import is_remote
from jobs.run_labels import training_description
from jobs.tracking import Record, open_command
from jobs.training.publish import release

if TYPE_CHECKING:
    from jobs.training.prepare import Work

__all__ = ["CHECKPOINT", "TrainingLog"]

CHECKPOINT = "checkpoint"
"""The folder of the best model among the results."""

METRICS = {
    "train_bits_per_dim": "train/bits_per_dim",
    "validation_bits_per_dim": "validation/bits_per_dim",
    "images_per_second": "images_per_second",
    "gradient_norm": "gradient_norm",
    "learning_rate": "learning_rate",
    "skipped_steps": "skipped_steps",
    "test_bits_per_dim_by_epoch": "test/bits_per_dim_by_epoch",
}
"""Fields of an ``epoch`` event -> their names in MLflow. NaN, for what was not measured, is left out."""


class TrainingLog:
    """Takes rank 0's events: `see` shows each as it comes, `record` writes it to MLflow and may be called again.

    `about` is shown with the start of each attempt, and with the first how long it took since `began`, in seconds since
    the epoch. Where the run in MLflow is not made yet, `attach` says it before the first `record`.
    """

    def __init__(
        self,
        work: Work,
        record: Record | None,
        show: Callable[[Event], None],
        about: Mapping[str, Any],
        began: float | None = None,
    ) -> None:
        self._work, self._record, self._show, self._about = work, record, show, about
        self._began = began
        self._history: dict[int, dict[str, float]] = {}
        self._samples: np.ndarray | None = None
        self.scores: dict[tuple[str, int], pd.DataFrame] = {}
        self._workers: int | None = None  # of the latest attempt
        self.restarts = 0
        self.test_bits_per_dim: float | None = None
        if work.resumed is not None:
            self._history = _recorded_history(self._run)
            self.restarts = int(work.resumed.data.metrics.get("restarts", 0)) + 1
        elif work.kept is not None:
            self.restarts = 1

    @property
    def _run(self) -> Record:
        assert self._record is not None
        return self._record

    def attach(self, record: Record) -> None:
        self._record = record

    def see(self, event: Event) -> None:
        match event["event"]:
            case "attempt":
                self._see_attempt(event)
            case "step":
                self._show(event)
            case "epoch":
                self._history[event["epoch"]] = _row(event)
                self._show(event)
            case "samples":
                self._samples = event["images"]
            case "test":
                self.test_bits_per_dim = event["bits_per_dim"]
            case "scores":
                self.scores[event["split"], event["start"]] = event["table"]

    def record(self, event: Event) -> None:
        """Raises TrackingError while the store is away."""
        run = self._run.impatient()
        match event["event"]:
            case "attempt":
                names = ("restarts", "workers", "parameters", "startup_seconds")
                attempt = {name: event[name] for name in names if name in event}
                run.metrics(attempt, event["epoch"])
                for epoch in event["missed"]:
                    run.metrics(_measured(epoch), epoch["epoch"])
            case "epoch":
                run.metrics(_measured(event), event["epoch"])
            case "samples":
                run.image(image_grid(event["images"]), "samples", event["epoch"])
                run.metrics({"inverse_error": event["inverse_error"]}, event["epoch"])
            case "machine":
                run.machine(event["machine"], event["metrics"])

    def _see_attempt(self, event: Event) -> None:
        """The first attempt is the start, one with more workers is elastic growth; any other means that some died. What
        the record lacks of the epochs before is noted: the driver that was told of them died."""
        missed = [epoch for epoch in event.pop("history") if epoch["epoch"] not in self._history]
        self._history |= {epoch["epoch"]: _row(epoch) for epoch in missed}
        before, self._workers = self._workers, event["workers"]
        kind = "started" if before is None else "resize" if event["workers"] > before else "restart"
        self.restarts += kind == "restart"
        event["restarts"] = self.restarts
        if kind == "started" and self._began is not None:
            event["startup_seconds"] = time.time() - self._began
        self._show({**event, **self._about, "epochs": self._work.spec.epochs, "event": kind})
        event["missed"] = missed

    @property
    def started(self) -> bool:
        return self._workers is not None

    def write_settings(self, folder: Path) -> None:
        """What the run is, and what it takes to repeat it: the spec as it was given, less where it was recorded, and
        the versions; into `folder` and into MLflow."""
        given = self._work.given.model_copy(update={"tracking_uri": None})
        (folder / "spec.json").write_text(given.to_json())
        (folder / "requirements.txt").write_text(_versions())
        self._run.folder(folder, leave_out=CHECKPOINT)
        self._run.describe(training_description(self._work.spec, self._run.run_id))

    def conclude(
        self, best: Mapping[str, float], last: Mapping[str, float], folder: Path, seconds: float
    ) -> TrainResult:
        """Writes tables, figures, metrics and the model, whose checkpoint is in `folder`, into MLflow, and the first
        two into `folder` as well. `best` and `last` are the metrics of these checkpoints. Raises TrackingError."""
        score = best["validation_bits_per_dim"]
        released = release(self._work, self._run, folder / CHECKPOINT, self.scores, score)
        result = self.result(best, last, folder, seconds, released.uri)
        self._write_files(result, folder)
        self._run.metrics(_final_metrics(result), result.best_epoch, released.model_id)
        self._run.folder(folder, leave_out=CHECKPOINT)  # which the model holds
        self._run.describe(training_description(self._work.spec, self._run.run_id, result))
        return result

    def result(
        self, best: Mapping[str, float], last: Mapping[str, float], folder: Path, seconds: float, model: str
    ) -> TrainResult:
        """`model` is what MLflow's registry calls it; the others are those of `conclude`."""
        assert self.test_bits_per_dim is not None
        for known in (best, last):  # an interrupted run may have died before MLflow had them
            self._history.setdefault(int(known["epoch"]), _row(known))
        remote = is_remote(self._work.spec.output)
        place = self._run.artifact_uri if remote else str(folder)
        paces = [row["images_per_second"] for row in self._history.values()]
        return TrainResult(
            run=self._run.name,
            run_id=self._run.run_id,
            test_bits_per_dim=self.test_bits_per_dim,
            test_bits_per_dim_original=self.test_bits_per_dim
            * padding(self._work.config.image_shape, self._work.original_shape),
            validation_bits_per_dim=best["validation_bits_per_dim"],
            best_epoch=int(best["epoch"]),
            images_per_second=float(np.nanmedian(paces)),
            restarts=self.restarts,
            skipped_steps=int(last["skipped_steps"]),
            seconds=seconds,
            image_shape=self._work.config.image_shape,
            original_shape=self._work.original_shape,
            sample_grid=f"{place}/samples.png",
            checkpoint=None if remote else f"{place}/{CHECKPOINT}",
            model=model,
            open_with=open_command(self._work.tracking_uri),
        )

    def _write_files(self, result: TrainResult, folder: Path) -> None:
        history = pd.DataFrame.from_dict(self._history, orient="index").rename_axis("epoch").sort_index().reset_index()
        history.to_csv(folder / "history.csv", index=False)
        nll_curve(history, result.run, result.test_bits_per_dim).savefig(folder / "nll.png", dpi=120)
        if self._samples is not None:
            np.save(folder / "samples.npy", self._samples)
            Image.fromarray(image_grid(self._samples)).save(folder / "samples.png")


def _row(epoch: Mapping[str, Any]) -> dict[str, float]:
    """What the history has of an epoch."""
    return {name: epoch.get(name, math.nan) for name in METRICS}


def _measured(epoch: Mapping[str, Any]) -> dict[str, float]:
    """And what MLflow has of it."""
    return {METRICS[name]: value for name, value in _row(epoch).items() if not math.isnan(value)}


def _final_metrics(result: TrainResult) -> dict[str, float]:
    return {
        "test/bits_per_dim": result.test_bits_per_dim,
        "test/bits_per_dim_original": result.test_bits_per_dim_original,
        "validation/best_bits_per_dim": result.validation_bits_per_dim,
        "images_per_second_median": result.images_per_second,
        "best_epoch": result.best_epoch,
        "seconds": result.seconds,
    }


def _recorded_history(record: Record) -> dict[int, dict[str, float]]:
    """The epochs that MLflow has of a run that is resumed."""
    columns = {field: record.metric_steps(name) for field, name in METRICS.items()}
    epochs = sorted(columns["validation_bits_per_dim"])
    return {epoch: {field: steps.get(epoch, math.nan) for field, steps in columns.items()} for epoch in epochs}


def _versions() -> str:
    """This Python and the packages that decide what a run computes, as a requirements file."""
    packages = ("torch", "torchvision", "ray", "mlflow", "numpy", "pandas", "safetensors", "scikit-learn", "glowctl")
    installed = {found.name.lower(): found.version for found in metadata.distributions()}
    lines = [f"{package}=={installed[package]}\n" for package in packages if package in installed]
    return f"# Python {platform.python_version()}, {platform.platform()}\n" + "".join(lines)
