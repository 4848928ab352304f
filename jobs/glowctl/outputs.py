"""The output of runs: its folder or bucket, the folder of each run in it, and the file ``run.json``.

A run's folder has a lock, which one command at a time holds. The file ``run.json`` in the folder is enough to continue
the run if its record in MLflow is lost, for example because MLflow's data were on the head of a cluster that is gone.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from filelock import Timeout as FileLockTimeout

from glowctl.errors import JobError
from glowctl.specs.training import TrainSpec
from glowctl.system.environment import in_ray_job, storage
from glowctl.tracking import tag_names
from glowctl.tracking.runs import find_run, recorded_images
from glowctl.tracking.uris import NoSuchRun, without_password

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

    from glowctl.text import JsonObject
    from glowctl.tracking.runs import Run


RUN_FILE = "run.json"
"""Name of the file with what is kept of a run."""

TRIAL_FILE = "trial.json"
"""Name of the file with what is kept of the end of a trial."""


def is_remote(output: str) -> bool:
    """Return whether an output is a bucket and not a folder.

    Examples:
        >>> is_remote("s3://bucket/glow"), is_remote("outputs")
        (True, False)
    """
    return "://" in output


def usable_output(output: str) -> str:
    """Return the absolute path of an output folder, which is made if it is new, or the URI of a bucket.

    A relative path is inside $GLOW_STORAGE if this variable is set, else inside the working folder.

    Args:
        output: value of --output.

    Raises:
        JobError: if the folder cannot be written, or the URI contains a password. In a job on a cluster, also if the
            path is relative and $GLOW_STORAGE is not set, because the working folder of the job is deleted at its end.
    """
    if not is_remote(output) and not Path(output).expanduser().is_absolute():
        under = storage()
        if under is not None:
            output = f"{under.rstrip('/')}/{output}"
        elif in_ray_job():
            raise JobError(
                f"--output {output} is a relative path, which a job on a cluster cannot use without GLOW_STORAGE",
                remedy="give --output a bucket, or the absolute path of a folder that all machines share, or set "
                "GLOW_STORAGE on the head of the cluster before Ray starts",
                code="output-relative",
            )
    if is_remote(output):
        refuse_password(output, "--output")
        return output
    path = Path(output).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise JobError(
            f"the output folder {path} cannot be written ({error.strerror})",
            remedy="choose another one with --output",
            code="output-not-writable",
        ) from None
    return str(path)


def refuse_password(address: str, where: str) -> None:
    """Check that an address contains no password, because everyone who can read the run in MLflow would see it.

    Args:
        address: the URI of a bucket.
        where: the flag that the address was given to, for the error message.

    Raises:
        JobError: if it contains a password.
    """
    shown = without_password(address)
    if shown != address:
        raise JobError(
            f"{where} {shown} contains a password, which the run in MLflow would show",
            remedy="leave out the password, and set the environment variables of the bucket's client, such as "
            "AWS_SECRET_ACCESS_KEY",
            code="password-in-uri",
        )


@contextmanager
def results_folder(place: str, name: str = "") -> Iterator[Path]:
    """Yield the folder `name` in another folder, both of which are made if they are new.

    If the place is in a bucket, yield a temporary folder instead. Its files are not lost, because they are also written
    to MLflow.
    """
    if is_remote(place):
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    folder = Path(place, name)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def folder_of_trial(place: str, label: str) -> str:
    """Return the folder of a trial, in the folder of its ablation or in a bucket.

    It has the results of the trial, its ``trial.json`` and, if it has several workers, the checkpoints of Ray Train.
    """
    return f"{place}/trials/{label.replace(' ', '-')}"


@contextmanager
def claimed(place: str, run_id: str, command: str) -> Iterator[None]:
    """Hold the lock of a run's folder, so that only one glowctl at a time works on the run.

    The lock is released when the `with` block or its process ends. There is no lock in a bucket.

    Args:
        place: path of the run's folder, or its URI in a bucket.
        run_id: id of the run, for the error message.
        command: name of the glowctl command, for the error message.

    Raises:
        JobError: if another process holds the lock.
    """
    if is_remote(place):
        yield
        return
    folder = Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except FileLockTimeout:
        raise JobError(
            f"another glowctl {command} is at work on run {run_id}",
            remedy="wait until that command ends, or stop it",
            code="run-locked",
        ) from None


def open_storage(place: str) -> tuple[FileSystem, str]:
    """Return the pyarrow file system that contains a folder or bucket, and the path in this file system.

    Raises:
        OSError: if the bucket cannot be reached.
        ValueError: for a URI of an unknown kind.
    """
    from pyarrow.fs import FileSystem, LocalFileSystem

    return FileSystem.from_uri(place) if is_remote(place) else (LocalFileSystem(), place)


@dataclass(frozen=True, kw_only=True)
class KeptRun:
    """The content of a ``run.json``.

    Attributes:
        job: "train" or "ablate".
        run_id: id of the run in MLflow that the folder belongs to. It changes if MLflow has lost the run.
        run_name: name of the run.
        result: the `KeptResult` of a training; None while it has none, and for an ablation.
        spec: settings of the job.
        images: fingerprint of each split, by data set and split, such as "mnist train".
        resources: ``cpus_per_worker`` and ``gpus_per_worker`` of the trials of an ablation; None for a training.
    """

    job: str
    run_id: str
    run_name: str
    result: KeptResult | None = None
    spec: JsonObject
    images: Mapping[str, str]
    resources: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class KeptResult:
    """How a training ended, in the ``run.json`` of a training or the ``trial.json`` of a trial.

    Attributes:
        state: "finished"; for a trial also "stopped" by a scheduler, or "failed" by an error that would occur again.
        reason: why it was stopped or failed; None if it finished.
        test_bits_per_dim: bits/dim of the test set under the best model by validation; None unless it finished.
        seconds: duration of the training; None unless it finished.
        score: the last score that a trial reported, which a search compares; infinite if it failed.
    """

    state: str
    reason: str | None = None
    test_bits_per_dim: float | None = None
    seconds: float | None = None
    score: float = math.inf


def remember(place: str, kept: KeptRun | KeptResult) -> None:
    """Write the ``run.json`` of a run into its folder, or the ``trial.json`` of a trial.

    The file is replaced as a whole: a process that is killed leaves the one before.

    Args:
        place: path of the folder, or its URI in a bucket.
        kept: the content.

    Raises:
        JobError: if the file cannot be written.
    """
    name = RUN_FILE if isinstance(kept, KeptRun) else TRIAL_FILE
    try:
        files, path = open_storage(place)
        files.create_dir(path, recursive=True)
        with files.open_output_stream(f"{path}/{name}.part") as stream:
            stream.write(json.dumps(asdict(kept), indent=2).encode())
        files.move(f"{path}/{name}.part", f"{path}/{name}")
    except (OSError, ValueError) as error:
        raise JobError(
            f"{place} cannot be written ({str(error).splitlines()[0]})",
            remedy="free some space if the disk is full, or choose another --output",
            code="output-not-writable",
        ) from error


def recall(place: str) -> KeptRun | None:
    """Read the ``run.json`` in a folder; return None if there is no such file, or `remember` did not write it.

    Raises:
        JobError: if the folder or bucket cannot be read.
    """
    content = _json_in(place, RUN_FILE)
    try:
        result = content and content.get("result")
        return content and KeptRun(**{**content, "result": result and KeptResult(**result)})
    except TypeError:
        return None


def recall_trial(place: str) -> KeptResult | None:
    """Read the ``trial.json`` in the folder of a trial; return None if there is no such file.

    Raises:
        JobError: if the folder or bucket cannot be read.
    """
    content = _json_in(place, TRIAL_FILE)
    return content and KeptResult(**content)


def _json_in(place: str, name: str) -> Any:
    """Return the JSON object in a file of a folder; None if there is none."""
    try:
        files, path = open_storage(place)
        with files.open_input_stream(f"{path}/{name}") as stream:
            content = json.loads(stream.read())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    except (OSError, ValueError) as error:
        raise unreadable(place, error) from error
    return content if isinstance(content, dict) else None


def unreadable(place: str, error: Exception) -> JobError:
    """Return the error that a folder or bucket cannot be read."""
    return JobError(
        f"{place} cannot be read ({str(error).splitlines()[0]})",
        remedy="check the address, your credentials and the network",
        code="output-not-readable",
    )


def place_named(name: str) -> str:
    """Return the absolute path or the URI of a run's folder, whether or not the folder exists.

    Args:
        name: id of a run whose folder is in the default output, or the path or URI of the folder.

    Raises:
        JobError: if the output that contains the folder cannot be used, for the reasons that `usable_output` lists.
    """
    parent, slash, folder = name.rstrip("/").rpartition("/")
    return f"{usable_output(parent if slash else TrainSpec.model_fields['output'].default)}/{folder}"


@dataclass(frozen=True)
class Found:
    """A run that began earlier, as its folder and MLflow have it.

    Attributes:
        kept: the content of its ``run.json``.
        output: the output folder or bucket.
        folder: the name of the run's folder in the output.
        run: the run in MLflow; None if MLflow does not have it.
    """

    kept: KeptRun
    output: str
    folder: str
    run: Run | None

    @property
    def place(self) -> str:
        """The path of the run's folder, or its URI in a bucket."""
        return f"{self.output}/{self.folder}"


