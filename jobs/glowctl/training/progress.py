"""The progress of a training, which each of its checkpoints contains (`Progress`), and its way to MLflow.

The checkpoints of a run are in its folder. Each holds the model and the state of the training (`glow.checkpoint`), the
best model so far in the folder `BEST`, the newest sample grids, and ``progress.json``, which has the figures of every
epoch so far and the sizes of the other files. A checkpoint whose files do not have these sizes is not whole: a process
was killed while it wrote or deleted them.

MLflow gets the epochs and samples of a training by `record_progress` alone, which adds what the run lacks there. So
MLflow never has an epoch that is trained again, and what it has missed comes with any later checkpoint.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from posixpath import dirname
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from glow.errors import CheckpointError
from glow.training.epoch_results import EpochResult
from glowctl.outputs import open_storage, unreadable
from glowctl.tracking import metric_names
from glowctl.tracking.record import Record
from glowctl.training.samples import SampleGrid

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

log = logging.getLogger(__name__)

BEST = "best"
"""Name of the folder in a checkpoint that contains the best model so far; absent before the first epoch is saved."""

FILE = "progress.json"
"""Name of the file in a checkpoint with all of `Progress` but the grids, and the sizes of the other files."""

GRIDS_FILE = "samples.npz"
"""Name of the file in a checkpoint with the sample grids."""

KEPT_GRIDS = 3
"""Number of sample grids, the newest, that every checkpoint holds, however large they are."""

GRIDS_BYTES = 8 * 2**20
"""Size up to which a checkpoint holds older grids too, in bytes.

