"""Writing a run to MLflow: its status, metrics, tags, images, files, tables and models.

The driver of a run is the process that writes the run. `Record.start` creates a run. The driver does its work inside
`Record.running`, so that the run gets the correct final status even if the driver dies.
"""

from __future__ import annotations

import getpass
import json
import logging
import math
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from glowctl.system.environment import in_ray_job, job_metadata, ray_job_id
from glowctl.system.helper_processes import tell_helpers
from glowctl.system.machine_metrics import INTERVAL_S, machine_name, sampled
from glowctl.system.retry import patient
from glowctl.system.verbosity import unheeded
from glowctl.tracking import tag_names
from glowctl.tracking.liveness import beating, is_marked, signs_of_life
from glowctl.tracking.models import log_model, register
from glowctl.tracking.on_end import tell_end
from glowctl.tracking.runs import metric_history, model_of
from glowctl.tracking.store import check_store, client_of, open_store, sentences
from glowctl.tracking.uris import TrackingError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

PATIENCE_S = 180.0
"""Seconds for which a write is repeated while the store does not answer."""

RETRY_S = 5.0
"""Seconds between two tries."""

END_PATIENCE_S = 15.0
"""Seconds for which a driver that was stopped, or that failed, repeats the write of its end."""

IMAGES = "images"
"""Folder of the images among a run's artifacts."""


class WrittenSteps:
    """The steps of each metric of one run, or of each series of images, cached, so that no step is written twice.

    MLflow appends every value that it receives. The cache is valid because no other process writes to the run. The
    store is asked for the steps of a metric when they are first needed, but not for a new run, which has no steps.
    After a failed write the store is asked in any case: the write may have succeeded although its answer was lost.

    Args:
        ask: takes the name of a metric, and returns the steps at which the store has a value of the metric.
        new: whether the run was created just now.

    Examples:
        >>> steps = WrittenSteps(lambda name: [1, 2], new=False)
        >>> steps.without(["loss"], 2), steps.without(["loss"], 3)
        ([], ['loss'])
    """

    def __init__(self, ask: Callable[[str], Iterable[int]], new: bool) -> None:
        self._ask, self._new = ask, new
        self._known: dict[str, set[int]] = {}

    def of(self, name: str) -> set[int]:
        """Return the steps at which the run has a value of the metric `name`. Errors of `ask` are passed on."""
        if name not in self._known:
            self._known[name] = set() if self._new else set(self._ask(name))
        return self._known[name]

    def without(self, names: Iterable[str], step: int) -> list[str]:
        """Return the metrics among `names` that have no value at this step. Errors of `ask` are passed on."""
        return [name for name in names if step not in self.of(name)]

    @contextmanager
    def adding(self, names: list[str], step: int) -> Iterator[None]:
        """Add the step to these metrics after the block, which writes it; forget what they have if the block fails."""
        try:
            yield
        except BaseException:
            self._new = False
            for name in names:
                self._known.pop(name, None)
            raise
        for name in names:
            self.of(name).add(step)


