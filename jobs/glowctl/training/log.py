"""The driver's log of a training: it shows the progress, and writes the workers' messages and the results to MLflow.

`TrainingLog` is used by a training (`glowctl.training.run`) and by each trial of an ablation.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from glow.checkpoint import load_checkpoint
from glow.datasets import padding
from glow.errors import CheckpointError
from glowctl.display.events import AttemptStarted, Epoch, Resize, Restart, Show, Started, Step, TrainResult
from glowctl.outputs import is_remote, open_storage
from glowctl.run_labels import training_description
from glowctl.run_log import WORKERS
from glowctl.system.machine_metrics import ENVIRONMENT_FILE, environment_text, machine_facts, machine_name
from glowctl.system.verbosity import unheeded
from glowctl.tracking import metric_names
from glowctl.tracking.record import Record
from glowctl.tracking.store import open_command
from glowctl.training.messages import Attempt, Hardware, Logged, Machine, Message, Scores, Stored, Tested
from glowctl.training.progress import Progress, record_progress, record_samples
from glowctl.training.publish import release
from glowctl.training.samples import SampleGrid, draw_samples

if TYPE_CHECKING:
    from glowctl.text import JsonObject
    from glowctl.tracking.runs import Run
    from glowctl.training.prepare import Work

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint"
"""Name of the folder, among the results, that holds the best model."""


class TrainingLog:
    """Handles the messages that the workers of a training send to the driver.

    The caller passes each message to `see`, which shows progress to the user, and then to `record`, which writes to
    MLflow and may be called again with the same message after a TrackingError.

    An attempt begins whenever the workers start to train: at first, after a restart, and after a change of their number
    (`glowctl.training.messages.Attempt`). An epoch is shown at once, and written to MLflow when a checkpoint with it is
    stored (`Stored`): MLflow cannot replace a value, and until then a death of the workers would make them train the
    epoch again.

    Args:
        work: the training.
        record: the training's run in MLflow; None if the run does not exist yet. Then `attach` must supply the run
            before the method `record` is called.
        show: shows events to the user.
        began: when the command started, in seconds since 1970. If given, the time from then to the first attempt is
            shown and recorded.
        named: whether the start of an attempt is shown with the name and the id of the run.
        before: the run as MLflow had it before it was resumed; None for a new run.

    Attributes:
        scores: the score tables of the workers. The key is the name of the split and the position, in the split, of the
            table's first image.
        workers: number of workers of the latest attempt; 0 before the first.
        tested: the best model by validation, tested; None until the training ends.
        restarts: how often the run has been restarted or resumed.
    """

    def __init__(
        self,
        work: Work,
        record: Record | None,
        show: Show,
        began: float | None = None,
        named: bool = False,
        before: Run | None = None,
    ) -> None:
        self._work, self._record, self._show, self._named = work, record, show, named
        self._began = began
        self._shown: dict[Attempt, AttemptStarted] = {}  # the events of attempts that `record` has not written yet
        self._steps_of_attempts: dict[Attempt, int] = {}  # steps in MLflow; the first attempt of a run is step 0
        self._with_samples: set[int] = set()  # epochs whose samples this process has recorded
        self._machines: dict[str, JsonObject] = {}  # what each machine is made of
        self.scores: dict[tuple[str, int], pd.DataFrame] = {}
        self.workers = 0
        self.tested: Tested | None = None
        self._goes_on = before is not None or work.resumed is not None
        self.restarts = 0 if before is None else int(before.data.metrics.get("restarts", 0))

    @property
    def _run(self) -> Record:
        assert self._record is not None
        return self._record

    def attach(self, record: Record) -> None:
        """Supply the run in MLflow that this log writes to."""
        self._record = record

    def see(self, message: Message) -> None:
        """Show the message if it is an attempt, a step or an epoch; keep what `conclude` needs from it."""
        match message:
            case Attempt():
                self._see_attempt(message)
            case Step() | Epoch():
                self._show(message)
            case Tested():
                self.tested = message
            case Scores():
                self.scores[message.split, message.start] = message.table
            case Logged(text):
                WORKERS.warning(text)
            case Hardware(name, facts):
                self._machines[name] = facts

    def record(self, message: Message) -> None:
        """Write to MLflow what the message is about: an attempt, a stored checkpoint, or the load of a machine.

        `see` must have been called with the message before.

        Raises:
            TrackingError: if MLflow cannot be written; call this again later with the same message.
        """
        run = self._run.impatient()
        match message:
            case Attempt():
                self._record_attempt(message, run)
            case Stored(path):
                progress = None
                # Ray deletes a checkpoint, perhaps while it is read, when a newer one is stored, which has its epochs.
                with unheeded(log, f"{path} was not read", OSError, CheckpointError):
                    progress = Progress.read(path, open_storage(self._work.spec.output)[0])
                if progress is not None:
                    self.record_progress(progress, run)
            case Machine():
                run.machine(message.name, message.figures)
            case Hardware():
                run.text(self._environment(), ENVIRONMENT_FILE)

    def record_progress(self, progress: Progress, run: Record | None = None) -> None:
        """Add to the run in MLflow the epochs and samples that it lacks.

        Args:
            progress: the epochs and samples of a checkpoint.
            run: the run, if it is not to be written patiently.

        Raises:
            TrackingError: if MLflow cannot be written.
        """
        record_progress(run or self._run, progress, self._with_samples)

    def _see_attempt(self, attempt: Attempt) -> None:
        """Show an attempt as a start, a resize or a restart.

        The first attempt is the start. One with more workers than before is elastic growth. Any other follows the loss
        of a worker.
        """
        before, self.workers = self.workers, attempt.workers
        kind = Started if not before else Resize if attempt.workers > before else Restart
        self.restarts += kind is Restart or (kind is Started and self._goes_on)
        shown = kind(
            workers=attempt.workers,
            epoch=attempt.epoch,
            step=attempt.step or None,
            device=attempt.device,
            precision=attempt.precision,
            parameters=attempt.parameters,
            restarts=self.restarts,
            startup_seconds=time.time() - self._began if kind is Started and self._began is not None else None,
            run=self._run.name if self._named else None,
            run_id=self._run.run_id if self._named else None,
            epochs=self._work.spec.epochs,
        )
        self._shown[attempt] = shown
        self._show(shown)

    def _record_attempt(self, attempt: Attempt, run: Record) -> None:
        shown = self._shown[attempt]
        if attempt not in self._steps_of_attempts:
            self._steps_of_attempts[attempt] = max(run.metric_steps("workers"), default=-1) + 1
        figures: dict[str, float] = {"restarts": shown.restarts, "workers": shown.workers}
        if shown.startup_seconds is not None:
            figures["startup_seconds"] = shown.startup_seconds
        run.metrics(figures, self._steps_of_attempts[attempt])
        run.metrics({"parameters": shown.parameters})
        del self._shown[attempt]  # only now: if MLflow fails above, this method is called again and needs it

    def write_settings(self, folder: Path) -> None:
        """Write what it takes to repeat the run into `folder` and into MLflow.

        Two files are written: ``spec.json`` has the settings as the user gave them, without the tracking URI, and
        ``environment.json`` the versions of all packages and the machines. The run in MLflow also gets its description.

        Raises:
            TrackingError: if MLflow cannot be written.
        """
        given = self._work.given.model_copy(update={"tracking_uri": None})
        (folder / "spec.json").write_text(given.to_json())
        (folder / ENVIRONMENT_FILE).write_text(self._environment())
        self._run.folder(folder, leave_out=CHECKPOINT)
        self._run.describe(training_description(self._work.spec, self._run.run_id, notes=self._work.notes))

    def _environment(self) -> str:
        """Return the content of the file that says what ran the training, with the machines of the workers so far."""
        return environment_text({machine_name(): machine_facts()} | self._machines)

    def conclude(self, progress: Progress, folder: Path, seconds: float, test_bits_per_dim: float) -> TrainResult:
        """Write the results: tables and images into `folder` and MLflow, metrics and the model into MLflow.

        Args:
            progress: the progress of the whole training.
            folder: the folder of the results, which has the best model in its subfolder `CHECKPOINT`.
            seconds: duration of the training.
            test_bits_per_dim: the test set's bits/dim under the best model.

        Raises:
            TrackingError: if MLflow cannot be written.
        """
        samples = self._samples_of_best(progress, folder)
        self.record_progress(progress)
        record_samples(self._run, samples)
        score = progress.best.validation_bits_per_dim
        released = release(self._work, self._run, folder / CHECKPOINT, self.scores, score)
        result = self.result(progress, folder, seconds, test_bits_per_dim, released.uri)
        _write_files(result, progress, samples, folder)
        (folder / ENVIRONMENT_FILE).write_text(self._environment())
        digests = self._work.digests()
        names = [f"{self._work.spec.dataset} {split}" for split in ("test", "validation")]
        test, validation = ((name, digests[name]) for name in names)
        images = {metric_names.TEST: test, metric_names.TEST_ORIGINAL: test, metric_names.BEST_VALIDATION: validation}
        self._run.metrics(_final_metrics(result), result.best_epoch, released.model_id, images=images)
        self._run.folder(folder, leave_out=CHECKPOINT)  # the logged model contains the checkpoint
        self._run.describe(training_description(self._work.spec, self._run.run_id, result, self._work.notes))
        return result

    def _samples_of_best(self, progress: Progress, folder: Path) -> SampleGrid:
        """Return the samples of the best model; draw them if this process did not drive the training at its end."""
        if self.tested is not None:
            return self.tested.samples
        model, last = load_checkpoint(folder / CHECKPOINT), progress.epochs[-1].epoch
        return draw_samples(model, last, self._work.spec.temperature, self._work.splits["validation"])

    def result(
        self, progress: Progress, folder: Path, seconds: float, test_bits_per_dim: float, model: str
    ) -> TrainResult:
        """Return the result of the training, without writing it.

        `model` is the URI of the model in MLflow's registry; the other arguments are those of `conclude`.
        """
        factor = padding(self._work.config.image_shape, self._work.original_shape)
        remote = is_remote(self._work.spec.output)
        place = self._run.artifact_uri if remote else str(folder)
        return TrainResult(
            run=self._run.name,
            run_id=self._run.run_id,
            test_bits_per_dim=test_bits_per_dim,
            test_bits_per_dim_original=test_bits_per_dim * factor,
            validation_bits_per_dim=progress.best.validation_bits_per_dim,
            best_epoch=progress.best_epoch,
            images_per_second=float(np.nanmedian([epoch.images_per_second for epoch in progress.epochs])),
            restarts=self.restarts,
            skipped_steps=progress.epochs[-1].skipped_steps,
            seconds=seconds,
            image_shape=self._work.config.image_shape,
            original_shape=self._work.original_shape,
            sample_grid=f"{place}/samples.png",
            checkpoint=None if remote else f"{place}/{CHECKPOINT}",
            model=model,
            open_with=open_command(self._work.tracking_uri),
        )


def _write_files(result: TrainResult, progress: Progress, samples: SampleGrid, folder: Path) -> None:
    from glow.figures.pictures import image_grid, nll_curve  # only now: no training waits for matplotlib to begin

    history = pd.DataFrame({"epoch": epoch.epoch, **epoch.columns()} for epoch in progress.epochs)
    history.to_csv(folder / "history.csv", index=False)
    nll_curve(history, result.run, result.test_bits_per_dim).savefig(folder / "nll.png", dpi=120)
    np.save(folder / "samples.npy", samples.images)
    Image.fromarray(image_grid(samples.images)).save(folder / "samples.png")


def _final_metrics(result: TrainResult) -> dict[str, float]:
    return {
        metric_names.TEST: result.test_bits_per_dim,
        metric_names.TEST_ORIGINAL: result.test_bits_per_dim_original,
        metric_names.BEST_VALIDATION: result.validation_bits_per_dim,
        "images_per_second_median": result.images_per_second,
        "best_epoch": result.best_epoch,
        "seconds": result.seconds,
    }
