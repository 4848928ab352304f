"""Does what a request asks, here and now: on the Ray cluster that this process is a job of, else on a Ray of its own.

Heavy imports (torch, Ray, MLflow) come as late as possible, and Ray starts beside them.
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
from jobs.system.signals import sigterm_as_interrupt
from jobs.tracking import check_existing, check_store, client_of, tracking_uri

if TYPE_CHECKING:
    from jobs.ablation.prepare import Ablation
    from jobs.display.displays import Display
    from jobs.display.events import Show
    from jobs.training.prepare import Work

__all__ = ["perform", "repair"]


class EvaluationJob(Protocol):
    """A module of `jobs.evaluation`."""

    def prepare(self, spec: Any) -> Any: ...

    def run(self, work: Any, show: Show) -> Any: ...


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
"""The evaluations by the name of their command. Each imports its module when it is called."""


def perform(request: Request, display: Display) -> None:
    """Does what is asked.

    Raises:
        UserError: whatever goes wrong, in one sentence for the user.
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
    """Trains a model from the beginning."""
    check_store(tracking_uri(spec.tracking_uri))  # before Ray starts, and the imports, which take seconds

    def prepared() -> Work:
        from jobs.training.prepare import prepare

        return prepare(spec)

    _train(prepared, display)


def resume_training(run: str, changes: Mapping[str, Any], display: Display) -> None:
    """Continues a training that stopped."""

    def prepared() -> Work:
        from jobs.training.prepare import prepare_resume

        return prepare_resume(run, changes)

    _train(prepared, display)


def _train(prepared: Callable[[], Work], display: Display) -> None:
    set_environment()
    with display as show, connected() as ready:  # Ray starts beside the imports
        work = prepared()
        resources = resources_for(work.spec, worker_range(work.spec.workers))
        ready()
        from jobs.training import run as job

        client_of(work.tracking_uri)
        job.run(work, resources, show)


def dry_run(spec: AblateSpec, display: Display) -> None:
    """Says how many trials an ablation would have and what each would take, without a look at the data. On this machine
    it starts no Ray."""
    check_store(tracking_uri(spec.train.tracking_uri))
    set_environment()
    from jobs.ablation.plan import plan

    with display as show, machines_known():
        show(plan(spec))


def ablate(spec: AblateSpec, display: Display) -> str:
    """Trains many variants and compares them; returns the run id of the best."""
    check_store(tracking_uri(spec.train.tracking_uri))

    def prepared() -> Ablation:
        from jobs.ablation.prepare import prepare

        return prepare(spec)

    return _ablate(prepared, display)


def resume_ablation(run: str, changes: Mapping[str, Any], display: Display) -> str:
    """Continues an ablation that stopped; returns the run id of the best trial."""

    def prepared() -> Ablation:
        from jobs.ablation.prepare import prepare_resume

        return prepare_resume(run, changes)

    return _ablate(prepared, display)


def _ablate(prepared: Callable[[], Ablation], display: Display) -> str:
    set_environment()
    with display as show, connected(state_api=True) as ready:  # Ray starts beside the imports
        ablation = prepared()
        from jobs.ablation.plan import plan

        planned = plan(ablation.spec, ablation.taken)  # refuses what cannot run before the store is made
        ready()
        from jobs.ablation import run as job

        client_of(ablation.work.tracking_uri)
        return job.run(ablation, planned, show)


def summarize(run: str, changes: Mapping[str, Any], display: Display) -> None:
    """Compares an ablation's trials again, from what MLflow has of them."""
    set_environment()
    from jobs.ablation.run import summarize_again

    with display as show:
        summarize_again(run, changes, show)


def repair(run: str, changes: Mapping[str, Any], display: Display) -> None:
    """Adds to MLflow what only the checkpoints of a run know."""
    check_existing(tracking_uri(changes.get("tracking_uri")))
    set_environment()
    from jobs.ablation.repair import repair as repair_run

    with display as show:
        repair_run(run, changes, show)


def evaluate(specs: Mapping[str, EvaluationSpec], display: Display) -> None:
    """Runs one evaluation after the other, by the name of its command.

    All are prepared before the first starts, and Ray is started only if one of them needs it.
    """
    check_store(tracking_uri(next(iter(specs.values())).tracking_uri))
    set_environment()
    jobs = [EVALUATION_JOBS[name]() for name in specs]
    with display as show:
        works = [job.prepare(spec) for job, spec in zip(jobs, specs.values(), strict=True)]
        _run_all(jobs, works, forgiving(show))


def _run_all(jobs: Sequence[EvaluationJob], works: Sequence[Any], show: Show) -> None:
    needs_ray = any(work.evaluation.needs_ray for work in works)
    with connected() if needs_ray else sigterm_as_interrupt() as ready:
        ready()
        for job, work in zip(jobs, works, strict=True):
            job.run(work, show)


def pack(spec: PackSpec, display: Display) -> None:
    """Makes a packed data set of images."""
    set_environment()
    with display as show, connected() as ready:  # Ray starts beside the imports
        from jobs.packing.plan import prepare

        plan = prepare(spec)
        ready()
        from jobs.packing.run import run

        run(plan, forgiving(show))


def demo(where: Mapping[str, Any], display: Display) -> None:
    """The README's first minute: small Glows of digits with each permutation, and what the best of them can do."""
    best = ablate(make_ablate_spec("demo", {"permutations": "all", **where}), display)
    common = {"model": best, **where}
    evaluate({"interpolate": validated(InterpolateSpec, common), "ood": validated(OodSpec, common)}, display)
