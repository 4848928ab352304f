"""What a training has so far, in each checkpoint (`Progress`: all epochs and the newest samples), and its `Outcome`.

If a driver dies before it has written everything to MLflow, what MLflow lacks is added from the checkpoint later.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from glow.errors import CheckpointError
from jobs.training.history import EpochMetrics, read_history, write_history
from jobs.training.messages import SampleGrid

__all__ = ["KEPT_GRIDS", "Metrics", "Outcome", "Progress", "parse_grids"]

GRIDS_FILE = "samples.npz"
"""Name of the file with the sample grids in the folder of a checkpoint."""

SECONDS_FILE = "seconds.json"
"""Name of the file with the duration of the training in the folder of a checkpoint."""

KEPT_GRIDS = 3
"""Number of sample grids, the newest, that every checkpoint holds, however large they are."""

GRIDS_BYTES = 8 * 2**20
"""Size up to which a checkpoint holds older grids too, in bytes.

A training whose store is away can be killed; the grids that MLflow lacks are then those of the checkpoint. A grid of
100 images takes 6 kB at 8x8, 100 kB at 32x32 and 300 kB at 32x32 in colour: 8 MB hold the last 1310, 81 and 27 grids.
"""

UNCOUNTED = -1
"""Number of samples that are not finite in a grid of a version that did not count them."""


Metrics = dict[str, float]
"""The metrics that are reported with a checkpoint: the fields of `glow.training.EpochResult` and some more."""


@dataclass
class Progress:
    """The record of a training so far.

    Attributes:
        history: bits/dim, speed and other numbers of every epoch so far, in order.
        grids: the newest grids of sample images, in order: as many as `GRIDS_BYTES` hold, and at least `KEPT_GRIDS`.
        seconds: how long the workers have trained, over all attempts that led here; 0 if an older version of glowctl
            saved the checkpoint.
    """

    history: list[EpochMetrics] = field(default_factory=list)
    grids: list[SampleGrid] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, grid: SampleGrid) -> None:
        """Add a sample grid, and drop the oldest ones that are too many."""
        fitting = GRIDS_BYTES // grid.images.nbytes  # all grids of a training have one size
        self.grids = [*self.grids, grid][-max(KEPT_GRIDS, fitting) :]

    def write(self, folder: str | Path) -> None:
        """Write the history, the grids and the seconds into the folder of a checkpoint.

        Raises:
            OSError: if a file cannot be written.
        """
        write_history(self.history, folder)
        _write_grids(self.grids, folder)
        Path(folder, SECONDS_FILE).write_text(json.dumps(self.seconds))

    @classmethod
    def read(cls, folder: str | Path) -> Progress:
        """Read the history, the grids and the seconds from the folder of a checkpoint.

        Each is empty or 0 if the checkpoint has none, for example because an older version of glowctl saved it.

        Raises:
            CheckpointError: if a file is damaged.
        """
        return cls(read_history(folder), _read_grids(folder), _read_seconds(folder))


def _write_grids(grids: Sequence[SampleGrid], folder: str | Path) -> None:
    if grids:
        np.savez(
            Path(folder, GRIDS_FILE),
            epochs=np.array([grid.epoch for grid in grids]),
            images=np.stack([grid.images for grid in grids]),
            inverse_errors=np.array([grid.inverse_error for grid in grids]),
            non_finite=np.array([UNCOUNTED if grid.non_finite is None else grid.non_finite for grid in grids]),
        )


def _read_grids(folder: str | Path) -> list[SampleGrid]:
    file = Path(folder, GRIDS_FILE)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _damaged(str(file), error) from error
    return parse_grids(content, str(file))


@dataclass(frozen=True)
class Outcome:
    """The result of a training.

    Attributes:
        best: the metrics of the best checkpoint by validation.
        test_bits_per_dim: the test set's bits/dim under the model of that checkpoint.
        progress: the metrics of all epochs, and the newest samples.
    """

    best: Metrics
    test_bits_per_dim: float
    progress: Progress

    def metrics(self) -> dict[str, Any]:
        """Return what a trial reports to Tune at its end."""
        return {"best": self.best, "test_bits_per_dim": self.test_bits_per_dim}


def parse_grids(content: bytes, file: str) -> list[SampleGrid]:
    """Return the sample grids in a ``samples.npz``.

    Args:
        content: the content of the file.
        file: the name of the file, for the error message.

    Raises:
        CheckpointError: if the file is damaged.
    """
    try:
        with np.load(BytesIO(content), allow_pickle=False) as kept:
            epochs, errors = kept["epochs"].tolist(), kept["inverse_errors"].tolist()
            counted = kept["non_finite"].tolist() if "non_finite" in kept else [UNCOUNTED] * len(epochs)
            rows = zip(epochs, kept["images"], errors, counted, strict=True)
            return [SampleGrid(at, images, error, None if n == UNCOUNTED else n) for at, images, error, n in rows]
    except (OSError, EOFError, TypeError, ValueError, KeyError, BadZipFile) as error:
        raise _damaged(file, error) from error


def _read_seconds(folder: str | Path) -> float:
    file = Path(folder, SECONDS_FILE)
    try:
        return float(json.loads(file.read_text())) if file.exists() else 0.0
    except (TypeError, ValueError) as error:
        raise _damaged(str(file), error) from error


def _damaged(file: str, error: Exception) -> CheckpointError:
    return CheckpointError(f"{file} is damaged ({error})", remedy="use another checkpoint", code="checkpoint-damaged")
