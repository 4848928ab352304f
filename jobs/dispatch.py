"""Carry out a request in this process.

If this process is a job of a Ray cluster, the request runs on that cluster. Otherwise this process starts a local Ray
if the request needs one. `perform` calls one function per kind of request. The heavy modules (torch, Ray, MLflow) are
imported as late as possible, and Ray starts while they are imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from jobs.display.displays import forgiving
from jobs.ray_runtime.connection import connected, machines_known, set_environment
from jobs.ray_runtime.resources import resources_for
from jobs.specs.ablation import AblateSpec, make_ablate_spec
from jobs.specs.base import validated
from jobs.specs.evaluation import EvaluationSpec, InterpolateSpec, OodSpec
from jobs.specs.packing import PackSpec
from jobs.specs.request import Request
from jobs.specs.training import TrainSpec, worker_range
from jobs.system.signals import signals_as_interrupt
from jobs.tracking import check_store, client_of, tracking_uri

if TYPE_CHECKING:
    from jobs.ablation.prepare import Ablation
    from jobs.display.displays import Display
    from jobs.display.events import Show
    from jobs.training.prepare import Work

__all__ = ["perform", "sync"]


class EvaluationJob(Protocol):
    """A module of `jobs.evaluation`, such as `jobs.evaluation.nll`."""

    def prepare(self, spec: Any) -> Any:
        """Check the settings, and find the model and the data; return what `run` takes."""

    def run(self, work: Any, show: Show) -> Any:
        """Compute the evaluation and record it."""


def _nll() -> EvaluationJob:
    from jobs.evaluation import nll

    return nll


def _sample() -> EvaluationJob:
    from jobs.evaluation import sample

    return sample


def _interpolate() -> EvaluationJob:
    from jobs.evaluation import interpolate

    return interpolate


def _ood() -> EvaluationJob:
    from jobs.evaluation import ood

    return ood


EVALUATION_JOBS: dict[str, Callable[[], EvaluationJob]] = {
    "nll": _nll,
    "sample": _sample,
    "interpolate": _interpolate,
    "ood": _ood,
}
"""Names of the commands of evaluations -> functions that import and return their modules."""


def perform(request: Request, display: Display) -> None:
    """Carry out a request.

    Args:
        request: what to do.
        display: shows the events.

    Raises:
        UserError: if it fails for a reason that the user can put right.
    """
    specs: Mapping[str, Any] = request.specs
    run, changes = request.run or "", request.changes
    match request.do:
        case "train":
            train(specs["train"], display)
        case "resume_training":
            resume_training(run, changes, display)
        case "ablate":
            ablate(specs["ablate"], display)
        case "plan":
            dry_run(specs["ablate"], display)
        case "resume_ablation":
            resume_ablation(run, changes, display)
        case "summarize":
            summarize(run, changes, display)
        case "evaluate":
            evaluate(specs, display)
        case "demo":
            demo(changes, display)
        case "pack":
            pack(specs["pack"], display)


def train(spec: TrainSpec, display: Display) -> None:
    """Train a model from the beginning."""
    check_store(tracking_uri(spec.tracking_uri))  # first, because Ray and the imports take seconds

    def prepared() -> Work:
        from jobs.training.prepare import prepare

        return prepare(spec)

    _train(prepared, display)


def resume_training(run: str, changes: Mapping[str, Any], display: Display) -> None:
    """Continue a training that stopped.

    Args:
        run: name or id of its run, or the folder of its checkpoints.
        changes: settings that differ from the run's own.
        display: shows the events.
    """

    def prepared() -> Work:
        from jobs.training.prepare import prepare_resume

        return prepare_resume(run, changes)

    _train(prepared, display)


def _train(prepared: Callable[[], Work], display: Display) -> None:
    set_environment()
    with display as show, connected() as ready:  # Ray starts while the imports are loaded
        work = prepared()
        resources = resources_for(work.spec, worker_range(work.spec.workers))
        from jobs.training import run as job

        client_of(work.tracking_uri)  # imports MLflow
        ready()
        job.run(work, resources, show)


def dry_run(spec: AblateSpec, display: Display) -> None:
    """Show how many trials an ablation would have, and what each would use, without reading the data.

    This function starts no Ray. In a job of a Ray cluster it connects to that cluster.
    """
    check_store(tracking_uri(spec.train.tracking_uri))
    set_environment()
    from jobs.ablation.plan import plan

    with display as show, machines_known():
        show(plan(spec))


def ablate(spec: AblateSpec, display: Display) -> str:
    """Train all variants of an ablation and compare them; return the run id of the best trial."""
    check_store(tracking_uri(spec.train.tracking_uri))

    def prepared() -> Ablation:
        from jobs.ablation.prepare import prepare

        return prepare(spec)

    return _ablate(prepared, display)


def resume_ablation(run: str, changes: Mapping[str, Any], display: Display) -> str:
    """Continue an ablation that stopped; return the run id of the best trial."""

    def prepared() -> Ablation:
        from jobs.ablation.prepare import prepare_resume

        return prepare_resume(run, changes)

    return _ablate(prepared, display)


def _ablate(prepared: Callable[[], Ablation], display: Display) -> str:
    set_environment()
    with display as show, connected(state_api=True) as ready:  # Ray starts while the imports are loaded
        ablation = prepared()
        from jobs.ablation.plan import plan

        run = None if ablation.resumed is None else ablation.resumed.run
        planned = plan(ablation.spec, ablation.taken, run and run.info.run_id)  # an error here leaves no store behind
        from jobs.ablation import run as job

        client_of(ablation.work.tracking_uri)  # imports MLflow
        ready()
        return job.run(ablation, planned, show)


def summarize(run: str, changes: Mapping[str, Any], display: Display) -> None:
    """Compare an ablation's trials again, from what MLflow has recorded."""
    set_environment()
    from jobs.ablation.run import summarize_again

    with display as show:
        summarize_again(run, changes, show)