A training whose store is away can be killed; the grids that MLflow lacks are then those of the checkpoint. A grid of
100 images takes 6 kB at 8x8, 100 kB at 32x32 and 300 kB at 32x32 in colour: 8 MB hold the last 1310, 81 and 27 grids.
"""

IN_MLFLOW = {
    "train_bits_per_dim": metric_names.TRAIN,
    "validation_bits_per_dim": metric_names.VALIDATION,
    "images_per_second": "images_per_second",
    "gradient_norm": "gradient_norm",
    "learning_rate": "learning_rate",
    "skipped_steps": "skipped_steps",
    "test_bits_per_dim_by_epoch": metric_names.TEST_BY_EPOCH,
}
"""The fields of `EpochFigures` that MLflow gets, each with the name of its metric there."""


@dataclass(frozen=True)
class EpochFigures(EpochResult):
    """The figures of one epoch: those of `EpochResult` and two more.

    Attributes:
        test_bits_per_dim_by_epoch: bits/dim of the test set after this epoch; NaN unless it was scored (--test-every).
        time: when the epoch ended, in seconds since 1970.
    """

    test_bits_per_dim_by_epoch: float = math.nan
    time: float = math.nan

    def columns(self) -> dict[str, float]:
        """Return the figures that MLflow gets, by the names of the fields."""
        return {name: getattr(self, name) for name in IN_MLFLOW}

    def in_mlflow(self) -> dict[str, float]:
        """Return the figures that were measured, by their names in MLflow."""
        return {IN_MLFLOW[name]: value for name, value in self.columns().items() if not math.isnan(value)}


@dataclass
class Progress:
    """The progress of a training so far.

    Attributes:
        epochs: the figures of every epoch so far, in order.
        grids: the newest grids of sample images, in order: as many as `GRIDS_BYTES` hold, and at least `KEPT_GRIDS`.
        seconds: how long the workers have trained, over all attempts that led here.
        steps: number of optimizer steps so far.
        workers: number of workers of the latest attempt.
        parameters: number of parameters of the model.
        best_epoch: the epoch of the best model by validation, among those after which a checkpoint was saved; 0 before
            the first.
        trial: the label of the trial, in an ablation; else empty.
    """

    epochs: list[EpochFigures] = field(default_factory=list)
    grids: list[SampleGrid] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0
    workers: int = 0
    parameters: int = 0
    best_epoch: int = 0
    trial: str = ""

    @property
    def best(self) -> EpochFigures:
        """The figures of the epoch of the best model."""
        return self.epochs[self.best_epoch - 1]

    def improves(self) -> bool:
        """Return whether the last epoch is better than the best one so far; it then becomes the best one."""
        last = self.epochs[-1]
        if self.best_epoch and not _score(last) < _score(self.best):
            return False
        self.best_epoch = last.epoch
        return True

    def add(self, grid: SampleGrid) -> None:
        """Add a sample grid, and drop the oldest ones that are too many."""
        fitting = GRIDS_BYTES // grid.images.nbytes  # all grids of a training have one size
        self.grids = [*self.grids, grid][-max(KEPT_GRIDS, fitting) :]

    def write(self, folder: str | Path) -> None:
        """Write the progress into the folder of a checkpoint, which has its other files already.

        Raises:
            OSError: if a file cannot be written.
        """
        _write_grids(self.grids, folder)
        facts = {**vars(self), "epochs": [asdict(epoch) for epoch in self.epochs]}
        del facts["grids"]
        files = (path for path in Path(folder).rglob("*") if path.is_file() and path.name != FILE)
        facts["sizes"] = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
        Path(folder, FILE).write_text(json.dumps(facts))

    @classmethod
    def read(cls, folder: str | Path, files: FileSystem | None = None) -> Progress:
        """Read what `write` wrote into the folder of a checkpoint.

        Args:
            folder: the path of the folder.
            files: the file system of the folder; None for this machine's.

        Raises:
            FileNotFoundError: if the checkpoint is gone.
            CheckpointError: if a file is damaged.
        """
        from pyarrow.fs import LocalFileSystem

        files = files or LocalFileSystem()
        facts = _facts(files, f"{folder}/{FILE}")
        grids = _parse_grids(_content(files, f"{folder}/{GRIDS_FILE}"), f"{folder}/{GRIDS_FILE}")
        try:
            del facts["sizes"]
            return cls(**facts | {"epochs": [EpochFigures(**epoch) for epoch in facts["epochs"]], "grids": grids})
        except (KeyError, TypeError) as error:
            raise _damaged(f"{folder}/{FILE}", error) from error


def record_progress(record: Record, progress: Progress, but: set[int]) -> None:
    """Add to a run in MLflow the epochs, samples and numbers of parameters and workers that it lacks.

    Args:
        record: the run.
        progress: the epochs and samples that the run shall have.
        but: epochs whose samples the caller has recorded before. Those of `progress` are added.

    Raises:
        TrackingError: if MLflow cannot be written.
    """
    for epoch in progress.epochs:
        record.metrics(epoch.in_mlflow(), epoch.epoch, at=epoch.time)
    for grid in progress.grids:
        if grid.epoch not in but:
            record_samples(record, grid)
            but.add(grid.epoch)
    record.metrics({"parameters": progress.parameters, "workers": progress.workers, "restarts": 0})


def record_samples(record: Record, samples: SampleGrid) -> None:
    """Add samples and the error of the inverse to a run in MLflow, unless the run has those of this epoch.

    Raises:
        TrackingError: if MLflow cannot be written.
    """
    from glow.figures.pictures import image_grid  # only now: no training waits for matplotlib to begin

    record.image(image_grid(samples.images), "samples", samples.epoch)
    figures = {"inverse_error": samples.inverse_error, "non_finite_samples": samples.non_finite}
    record.metrics(figures, samples.epoch)


class Stood(NamedTuple):
    """A whole checkpoint in the folder of a run, and where it is.

    Attributes:
        files: the file system of the checkpoint.
        path: the path of its folder in this file system.
        steps: number of optimizer steps that it has.
    """

    files: FileSystem
    path: str
    steps: int

    def progress(self) -> Progress:
        """Return the progress that the checkpoint has.

        Raises:
            CheckpointError: if a file is damaged.
        """
        return Progress.read(self.path, self.files)


def whole_checkpoints(place: str) -> dict[str, Stood]:
    """Return the newest whole checkpoint of each training in a folder, by the label of the trial.

    The key is empty for a training that is not a trial of an ablation. No file of Ray's is read.

    Args:
        place: the path of the folder of a run, or its URI in a bucket; it need not exist.

    Raises:
        JobError: if the folder cannot be read.
    """
    found: dict[str, Stood] = {}
    try:
        files, infos = _listed(place)
        sizes = {info.path: info.size for info in infos}
        for path in sorted(sizes):
            facts = _whole_facts(files, path, sizes) if path.endswith(f"/{FILE}") else None
            if facts is None:
                continue
            known = found.get(facts["trial"])
            if known is None or facts["steps"] >= known.steps:
                found[facts["trial"]] = Stood(files, dirname(path), facts["steps"])
    except (OSError, ValueError) as error:
        raise unreadable(place, error) from error
    return found


def remove_old_checkpoints(place: str) -> dict[str, Stood]:
    """Remove all checkpoints of a run but the newest whole one of each training, and return these.

    Ray leaves others if it is killed, or if the disk is full. No process may train in the folder.

    Args:
        place: the path of the folder of a run, or its URI in a bucket; it need not exist.

    Raises:
        JobError: if the folder cannot be read.
    """
    kept = whole_checkpoints(place)
    try:
        _remove_all_but(place, kept)
    except OSError as error:
        log.debug("old checkpoints in %s were not removed (%s)", place, error)
    return kept


def remove_checkpoints(place: str, trials: Collection[str]) -> None:
    """Remove all checkpoints of an ablation but the newest whole one of each trial that is not in `trials`.

    No process may train in the folder. If this process is killed, call it again.

    Args:
        place: the path of the folder of the ablation, or its URI in a bucket; it need not exist.
        trials: labels of trials.

    Raises:
        JobError: if the folder cannot be read.
        OSError: if a file cannot be removed.
    """
    _remove_all_but(place, {label: stood for label, stood in whole_checkpoints(place).items() if label not in trials})


def _remove_all_but(place: str, kept: Mapping[str, Stood]) -> None:
    stay = {stood.path for stood in kept.values()}
    files, infos = _listed(place)
    for folder in {_checkpoint_of(info.path) for info in infos} - {""}:
        if folder not in stay:
            files.delete_dir(folder)


def next_name(place: str, kind: str) -> str:
    """Return a name such as "attempt-3" for a new folder in `place`, larger than those that are there.

    Raises:
        JobError: if the folder cannot be read.
    """
    from pyarrow.fs import FileSelector

    try:
        files, path = open_storage(place)
        names = [info.base_name for info in files.get_file_info(FileSelector(path, allow_not_found=True))]
    except (OSError, ValueError) as error:
        raise unreadable(place, error) from error
    numbers = [name.removeprefix(f"{kind}-") for name in names if name.startswith(f"{kind}-")]
    return f"{kind}-{max((int(number) for number in numbers if number.isdecimal()), default=0) + 1}"


def _listed(place: str) -> tuple[FileSystem, Sequence[FileInfo]]:
    from pyarrow.fs import FileSelector

    files, path = open_storage(place)
    return files, files.get_file_info(FileSelector(path, allow_not_found=True, recursive=True))


def _checkpoint_of(path: str) -> str:
    """Return the part of a path that is the folder of a checkpoint of Ray's; "" if there is none."""
    parts = path.split("/")
    which = next((index for index, part in enumerate(parts) if part.startswith("checkpoint_")), None)
    # A file next to the checkpoints, such as one that lists them, is none.
    return "" if which is None or parts[which].endswith(".json") else "/".join(parts[: which + 1])


