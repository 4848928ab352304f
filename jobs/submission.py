"""Where a job runs: in a Ray of its own on this machine, started for it and gone after it.

Only this file knows. (Clusters by `--address`, through Ray Jobs, are not written yet.)
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from jobs.ablation_spec import AblateSpec
from jobs.evaluation_specs import EvaluationSpec
from jobs.progress import forgiving
from jobs.specs import TrainSpec
from jobs.tracking import check_store, tracking_uri

if TYPE_CHECKING:
    from jobs.progress import Display
    from jobs.train import TrainResult, Work

__all__ = [
    "Terminated",
    "ablate",
    "embedded_ray",
    "evaluate",
    "plan_ablation",
    "resume_ablation",
    "resume_training",
    "summarize_ablation",
    "train",
]

LEAST_OBJECT_STORE = 100 * 2**20

# Ray reads these when it is imported, and hands them to its workers.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",  # with a token of this command's own, so that ~/.ray is neither read nor written
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a stray call after the end must not start another Ray
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # no "(raylet) A worker died" among the progress: the record tells of it
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a checkpoint is registered, and a death noticed, within this
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow has the metrics
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # what is known of trials that a kill -9 may cost
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune says nothing by itself
}


class Terminated(KeyboardInterrupt):
    """SIGTERM came: as Ctrl-C, but the exit code says so."""


def train(spec: TrainSpec, display: Display) -> TrainResult:
    """Trains, from the beginning. Raises TrackingError, and what `jobs.train.prepare` and `jobs.train.run` raise."""
    check_store(tracking_uri(spec.tracking_uri))  # before the imports, which take seconds
    _set_environment()
    from jobs import train as job

    return _train(job.prepare(spec), display)


def resume_training(run: str, changes: Mapping[str, Any], display: Display) -> TrainResult:
    """Goes on with a run that stopped. Raises what `jobs.train.prepare_resume` and `jobs.train.run` raise."""
    _set_environment()
    from jobs import train as job

    return _train(job.prepare_resume(run, changes), display)


def plan_ablation(spec: AblateSpec, display: Display) -> None:
    """Says how many trials an ablation would have and what each would take. Raises what `ablate` raises."""
    check_store(tracking_uri(spec.train.tracking_uri))
    _set_environment()
    from jobs import ablate as job

    ablation = job.prepare(spec)
    with display as show, embedded_ray():
        show(job.plan(ablation)[0])


def ablate(spec: AblateSpec, display: Display) -> str:
    """Trains in many variants, and compares them; the id of the run of the best. Raises TrackingError, and what
    `jobs.ablate.prepare` and `jobs.ablate.run` raise."""
    check_store(tracking_uri(spec.train.tracking_uri))
    _set_environment()
    from jobs import ablate as job

    ablation = job.prepare(spec)
    with display as show, embedded_ray(ablation.nbytes):
        return job.run(ablation, show)


def resume_ablation(run: str, changes: Mapping[str, Any], display: Display) -> str:
    """Goes on with an ablation that stopped; the id of the run of the best trial. Raises what
    `jobs.ablate.prepare_resume` and `jobs.ablate.run` raise."""
    _set_environment()
    from jobs import ablate as job

    ablation = job.prepare_resume(run, changes)
    with display as show, embedded_ray(ablation.nbytes):
        return job.run(ablation, show)


def summarize_ablation(run: str, changes: Mapping[str, Any], display: Display) -> None:
    """Compares an ablation's trials again, from what MLflow has of them. Raises TrackingError and JobError."""
    _set_environment()
    from jobs import ablate as job

    with display as show:
        job.summarize_again(run, changes, show)


def evaluate(specs: Sequence[EvaluationSpec], display: Display) -> None:
    """Runs one evaluation job after the other. All are prepared before the first starts, and Ray is started only if
    one of them needs it. Raises TrackingError, and what their `prepare` and `run` raise."""
    check_store(tracking_uri(specs[0].tracking_uri))
    _set_environment()
    jobs = [_evaluation_job(spec) for spec in specs]
    with display as show:
        works = [job.prepare(spec) for job, spec in zip(jobs, specs, strict=True)]
        needs_ray = any(work.needs_ray for work in works)
        with embedded_ray(sum(work.nbytes for work in works)) if needs_ray else _sigterm_as_interrupt():
            for job, work in zip(jobs, works, strict=True):
                job.run(work, forgiving(show))


def _evaluation_job(spec: EvaluationSpec) -> Any:
    """The module of a spec's job: `prepare(spec)` gives its work, `run(work, show)` does it."""
    return import_module(f"jobs.{type(spec).__name__.removesuffix('Spec').lower()}")


def _train(work: Work, display: Display) -> TrainResult:
    from jobs import train as job

    with display as show, embedded_ray(work.nbytes):
        return job.run(work, show)


def _set_environment() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if os.environ["RAY_AUTH_MODE"] == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))


@contextlib.contextmanager
def embedded_ray(data_bytes: int = 0) -> Iterator[None]:
    """A private Ray on the loopback interface, with room for `data_bytes` in its object store.

    Nothing of it is left however this process ends: `jobs.guard` sees to that. SIGTERM raises `Terminated`, Ctrl-C
    KeyboardInterrupt. Several processes can each have one. It takes about 5 s and 600 MB.
    """
    import ray
    from ray._private import ray_constants

    folder = tempfile.mkdtemp(prefix="glow-ray-", dir=_short_temporary_folder())
    guard = subprocess.Popen(
        [sys.executable, "-P", "-m", "jobs.guard", folder, str(os.getpid())],  # -P: not what lies in this folder
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert guard.stdin is not None
    # Without this Ray replaces 127.0.0.1 by the address that others see, and listens to them.
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        ray.init(
            "local",
            object_store_memory=LEAST_OBJECT_STORE + 2 * data_bytes,
            include_dashboard=True,  # without it placement groups of killed trials are never freed
            dashboard_host="127.0.0.1",
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
            log_to_driver=False,
            logging_level="error",
        )
        with _sigterm_as_interrupt():  # after ray.init, which sets a handler of its own
            yield
    finally:
        ray.shutdown()
        guard.stdin.close()
        guard.wait()


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM ends what runs as Ctrl-C does, by KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminated = False

    def on_sigterm(number: int, frame: object) -> None:
        nonlocal terminated
        terminated = True
        signal.raise_signal(signal.SIGINT)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    except KeyboardInterrupt as error:
        raise Terminated if terminated else error from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _short_temporary_folder() -> str | None:
    """Paths of sockets must not exceed 107 characters, of which Ray needs about 70."""
    return None if len(tempfile.gettempdir()) < 30 else "/tmp"
