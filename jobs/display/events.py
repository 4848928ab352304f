"""What a job says while it runs: one frozen dataclass for each kind of event."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from jobs.tracking import (
    Champion,
)

__all__ = ["AblationSummary", "TrainResult"]


@dataclass(frozen=True)
class TrainResult:
    """What a training came to. Bits/dim are the test set's under the best model by validation.

    `test_bits_per_dim_original` counts the bits per pixel of the images before padding.
    """

    run: str
    run_id: str
    test_bits_per_dim: float
    test_bits_per_dim_original: float
    validation_bits_per_dim: float
    best_epoch: int
    images_per_second: float
    restarts: int
    skipped_steps: int
    seconds: float
    image_shape: tuple[int, int, int]
    original_shape: tuple[int, int, int]
    sample_grid: str
    checkpoint: str | None  # a folder
    model: str  # in MLflow's registry
    open_with: str  # the command that shows the run in the MLflow UI

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class AblationSummary:
    """Rows as dicts: `configurations` as `glow.comparison.summarize` gives them, `differences` as `paired_differences`
    does. `champion` is None if no trial finished."""

    run: str
    run_id: str
    trials: int
    finished: int
    factors: list[str]
    configurations: list[dict[str, Any]]
    differences: list[dict[str, Any]]
    conclusions: list[str]
    unfinished: list[str]
    best: dict[str, Any] | None  # the trial with the lowest validation NLL
    champion: Champion | None
    place: str
    open_with: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"champion_uri": self.champion.uri if self.champion else None}