def _whole_facts(files: FileSystem, path: str, sizes: Mapping[str, int]) -> dict[str, Any] | None:
    """Return the content of a ``progress.json``; None unless all files of the checkpoint have the sizes that it has."""
    try:
        facts = _facts(files, path)
        is_whole = all(sizes.get(f"{dirname(path)}/{name}") == size for name, size in facts["sizes"].items())
        return facts if is_whole and {"trial", "steps"} <= facts.keys() else None
    except (FileNotFoundError, CheckpointError, KeyError, AttributeError):  # Ray deletes it, or has not written all
        return None


def _facts(files: FileSystem, path: str) -> dict[str, Any]:
    try:
        facts = json.loads(_content(files, path))
        if not isinstance(facts, dict):
            raise ValueError("it is no JSON object")
    except ValueError as error:
        raise _damaged(path, error) from error
    return facts


def _content(files: FileSystem, path: str) -> bytes:
    with files.open_input_stream(path) as stream:
        return bytes(stream.read())


def _score(epoch: EpochFigures) -> float:
    value = epoch.validation_bits_per_dim
    return value if math.isfinite(value) else math.inf


def _write_grids(grids: Sequence[SampleGrid], folder: str | Path) -> None:
    np.savez(
        Path(folder, GRIDS_FILE),
        epochs=np.array([grid.epoch for grid in grids], dtype=int),
        images=np.array([grid.images for grid in grids]),
        inverse_errors=np.array([grid.inverse_error for grid in grids]),
        non_finite=np.array([grid.non_finite for grid in grids], dtype=int),
    )


def _parse_grids(content: bytes, file: str) -> list[SampleGrid]:
    try:
        with np.load(BytesIO(content), allow_pickle=False) as kept:
            columns = (kept["epochs"].tolist(), kept["images"], kept["inverse_errors"].tolist())
            return [SampleGrid(*row) for row in zip(*columns, kept["non_finite"].tolist(), strict=True)]
    except (OSError, EOFError, TypeError, ValueError, KeyError, BadZipFile) as error:
        raise _damaged(file, error) from error


def _damaged(file: str, error: Exception) -> CheckpointError:
    return CheckpointError(f"{file} is damaged ({error})", remedy="use another checkpoint", code="checkpoint-damaged")