def sync(run: str, changes: Mapping[str, Any], display: Display) -> None:
    """Copy the folder of a training or an ablation to MLflow again.

    Args:
        run: name or id of its run, or its folder.
        changes: flags that the user gave: ``tracking_uri``, ``experiment`` and ``data_root``.
        display: shows the events.
    """
    check_store(tracking_uri(changes.get("tracking_uri")))
    set_environment()
    from jobs.ablation.run import sync as sync_run

    with display as show:
        sync_run(run, changes, show)


def evaluate(specs: Mapping[str, EvaluationSpec], display: Display) -> None:
    """Run evaluations one after the other.

    All evaluations are prepared before the first one runs, so that wrong settings are found before any work is done.
    Ray starts only if one of the evaluations needs it.

    Args:
        specs: names of commands -> their settings.
        display: shows the events.
    """
    check_store(tracking_uri(next(iter(specs.values())).tracking_uri))
    set_environment()
    jobs = [EVALUATION_JOBS[name]() for name in specs]
    from glow.datasets.looks import one_look

    with display as show:
        with one_look():  # because a file that is added between two listings would move images to other splits
            works = [job.prepare(spec) for job, spec in zip(jobs, specs.values(), strict=True)]
        _run_all(jobs, works, forgiving(show))


def _run_all(jobs: Sequence[EvaluationJob], works: Sequence[Any], show: Show) -> None:
    needs_ray = any(work.evaluation.needs_ray for work in works)
    with connected() if needs_ray else signals_as_interrupt() as ready:
        ready()
        for job, work in zip(jobs, works, strict=True):
            job.run(work, show)


def pack(spec: PackSpec, display: Display) -> None:
    """Make a packed data set of images."""
    set_environment()
    with display as show, connected() as ready:  # Ray starts while the imports are loaded
        from jobs.packing.plan import prepare

        plan = prepare(spec)
        ready()
        from jobs.packing.run import run

        run(plan, forgiving(show))


def demo(where: Mapping[str, Any], display: Display) -> None:
    """Run the ablation of `glowctl demo` on the digits, then interpolate and test for OOD images with its best model.

    Args:
        where: the settings `output` and `tracking_uri`, for all jobs of the demo.
        display: shows the events.
    """
    best = ablate(make_ablate_spec("demo", {"permutations": "all", **where}), display)
    common = {"model": best, **where}
    evaluate({"interpolate": validated(InterpolateSpec, common), "ood": validated(OodSpec, common)}, display)
