"""Carry out a request in this process.

If this process is a job of a Ray cluster, the request runs on that cluster. Otherwise this process starts a local Ray
if the request needs one. `perform` calls one function per kind of request. The heavy modules (torch, Ray, MLflow) are
imported as late as possible, and Ray starts while they are imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from glowctl.display.displays import forgiving
from glowctl.ray_runtime.connection import connected, machines_known, set_environment
from glowctl.ray_runtime.ray_internals import start_coordinator
from glowctl.ray_runtime.resources import resources_for
from glowctl.specs.ablation import make_ablate_spec
from glowctl.specs.base import validated
from glowctl.specs.evaluation import CheckSpec, InterpolateSpec, OodSpec
from glowctl.specs.monitoring import WatchSpec
from glowctl.specs.request import Request
from glowctl.specs.training import TrainSpec, worker_range
from glowctl.system.signals import signals_as_interrupt
from glowctl.tracking.store import check_store, client_of
from glowctl.tracking.uris import tracking_uri

if TYPE_CHECKING:
    from glowctl.display.displays import Display
    from glowctl.display.events import Show


class EvaluationJob(Protocol):
    """A module of `glowctl.evaluation`, such as `glowctl.evaluation.nll`."""

    def prepare(self, spec: Any) -> Any:
        """Check the settings, and find the model and the data; return what `run` takes."""

    def run(self, work: Any, show: Show) -> Any:
        """Compute the evaluation and record it."""


def perform(request: Request, display: Display) -> None:
    """Carry out a request.

    Args:
        request: what to do.
        display: shows the events.

    Raises:
        UserError: if it fails for a reason that the user can put right.
    """
    jobs = {
        "train": train,
        "resume_training": train,
        "ablate": ablate,
        "resume_ablation": ablate,
        "plan": dry_run,
        "summarize": summarize,
        "evaluate": evaluate,
        "demo": demo,
        "pack": pack,
        "estimate": estimate,
    }
    jobs[request.do](request, display)


def train(request: Request, display: Display) -> None:
    """Train a model from the beginning, or continue the training `request.run`."""
    if request.run is None:
        check_store(tracking_uri(request.setting("tracking_uri")))  # first, because Ray and the imports take seconds
    set_environment()
    with display as show, connected() as ready:  # Ray starts while the imports are loaded
        from glowctl.training.prepare import prepare, prepare_resume

        run, changes = request.run, request.changes
        work = prepare(request.specs["train"]) if run is None else prepare_resume(run, changes)
        resources = resources_for(work.spec, worker_range(work.spec.workers))
        from glowctl.training import run as job

        ready()
        start_coordinator()
        client_of(work.tracking_uri)  # imports MLflow
        if run is None and _limited(work.spec):
            from glowctl.estimate.cost import cost_of_training, refuse

            cost = cost_of_training(work, resources)
            show(cost)
            refuse(cost, work.spec)
            work = replace(work, estimated_seconds=cost.seconds)
        job.run(work, resources, show)


def _limited(spec: TrainSpec) -> bool:
    """Return whether a run is refused if it exceeds a limit."""
    return spec.max_hours is not None or spec.max_price is not None


def dry_run(request: Request, display: Display) -> None:
    """Show how many trials an ablation would have, and what each would use, without reading the data.

    This function starts no Ray. In a job of a Ray cluster it connects to that cluster.
    """
    check_store(tracking_uri(request.setting("tracking_uri")))
    set_environment()
    from glowctl.ablation import plan

    with display as show, machines_known():
        show(plan(request.specs["ablate"]))


def ablate(request: Request, display: Display) -> str:
    """Train all variants of an ablation and compare them, or continue the ablation `request.run`.

    Returns:
        The run id of the best trial.
    """
    if request.run is None:
        check_store(tracking_uri(request.setting("tracking_uri")))
    set_environment()
    with display as show, connected(state_api=True) as ready:  # Ray starts while the imports are loaded
        from glowctl.ablation import plan
        from glowctl.ablation.prepare import prepare, prepare_resume

        run, changes = request.run, request.changes
        ablation = prepare(request.specs["ablate"]) if run is None else prepare_resume(run, changes)
        before = None if ablation.resumed is None else ablation.resumed.run
        run_id = None if before is None else before.info.run_id
        planned = plan(ablation.spec, ablation.taken, run_id)  # an error here leaves no store behind
        from glowctl.ablation import run as job

        client_of(ablation.work.tracking_uri)  # imports MLflow
        ready()
        if run is None and _limited(ablation.spec.train):
            from glowctl.estimate.cost import cost_of_ablation, refuse

            cost = cost_of_ablation(ablation, planned)
            show(cost)
            refuse(cost, ablation.spec.train)
            ablation = replace(ablation, work=replace(ablation.work, estimated_seconds=cost.seconds))
        return job.run(ablation, planned, show)


def estimate(request: Request, display: Display) -> None:
    """Show what a training, an ablation or a scoring would cost, from some of its work that is timed.

    Nothing is recorded.
    """
    (name, spec), *_ = request.specs.items()
    set_environment()
    with display as show, connected() as ready:
        from glowctl.ablation import plan
        from glowctl.ablation import prepare as ablations
        from glowctl.estimate import cost
        from glowctl.evaluation import nll, ood
        from glowctl.training.prepare import prepare

        if name == "train":
            work = prepare(spec)
            resources = resources_for(work.spec, worker_range(work.spec.workers))
            ready()
            show(cost.cost_of_training(work, resources))
        elif name == "ablate":
            planned, ablation = plan(spec), ablations.prepare(spec)
            ready()
            show(cost.cost_of_ablation(ablation, planned))
        else:
            asked = nll.prepare(spec) if name == "nll" else ood.prepare(spec)
            ready()
            show(cost.cost_of_evaluation(asked.evaluation))


def summarize(request: Request, display: Display) -> None:
    """Compare the trials of the ablation `request.run` again, from what MLflow has recorded."""
    assert request.run is not None
    set_environment()
    from glowctl.ablation.run import summarize_again

    with display as show:
        summarize_again(request.run, request.changes, show)


def sync(run: str, changes: Mapping[str, Any], display: Display) -> None:
    """Copy the folder of a training or an ablation to MLflow again.

    Args:
        run: name or id of its run, or its folder.
        changes: flags that the user gave: ``tracking_uri``, ``experiment`` and ``data_root``.
        display: shows the events.
    """
    check_store(tracking_uri(changes.get("tracking_uri")))
    set_environment()
    from glowctl.ablation.run import sync as sync_run

    with display as show:
        sync_run(run, changes, show)


def evaluation_jobs() -> Mapping[str, EvaluationJob]:
    """Return the modules of the evaluations by the names of their commands."""
    from glowctl.evaluation import interpolate, nll, ood, sample

    return {"nll": nll, "sample": sample, "interpolate": interpolate, "ood": ood}


def evaluate(request: Request, display: Display) -> None:
    """Run the evaluations of `request.specs` one after the other, each on every model that ``--model`` names.

    All evaluations are prepared before the first one runs, so that wrong settings are found before any work is done.
    Ray starts only if one of the evaluations needs it.
    """
    check_store(tracking_uri(request.setting("tracking_uri")))
    set_environment()
    modules = evaluation_jobs()
    from glow.datasets.lazy import one_look
    from glowctl.evaluation.find_model import models_named
    from glowctl.evaluation.trainings import summarize

    with display as show:
        uri, experiment = tracking_uri(request.setting("tracking_uri")), str(request.setting("experiment"))
        models = models_named(request.setting("model"), uri, experiment)
        with one_look():  # because a file that is added between two listings would move images to other splits
            works = [
                (name, modules[name].prepare(spec.model_copy(update={"model": model})))
                for name, spec in request.specs.items()
                for model in models
            ]
        needs_ray = any(work.evaluation.needs_ray for _, work in works)
        with connected() if needs_ray else signals_as_interrupt() as ready:
            ready()
            results = [(name, work, modules[name].run(work, forgiving(show))) for name, work in works]
        tests = [(work, result) for name, work, result in results if name == "ood"]
        if len(tests) > 1:
            summarize(tests, forgiving(show))


def check(spec: CheckSpec, lines: Iterable[str], display: Display) -> bool:
    """Check whether a batch of images belongs, in this process, and return whether it does.

    Args:
        spec: the settings.
        lines: standard input.
        display: shows the events.
    """
    if spec.record:
        check_store(tracking_uri(spec.tracking_uri))
    set_environment()
    from glowctl.evaluation import check as job

    with display as show, signals_as_interrupt():
        return job.run(job.prepare(spec, lines), forgiving(show))


def watch(
    spec: WatchSpec | None,
    lines: Iterable[str],
    display: Display,
    resume: str | None,
    changes: Mapping[str, Any],
    acknowledges: bool = False,
) -> bool:
    """Watch a stream of images in this process, and return whether an alarm ended the watch.

    Args:
        spec: the settings; None to continue a watch.
        lines: standard input.
        display: shows the events.
        resume: name or id of the run to continue.
        changes: settings that were given for it again.
        acknowledges: whether the evidence of this run begins anew.
    """
    check_store(tracking_uri(changes.get("tracking_uri")))
    set_environment()
    from glowctl.monitoring import watch as job

    with display as show, signals_as_interrupt():
        work = job.prepare(spec) if spec is not None else job.prepare_resume(str(resume), changes, acknowledges)
        return job.run(work, lines, forgiving(show))


def rehearse(spec: WatchSpec, display: Display) -> bool:
    """Rehearse a watch on images that belong, and return whether it keeps its promise on them."""
    set_environment()
    from glowctl.monitoring.rehearsal import rehearse as job
    from glowctl.monitoring.watch import prepare_rehearsal

    with display as show, signals_as_interrupt():
        return job(prepare_rehearsal(spec), forgiving(show))


def pack(request: Request, display: Display) -> None:
    """Make a packed data set of images."""
    set_environment()
    with display as show, connected() as ready:  # Ray starts while the imports are loaded
        from glowctl.packing.plan import prepare

        plan = prepare(request.specs["pack"])
        ready()
        from glowctl.packing.run import run

        run(plan, forgiving(show))


def demo(request: Request, display: Display) -> None:
    """Run the ablation of `glowctl demo` on the digits, then interpolate and test for OOD images with its best model.

    The changes of the request are the settings `output` and `tracking_uri` of all jobs of the demo.
    """
    ablation = make_ablate_spec("demo", {"permutations": "all", **request.changes})
    common = {"model": ablate(Request.of("ablate", ablation), display), **request.changes}
    tests = validated(InterpolateSpec, common), validated(OodSpec, common)
    evaluate(Request.of("evaluate", *tests), display)