class Record:
    """A run that is being written.

    While the store does not answer, a write is repeated for up to `patience_s` seconds. A record that `impatient`
    returns tries each write only once. A write raises TrackingError if the store still does not answer after its last
    try, or if the store refuses it.

    If the run already has a value of a metric at a step, or an image of a series at a step, that value or image is not
    written again. A caller that is unsure what MLflow has can therefore write everything.

    Args:
        uri: the store.
        client: client of the store.
        run: the run.
        patience_s: seconds for which a write is repeated while the store does not answer.
        steps: a cache of the steps at which the run has values of each metric; None makes a new cache.
        image_steps: a cache of the steps at which the run has images of each series; None makes a new cache.
        new: whether the run was created just now, so that it has no metrics and images.

    Attributes:
        run_id: MLflow's id of the run.
        name: the run's name.
        artifact_uri: URI of the folder of the run's artifacts.
    """

    def __init__(
        self,
        uri: str,
        client: MlflowClient,
        run: Run,
        patience_s: float = PATIENCE_S,
        steps: WrittenSteps | None = None,
        image_steps: WrittenSteps | None = None,
        new: bool = False,
    ) -> None:
        self._uri, self._client, self._run, self._patience_s = uri, client, run, patience_s
        # Without `metric_steps`, which repeats the question: a write that asks is repeated as a whole, or is impatient.
        self._steps = steps or WrittenSteps(lambda name: metric_history(uri, run.info.run_id, name), new)
        self._image_steps = image_steps or WrittenSteps(self.image_steps, new)
        self.run_id: str = run.info.run_id
        self.name: str = run.info.run_name
        self.artifact_uri: str = run.info.artifact_uri

    @classmethod
    def start(cls, uri: str, experiment: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> Record:
        """Create a run, and the store and the experiment if they are missing.

        Args:
            uri: the store.
            experiment: name of the experiment.
            name: name of the run.
            tags: tags of the run, in addition to those of its driver and its source.
            params: parameters of the run; their values are stored as text.

        Raises:
            TrackingError: if the store cannot be used.
        """
        from mlflow.entities import Param

        # The process that creates nested runs has looked for dead runs when it created their parent.
        client, experiment_id = open_store(uri, experiment, look=tag_names.PARENT not in tags)
        with sentences(uri):
            run = client.create_run(experiment_id, run_name=name, tags={**signs_of_life(), **source_tags(), **tags})
            try:
                client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in params.items()])
            except Exception:
                client.set_terminated(run.info.run_id, "FAILED")
                raise
        return cls(uri, client, run, new=True)

    @classmethod
    def existing(cls, uri: str, run: Run) -> Record:
        """Return a `Record` that writes more to a run that exists already."""
        return cls(uri, client_of(uri), run)

    def impatient(self) -> Record:
        """Return a record of the same run that tries each write once, for callers that repeat writes themselves."""
        return self._with_patience(0.0)

    def _with_patience(self, patience_s: float) -> Record:
        return Record(self._uri, self._client, self._run, patience_s, self._steps, self._image_steps)

    def _write_patiently(self, call: Callable[[], object]) -> None:
        """Call a function, and repeat it while the store does not answer. Raise TrackingError if it never succeeds."""
        refused = self._patience_s == 0

        def is_absence(error: BaseException) -> bool:
            """Return whether to repeat the write. If the store answers, it refused the write: repeat it only once."""
            nonlocal refused
            if refused or not isinstance(error, TrackingError):
                return False
            refused = _answers(self._uri)
            return True

        def write() -> None:
            with sentences(self._uri):
                call()

        patient(is_absence, self._patience_s, RETRY_S)(write)

    def begin(self, on_end: str | None = None) -> None:
        """Set the status of the run to RUNNING, for a new run or one that is resumed, with this process as its driver.

        Tags that say why the run ended earlier, and whom to tell its end, are removed.

        Args:
            on_end: the address or command that is told how the run ends.
        """
        from mlflow.entities import RunTag

        tags = signs_of_life() | ({} if on_end is None else {tag_names.ON_END: on_end})

        def write() -> None:
            # First, because a process that looks for dead runs would otherwise still see the previous driver.
            self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
            earlier = {tag_names.ERROR, tag_names.STOPPED, tag_names.ON_END} - tags.keys()
            for name in earlier & self._client.get_run(self.run_id).data.tags.keys():
                self._client.delete_tag(self.run_id, name)
            self._client.update_run(self.run_id, status="RUNNING")

        self._write_patiently(write)

    def metrics(
        self,
        values: Mapping[str, float],
        step: int = 0,
        model_id: str | None = None,
        at: float = math.nan,
        images: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        """Write the values of metrics at one step. Metrics that already have this step are skipped.

        Args:
            values: metric -> value.
            step: the step, such as an epoch.
            model_id: id of a logged model; the UI then shows the metrics with this model too.
            at: when they were measured, in seconds since 1970; NaN stands for the current time.
            images: metric -> the data set that it was measured on, as name and digest (`dataset`), for metrics that
                have one. `mlflow.search_logged_models` can then order models by the metric on this data set.
        """
        from mlflow.entities import Metric

        milliseconds = int(1000 * (time.time() if math.isnan(at) else at))

        def write() -> None:
            missing = self._steps.without(values, step)
            if not missing:
                return
            metrics = [
                Metric(name, float(values[name]), milliseconds, step, model_id, *(images or {}).get(name, (None, None)))
                for name in missing
            ]
            with self._steps.adding(missing, step):
                self._client.log_batch(self.run_id, metrics=metrics)

        self._write_patiently(write)

    def machine(self, name: str, figures: Mapping[str, float]) -> None:
        """Write system metrics of a machine, which MLflow's UI shows on a separate page of the run.

        The step is the number of seconds since the run's start. In a Ray job the names of the metrics include the name
        of the machine.

        Args:
            name: name of the machine.
            figures: the measurements: name, such as "cpu_utilization_percentage", -> value.
        """
        prefix = f"system/{name}" if in_ray_job() else "system"
        seconds = int(time.time() - self._run.info.start_time / 1000)
        self.metrics({f"{prefix}/{kind}": value for kind, value in figures.items()}, seconds)

    def metric_steps(self, name: str) -> dict[int, float]:
        """Return a metric of this run as step -> value. Of several values at one step, the last counts.

        The read is repeated like a write, because a training reads what its run lacks just before it ends.
        """
        found: dict[int, float] = {}
        self._write_patiently(lambda: found.update(metric_history(self._uri, self.run_id, name)))
        return found

    def tag(self, name: str, value: str) -> None:
        """Set a tag, and replace its value if the run has it."""
        self._write_patiently(lambda: self._client.set_tag(self.run_id, name, value))

    def describe(self, markdown: str) -> None:
        """Set the description that the UI shows above the run, in Markdown."""
        self.tag(tag_names.NOTE, markdown)

    def image(self, image: np.ndarray, key: str, step: int) -> None:
        """Write an image of a series that the UI shows with a slider over the steps.

        Args:
            image: uint8 (H, W, 3).
            key: name of the series.
            step: the step; nothing is written if the series already has an image at this step.
        """

        def write() -> None:
            if self._image_steps.without([key], step):
                with self._image_steps.adding([key], step):
                    self._client.log_image(self.run_id, image, key=key, step=step, synchronous=True)

        self._write_patiently(write)

    def image_steps(self, key: str) -> set[int]:
        """Return the steps at which this run has an image of the series `key`, by the names that MLflow gives them."""
        with sentences(self._uri):
            names = [Path(file.path).name for file in self._client.list_artifacts(self.run_id, IMAGES)]
        named = [re.match(rf"{re.escape(key)}[%+]step[%+](\d+)[%+].*\.png$", name) for name in names]
        return {int(found[1]) for found in named if found}

    def folder(self, folder: Path, leave_out: str | None = None) -> None:
        """Upload everything in `folder` as artifacts with the same paths, except the entry named `leave_out`."""

        def write() -> None:
            for path in sorted(folder.iterdir()):
                if path.name != leave_out:
                    self._client.log_artifact(self.run_id, str(path))

        self._write_patiently(write)

    def model(
        self, folder: Path, name: str, tags: Mapping[str, str], description: str | None = None
    ) -> tuple[str, str]:
        """Log the MLflow model in `folder` to the run, and register it.

        Args:
            folder: what `save_model` wrote.
            name: name of the registered model.
            tags: tags of the logged model and of the registered version.
            description: description of the registered version.

        Returns:
            The id of the logged model, and the number of the registered version.
        """
        made: list[str] = []

        def write() -> None:
            # A model that an earlier try has uploaded is not uploaded again.
            present = model_of(self._client, self._client.get_run(self.run_id))
            if present is not None and tags.items() <= present.tags.items():
                model_id = present.model_id
            else:
                model_id = log_model(self._uri, self.run_id, folder, tags=tags)
            made[:] = [model_id, register(self._uri, name, self.run_id, model_id, tags, description)]

        self._write_patiently(write)
        return made[0], made[1]

    def uses(self, model_id: str) -> None:
        """Set a logged model as an input of the run, so that the UI links the two."""
        from mlflow.entities import LoggedModelInput

        self._write_patiently(lambda: self._client.log_inputs(self.run_id, models=[LoggedModelInput(model_id)]))

    def text(self, content: str, path: str) -> None:
        """Write a text as an artifact of the run, and replace the one that is at `path`."""
        self._write_patiently(lambda: self._client.log_text(self.run_id, content, path))

    def file(self, file: Path, folder: str | None = None) -> None:
        """Upload a file into a folder of the run's artifacts, or beside them."""
        self._write_patiently(lambda: self._client.log_artifact(self.run_id, str(file), folder))

    def table(self, table: pd.DataFrame, path: str) -> None:
        """Write a table that the UI can show and compare between runs. A table that exists at `path` is replaced.

        Args:
            table: the table.
            path: path of the artifact, which ends in .json.
        """

        def write() -> None:
            if not any(artifact.path == path for artifact in self._client.list_artifacts(self.run_id)):
                self._client.log_table(self.run_id, table, path)
                return
            # log_table would append rows. This is the format that it writes.
            self._client.log_text(self.run_id, table.to_json(orient="split", index=False), path)
            listed = json.loads(self._client.get_run(self.run_id).data.tags.get(tag_names.LOGGED_ARTIFACTS, "[]"))
            entry = {"path": path, "type": "table"}
            if entry not in listed:  # a process died when it had written the table
                self._client.set_tag(self.run_id, tag_names.LOGGED_ARTIFACTS, json.dumps([*listed, entry]))

        self._write_patiently(write)

    def dataset(self, shape: tuple[int, ...], name: str, digest: str, context: str, source: str) -> None:
        """Write a data set of uint8 images as an input of the run.

        Args:
            shape: (N, C, H, W).
            name: name of the data set and its split, such as "mnist train".
            digest: fingerprint of the images.
            context: "training", "validation" or "test".
            source: the data set as the user named it.
        """
        import numpy as np
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.numpy_dataset import from_numpy
        from mlflow.entities import Dataset, DatasetInput, InputTag

        images = np.broadcast_to(np.uint8(0), shape)  # MLflow reads nothing but the shape
        dataset = from_numpy(images, source=CodeDatasetSource({tag_names.DATASET: source}), name=name, digest=digest)
        entry = DatasetInput(Dataset(**dataset.to_dict()), [InputTag(tag_names.DATA_CONTEXT, context)])
        self._write_patiently(lambda: self._client.log_inputs(self.run_id, [entry]))

    @contextmanager
    def system_metrics(self, interval_s: float = INTERVAL_S) -> Iterator[None]:
        """Record this machine's processor, memory, disk, network and GPUs during the `with` block.

        A sample that the store does not take is lost; the next one is tried.

        Args:
            interval_s: seconds between two samples.
        """
        impatient = self.impatient()
        with sampled(lambda figures: impatient.machine(machine_name(), figures), interval_s):
            yield

    @contextmanager
    def running(
        self, beside: Callable[[], None] = lambda: None, on_end: str | None = None, system_metrics: bool = True
    ) -> Iterator[None]:
        """Set the run RUNNING, and write how it ended when the `with` block ends, whatever ends it.

        The status is FINISHED if the block ends without an exception, KILLED after Ctrl-C, and FAILED after any other
        exception. If this process is killed, `glowctl.tracking.liveness.mark_dead` writes the status instead. If the
        store does not answer at the end, the run stays RUNNING until the next command marks it.

        Args:
            beside: is called with each heartbeat, in a thread.
            on_end: the address or command that is told how the run ended, also if this process is killed.
            system_metrics: whether to record this machine's system metrics.

        Raises:
            TrackingError: if the store does not answer for `PATIENCE_S` at the start, or at the end of a block without
                an exception.
        """
        status: Status = "FAILED"
        cause: str | None = None
        tell_helpers(json.dumps([self._uri, self._run.info.experiment_id]))
        try:
            self.begin(on_end)
            with beating(self._client, self.run_id, beside), self.system_metrics() if system_metrics else nullcontext():
                yield
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except Exception as error:
            cause = str(error)[:5000]
            raise
        finally:
            if status == "FINISHED":
                self.finish(status)
                tell_end(self._client, self.run_id)
            else:  # the caller gets its error, even if the store fails now too
                with unheeded(log, "how the run ended could not be written", TrackingError):
                    self._with_patience(END_PATIENCE_S)._end(status, cause)
                    tell_end(self._client, self.run_id)
            tell_helpers("")

    def finish(self, status: Status) -> None:
        """Write the final status of the run, even if another process took the driver for dead and marked the run."""
        self._end(status, None)

    def _end(self, status: Status, cause: str | None) -> None:
        def write() -> None:
            if cause is not None:
                self._client.set_tag(self.run_id, tag_names.ERROR, cause)
            elif is_marked(self._client.get_run(self.run_id)):
                self._client.delete_tag(self.run_id, tag_names.ERROR)
            self._client.set_terminated(self.run_id, status)

        self._write_patiently(write)


def _answers(uri: str) -> bool:
    try:
        check_store(uri)
    except TrackingError as error:
        log.debug("the store does not answer: %s", error)
        return False
    return True


def source_tags() -> dict[str, str]:
    """Return tags for the program, the user, the git commit, and whether files were changed since the commit.

    The tags on git are left out unless the folder of this project is the root of a git checkout. In a Ray job, the tags
    come from the machine that submitted the job, which stored them with the job; the id of the job is added.
    """
    job = ray_job_id()
    if job is not None:
        known = {name: text for name, text in job_metadata().items() if name.startswith(("mlflow.", tag_names.SOURCE))}
        return {**known, tag_names.RAY_JOB: job}
    tags = {tag_names.SOURCE_NAME: "glowctl", "mlflow.source.type": "LOCAL"}
    with suppress(OSError, KeyError):
        tags[tag_names.USER] = getpass.getuser()
    project = Path(__file__).parents[3]  # jobs/glowctl/tracking
    if _git(project, "rev-parse", "--show-toplevel") == str(project):  # not a checkout of another project
        tags[tag_names.COMMIT] = _git(project, "rev-parse", "HEAD") or ""
        tags[tag_names.SOURCE_CHANGED] = str(bool(_git(project, "status", "--porcelain", "--untracked-files=no")))
    return tags


def _git(folder: Path, *arguments: str) -> str | None:
    with suppress(OSError):
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None
    return None
