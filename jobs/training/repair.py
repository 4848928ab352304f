"""The completion of a training's run in MLflow from its checkpoints (`complete_record`), and what these contain.

`jobs.training.log` completes a run when its training ends or is resumed, and ``glowctl repair`` completes one that is
over. ``glowctl repair`` does not open the data set, and so adds nothing that needs images, such as scores.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from glow.checkpoint import CONFIG_FILE
from glow.config import GlowConfig
from glow.errors import CheckpointError
from jobs.outputs import files_of_checkpoints
from jobs.tracking import Record, metric_names
from jobs.training.history import HISTORY_FILE, parse_history, record_history
from jobs.training.messages import SampleGrid
from jobs.training.prepare import number_of_parameters
from jobs.training.progress import GRIDS_FILE, Progress, parse_grids

__all__ = ["Kept", "Lack", "complete_record", "kept_by_checkpoints", "record_samples"]


@dataclass
class Kept:
    """What the checkpoints of a training contain of its record.

    Attributes:
        progress: the metrics of the most epochs that a checkpoint has, and the sample grids of all checkpoints.
        config: the config of the model; None if no checkpoint has one that can be read.
        damaged: the paths of the files that cannot be read.
    """

    progress: Progress = field(default_factory=Progress)
    config: GlowConfig | None = None
    damaged: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is no checkpoint that can be read."""
        return self.config is None and not self.progress.history


@dataclass(frozen=True)
class Lack:
    """What a run in MLflow lacks of what its checkpoints contain.

    Attributes:
        epochs: the epochs for which it has no validation score.
        samples: the epochs for which it lacks samples, or the error of the inverse.
        figures: the names of figures without an epoch, "parameters" and "workers".
    """

    epochs: list[int]
    samples: list[int]
    figures: list[str]

    @classmethod
    def of(cls, record: Record, kept: Kept) -> Lack:
        """Compare a run with its checkpoints.

        Raises:
            TrackingError: if MLflow cannot be read.
        """
        known, measured = record.metric_steps(metric_names.VALIDATION), record.metric_steps("inverse_error")
        sampled = measured.keys() & record.image_steps("samples")
        return cls(
            epochs=[epoch.epoch for epoch in kept.progress.history if epoch.epoch not in known],
            samples=[grid.epoch for grid in kept.progress.grids if grid.epoch not in sampled],
            figures=[name for name in ("parameters", "workers") if not record.metric_steps(name)],
        )


def complete_record(
    record: Record, progress: Progress, config: GlowConfig | None, workers: int | None, restarts: int
) -> None:
    """Add to a run in MLflow the epochs, samples and numbers of parameters and workers that it lacks.

    Args:
        record: the run.
        progress: the epochs and samples that its checkpoints contain.
        config: the config of the model; None if it is not known.
        workers: the number of workers to write if the run has none; None if it is not known.
        restarts: the number of restarts to write with the number of workers.

    Raises:
        TrackingError: if MLflow cannot be written.
    """
    record_history(record, progress.history)
    for grid in progress.grids:
        record_samples(grid, record)
    if config is not None and not record.metric_steps("parameters"):
        record.metrics({"parameters": number_of_parameters(config)})
    if workers is not None and not record.metric_steps("workers"):
        record.metrics({"restarts": restarts, "workers": workers})


def record_samples(samples: SampleGrid, record: Record) -> None:
    """Write samples and the error of the inverse into a run in MLflow, unless the run has those of this epoch.

    Raises:
        TrackingError: if MLflow cannot be written.
    """
    from glow.figures import image_grid  # only now: no training waits for matplotlib to begin

    record.image(image_grid(samples.images), "samples", samples.epoch)
    record.metrics({"inverse_error": samples.inverse_error}, samples.epoch)
    if samples.non_finite is not None:
        record.metrics({"non_finite_samples": samples.non_finite}, samples.epoch)


def kept_by_checkpoints(*places: str) -> Kept:
    """Read from the checkpoints of a training what its record consists of. Files that are damaged are skipped.

    Args:
        places: the folders that contain the checkpoints, or their URIs in a bucket; they need not exist.

    Raises:
        JobError: if a folder cannot be read.
    """
    kept, grids = Kept(), dict[int, SampleGrid]()
    for place in places:
        for file, content in files_of_checkpoints(place, HISTORY_FILE, GRIDS_FILE, CONFIG_FILE):
            try:
                if file.endswith(HISTORY_FILE):
                    kept.progress.history = max(kept.progress.history, parse_history(content, file), key=len)
                elif file.endswith(GRIDS_FILE):
                    grids |= {grid.epoch: grid for grid in parse_grids(content, file)}
                else:
                    kept.config = GlowConfig.from_dict(json.loads(content))
            except (CheckpointError, ValueError, TypeError):  # the process was killed while it wrote the file
                kept.damaged.append(file)
    kept.progress.grids = [grids[epoch] for epoch in sorted(grids)]
    return kept
