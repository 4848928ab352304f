"""A run in MLflow that is being written."""

from __future__ import annotations

import getpass
import json
import logging
import math
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jobs.system.environment import in_ray_job, job_metadata, ray_job_id
from jobs.system.helper_processes import end, start
from jobs.system.process_identity import this_process
from jobs.system.retry import patient
from jobs.system.verbosity import unheeded
from jobs.tracking import tag_names
from jobs.tracking.liveness import DRIVER, ERROR, beating, ending, forget_death, fresh
from jobs.tracking.metric_steps import MetricSteps
from jobs.tracking.models import log_model, register
from jobs.tracking.queries import metric_history, model_of
from jobs.tracking.store import TrackingError, check_store, client_of, open_store, sentences

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["Record", "Status", "source_tags"]

log = logging.getLogger(__name__)

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

PATIENCE_S = 180.0
RETRY_S = 5.0

ENDS = {ERROR, tag_names.STOPPED}
"""Tags that say why a run ended before its time."""


@dataclass(frozen=True)
class End:
    """How a run ended, and why it failed."""

    status: Status
    error: str | None


class Record:
    """A run that is being written.

    While the store is away, what is written waits for it, up to `PATIENCE_S`; that of `impatient()` raises
    TrackingError at once. A step of a metric, and an image of a step, that the run has already is not written again:
    whoever is not sure what MLflow has may tell it all.
    """

    def __init__(
        self,
        uri: str,
        client: MlflowClient,
        run: Run,
        patience_s: float = PATIENCE_S,
        steps: MetricSteps | None = None,
        new: bool = False,
    ) -> None:
        self._uri, self._client, self._run, self._patience_s = uri, client, run, patience_s
        self._steps = steps or MetricSteps(self.metric_steps, new)
        self.run_id: str = run.info.run_id
        self.name: str = run.info.run_name
        self.artifact_uri: str = run.info.artifact_uri

    @classmethod
    def start(cls, uri: str, experiment: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> Record:
        """A new run. Raises TrackingError."""
        from mlflow.entities import Param

        # A run beneath another is one of many, made by a process that has looked before.
        client, experiment_id = open_store(uri, experiment, look=tag_names.PARENT not in tags)
        with sentences(uri):
            run = client.create_run(
                experiment_id, run_name=name, tags={DRIVER: this_process(), **source_tags(), **tags}
            )
            try:
                client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in params.items()])
            except Exception:
                client.set_terminated(run.info.run_id, "FAILED")
                raise
        return cls(uri, client, run, new=True)

    @classmethod
    def existing(cls, uri: str, run: Run) -> Record:
        """The record of a run that `find_run` found."""
        return cls(uri, client_of(uri), run)

    def impatient(self) -> Record:
        """The same run, for one who tries again by himself."""
        return Record(self._uri, self._client, self._run, patience_s=0.0, steps=self._steps)

    def _write_patiently(self, call: Callable[[], object]) -> None:
        """Raises TrackingError for what the store refuses, or if it stays away."""
        refused = self._patience_s == 0

        def is_absence(error: BaseException) -> bool:
            """Refused twice by a store that answers, it is not the store's absence."""
            nonlocal refused
            if refused or not isinstance(error, TrackingError):
                return False
            refused = _answers(self._uri)
            return True

        def write() -> None:
            with sentences(self._uri):
                call()

        patient(is_absence, self._patience_s, RETRY_S)(write)

    def begin(self) -> None:
        """Sets the run running, which one that is resumed was no more, and forgets how it ended then."""
        from mlflow.entities import RunTag

        def write() -> None:
            # Before all else: one who looks for dead runs must not take it for that of the process before.
            self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in fresh().items()])
            for name in ENDS & self._client.get_run(self.run_id).data.tags.keys():
                self._client.delete_tag(self.run_id, name)
            self._client.update_run(self.run_id, status="RUNNING")

        self._write_patiently(write)

    def metrics(
        self, values: Mapping[str, float], step: int = 0, model_id: str | None = None, at: float = math.nan
    ) -> None:
        """Adds those of which the run does not have this step. `at` is when they were measured, in seconds since 1970,
        or NaN for now. With `model_id` the UI shows them beside that logged model too."""
        from mlflow.entities import Metric

        milliseconds = int(1000 * (time.time() if math.isnan(at) else at))

        def write() -> None:
            missing = self._steps.without(values, step)
            if not missing:
                return
            metrics = [Metric(name, float(values[name]), milliseconds, step, model_id=model_id) for name in missing]
            try:
                self._client.log_batch(self.run_id, metrics=metrics)
            except BaseException:
                self._steps.doubt(missing)
                raise
            self._steps.add(missing, step)

        self._write_patiently(write)

    def machine(self, name: str, figures: Mapping[str, float]) -> None:
        """What a machine was doing, where MLflow's UI shows that; the step is seconds since the run's start. On a
        cluster they bear the machine's name."""
        prefix = f"system/{name}" if in_ray_job() else "system"
        seconds = int(time.time() - self._run.info.start_time / 1000)
        self.metrics({f"{prefix}/{kind}": value for kind, value in figures.items()}, seconds)

    def metric_steps(self, name: str) -> dict[int, float]:
        """The last value of a metric at each step."""
        return metric_history(self._uri, self.run_id, name)

    def tag(self, name: str, value: str) -> None:
        self._write_patiently(lambda: self._client.set_tag(self.run_id, name, value))

    def describe(self, markdown: str) -> None:
        """The description that the UI shows above the run."""
        self.tag(tag_names.NOTE, markdown)

    def image(self, image: np.ndarray, key: str, step: int) -> None:
        """A uint8 image (H, W, 3) of a series that the UI shows over the steps."""

        def write() -> None:
            if step not in self._image_steps(key):
                self._client.log_image(self.run_id, image, key=key, step=step, synchronous=True)

        self._write_patiently(write)

    def _image_steps(self, key: str) -> set[int]:
        """The steps of a series of images, out of the names that MLflow gives their files."""
        files = (Path(file.path).name for file in self._client.list_artifacts(self.run_id, "images"))
        named = (re.match(rf"{re.escape(key)}[%+]step[%+](\d+)[%+]", file) for file in files)
        return {int(found[1]) for found in named if found}

    def folder(self, folder: Path, leave_out: str | None = None) -> None:
        """Everything in `folder`, as artifacts of the same paths, less what bears one name."""

        def write() -> None:
            for path in sorted(folder.iterdir()):
                if path.name != leave_out:
                    self._client.log_artifact(self.run_id, str(path))

        self._write_patiently(write)

    def model(
        self, folder: Path, name: str, tags: Mapping[str, str], description: str | None = None
    ) -> tuple[str, str]:
        """Logs the MLflow model in `folder` as the run's, and registers it under this name: its id, and its version,
        which `description` is of."""
        made: list[str] = []

        def write() -> None:
            # What an earlier try has logged is not sent again.
            present = model_of(self._client, self._client.get_run(self.run_id))
            if present is not None and tags.items() <= present.tags.items():
                model_id = present.model_id
            else:
                model_id = log_model(self._uri, self.run_id, folder, tags=tags)
            made[:] = [model_id, register(self._uri, name, self.run_id, model_id, tags, description)]

        self._write_patiently(write)
        return made[0], made[1]

    def uses(self, model_id: str) -> None:
        """Says that the run is about a logged model, so that the UI links them."""
        from mlflow.entities import LoggedModelInput

        self._write_patiently(lambda: self._client.log_inputs(self.run_id, models=[LoggedModelInput(model_id)]))

    def file(self, file: Path, folder: str) -> None:
        """A file, as an artifact in this folder of the run."""
        self._write_patiently(lambda: self._client.log_artifact(self.run_id, str(file), folder))

    def table(self, table: pd.DataFrame, path: str) -> None:
        """A table that the UI shows and compares over runs; `path` ends in .json."""

        def write() -> None:
            if any(artifact.path == path for artifact in self._client.list_artifacts(self.run_id)):
                # log_table would add to it; this is the form that it writes.
                self._client.log_text(self.run_id, table.to_json(orient="split", index=False), path)
            else:
                self._client.log_table(self.run_id, table, path)

        self._write_patiently(write)

    def dataset(self, shape: tuple[int, ...], name: str, digest: str, context: str, source: str) -> None:
        """A data set of uint8 images as an input of the run; `context` is training, validation or test."""
        import numpy as np
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.numpy_dataset import from_numpy
        from mlflow.entities import Dataset, DatasetInput, InputTag

        images = np.broadcast_to(np.uint8(0), shape)  # MLflow looks at the shape alone
        dataset = from_numpy(images, source=CodeDatasetSource({tag_names.DATASET: source}), name=name, digest=digest)
        entry = DatasetInput(Dataset(**dataset.to_dict()), [InputTag(tag_names.DATA_CONTEXT, context)])
        self._write_patiently(lambda: self._client.log_inputs(self.run_id, [entry]))

    @contextmanager
    def system_metrics(self, interval_s: float = 5.0) -> Iterator[None]:
        """Records this machine's processor, memory, disk, network and GPUs meanwhile."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(
            self.run_id, sampling_interval=interval_s, resume_logging=True, tracking_uri=self._uri
        )
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    @contextmanager
    def running(self, system_metrics: bool = True) -> Iterator[None]:
        """Leaves the run in a true state, however what is done meanwhile ends, and whatever interrupts that.

        Raises TrackingError if the store stays away; the end that it was not told is then left to the watcher.
        """
        status: Status = "FAILED"
        cause: str | None = None
        with _watched(self._uri, self.run_id) as unwritten:
            try:
                self.begin()
                with (
                    beating(self._client, self.run_id),
                    self.system_metrics() if system_metrics else nullcontext(),
                ):
                    yield
                status = "FINISHED"
            except KeyboardInterrupt:
                status = "KILLED"
                raise
            except Exception as error:  # which is the one to tell
                cause = str(error)[:5000]
                with unheeded(log, "the watcher writes why the run failed", TrackingError):
                    self.impatient().tag(ERROR, cause)
                raise
            finally:
                unwritten.append(End(status, cause))  # until it is written: Ctrl-C may end the wait for the store
                if status == "FINISHED":
                    self.finish(status)
                    unwritten.clear()
                else:
                    with unheeded(log, "the watcher writes how the run ended", TrackingError):
                        self.impatient().finish(status)
                        unwritten.clear()

    def finish(self, status: Status) -> None:
        """Sets how the run ended, also where somebody took it for dead before."""

        def write() -> None:
            with ending:
                run = self._client.get_run(self.run_id)
                self._client.set_terminated(self.run_id, status)
                forget_death(self._client, run)  # last: what says that the status is wrong

        self._write_patiently(write)


@contextmanager
def _watched(uri: str, run_id: str) -> Iterator[list[End]]:
    """Has a run watched meanwhile. An end that is put into what it gives is written by the watcher, which tries for
    minutes and is not waited for. It costs a process of 20 MB; the store's URI, which may hold a password, is in no
    list of processes."""
    watcher = start("jobs.tracking.watch")
    assert watcher.stdin is not None
    unwritten: list[End] = []
    try:
        watcher.stdin.write(json.dumps({"uri": uri, "run_id": run_id, "driver": this_process()}) + "\n")
        watcher.stdin.flush()
        yield unwritten
    finally:
        end(watcher, json.dumps(asdict(unwritten[0])) if unwritten else "done", wait=not unwritten)


def _answers(uri: str) -> bool:
    try:
        check_store(uri)
    except TrackingError as error:
        log.debug("the store is away: %s", error)
        return False
    return True


def source_tags() -> dict[str, str]:
    """Who ran what, as MLflow's own runs say it, with the commit that the code is at where it is a git checkout. In a
    job of a cluster that is what it was submitted with, and the job's id."""
    job = ray_job_id()
    if job is not None:
        known = {name: text for name, text in job_metadata().items() if name.startswith(("mlflow.", tag_names.SOURCE))}
        return {**known, tag_names.RAY_JOB: job}
    tags = {tag_names.SOURCE_NAME: "glowctl", "mlflow.source.type": "LOCAL"}
    with suppress(OSError, KeyError):
        tags[tag_names.USER] = getpass.getuser()
    project = Path(__file__).parents[2]
    if _git(project, "rev-parse", "--show-toplevel") == str(project):  # and not a checkout that it is installed in
        tags[tag_names.COMMIT] = _git(project, "rev-parse", "HEAD") or ""
        tags[tag_names.SOURCE_CHANGED] = str(bool(_git(project, "status", "--porcelain", "--untracked-files=no")))
    return tags


def _git(folder: Path, *arguments: str) -> str | None:
    with suppress(OSError):
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None
    return None