def find_kept(name: str, uri: str, experiment: str) -> Found:
    """Find a training or an ablation that began earlier.

    Args:
        name: name or id of the run in MLflow; or the id, path or URI of its folder.
        uri: the MLflow store.
        experiment: name of the experiment.

    Raises:
        NoSuchRun: if there is no such run and no such folder.
        JobError: if the run is of another job or is a trial of an ablation, or the folder cannot be read.
        TrackingError: if the store does not answer.
    """
    try:
        run = find_run(uri, experiment, name)
    except NoSuchRun as unknown:
        place = place_named(name)
        kept = recall(place)
        if kept is None:
            raise NoSuchRun(
                f"{unknown.problem}, and {place} is not the folder of a training or an ablation",
                remedy=unknown.remedy or "choose a run from the list of glowctl runs",
                code="run-not-found",
            ) from None
        output, _, folder = place.rpartition("/")
        try:
            return Found(kept, output, folder, find_run(uri, experiment, kept.run_id))
        except NoSuchRun:
            return Found(kept, output, folder, None)
    kept_by_mlflow = _of_run(run, name)
    settings = kept_by_mlflow.spec.get("train", kept_by_mlflow.spec)
    folder = run.data.tags.get(tag_names.FOLDER, run.info.run_id)
    kept = recall(f"{settings['output']}/{folder}")
    return Found(kept or kept_by_mlflow, settings["output"], folder, run)


def _of_run(run: Run, name: str) -> KeptRun:
    """Return what MLflow has of the content of a run's ``run.json``, which a killed process may not have written."""
    tags = run.data.tags
    job = tags.get(tag_names.JOB, "")
    if job not in ("train", "ablate") or tag_names.SPEC not in tags:
        raise JobError(
            f"run {name!r} is neither a training nor an ablation of glowctl",
            remedy="choose a run from the list of glowctl runs --job train,ablate",
            code="run-of-another-job",
        )
    if tag_names.TRIAL in tags:
        raise JobError(
            f"run {name!r} is a trial of an ablation",
            remedy=f"name the ablation, as in glowctl ablate --resume {tags[tag_names.PARENT]}",
            code="run-is-trial",
        )
    resources = json.loads(tags.get(tag_names.RESOURCES, "null"))
    return KeptRun(
        job=job,
        run_id=run.info.run_id,
        run_name=run.info.run_name,
        spec=json.loads(tags[tag_names.SPEC]),
        images=recorded_images(run),
        resources=resources,
    )
