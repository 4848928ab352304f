"""What a command asks for, in a form that can be sent to a cluster, and how it is done where it arrives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from jobs.display.displays import forgiving
from jobs.ray_runtime.connection import connected, set_environment, sigterm_as_interrupt
from jobs.specs.ablation import AblateSpec, make_ablate_spec
from jobs.specs.evaluation import EvaluationSpec, InterpolateSpec, NllSpec, OodSpec, SampleSpec
from jobs.specs.training import TrainSpec, validated
from jobs.tracking import check_store, client_of, tracking_uri

if TYPE_CHECKING:
    from jobs.display.displays import Display
    from jobs.training.prepare import Work

__all__ = ["Request", "perform"]

EVALUATIONS: dict[str, type[EvaluationSpec]] = {
    "nll": NllSpec,
    "sample": SampleSpec,
    "interpolate": InterpolateSpec,
    "ood": OodSpec,
}


class Request(BaseModel):
    """`do` is the name of a function of this module. `specs` are the settings of its jobs, by the job's name; a run
    that exists already is named by `run`, with the settings that `changes` it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    do: Literal["train", "resume_training", "ablate", "plan", "resume_ablation", "summarize", "evaluate", "demo"]
    specs: dict[str, dict[str, Any]] = {}
    run: str | None = None
    changes: dict[str, Any] = {}

    @classmethod
    def of(cls, do: Any, *specs: BaseModel) -> Request:
        return cls(do=do, specs={job_of(spec): spec.model_dump(mode="json") for spec in specs})

    @property
    def title(self) -> str:
        """A few words for a list of jobs."""
        if self.run is not None:
            return f"{self.do.replace('_', ' ')} {self.run}"
        if self.do == "evaluate":
            models = {spec["model"] for spec in self.specs.values() if spec.get("model")}
            return " ".join([*self.specs, *models])
        return " ".join([self.do, *([self.dataset] if self.dataset else [])])

    @property
    def dataset(self) -> str | None:
        """What is trained on, where that is said."""
        every = [spec.get("train", spec) for spec in self.specs.values()]
        return next((spec["dataset"] for spec in every if spec.get("dataset")), None)


def job_of(spec: BaseModel) -> str:
    """ "train" of a TrainSpec."""
    return type(spec).__name__.removesuffix("Spec").lower()


def perform(request: Request, display: Display) -> None:
    """Does what is asked, here and now: on the Ray cluster that this process is a job of, else on a Ray of its own.

    Raises SpecError, TrackingError, JobError, and what the library raises: all have one sentence for the user.
    """
    match request.do:
        case "train":
            train(validated(TrainSpec, request.specs["train"]), display)
        case "resume_training":
            resume_training(request.run or "", request.changes, display)
        case "ablate":
            ablate(validated(AblateSpec, request.specs["ablate"]), display)
        case "plan":
            plan(validated(AblateSpec, request.specs["ablate"]), display)
        case "resume_ablation":
            resume_ablation(request.run or "", request.changes, display)
        case "summarize":
            summarize(request.run or "", request.changes, display)
        case "evaluate":
            evaluate([validated(EVALUATIONS[job], spec) for job, spec in request.specs.items()], display)
        case "demo":
            demo(request.changes, display)


def train(spec: TrainSpec, display: Display) -> None:
    """Trains, from the beginning."""
    check_store(tracking_uri(spec.tracking_uri))  # before the imports, which take seconds
    set_environment()
    from jobs.training.prepare import prepare

    _train(prepare(spec), display)


def resume_training(run: str, changes: Mapping[str, Any], display: Display) -> None:
    """Goes on with a run that stopped."""
    set_environment()
    from jobs.training.prepare import prepare_resume

    _train(prepare_resume(run, changes), display)


def _train(work: Work, display: Display) -> None:
    with display as show, connected(work.nbytes) as ready:
        from jobs.training import run as job  # Ray starts meanwhile

        client_of(work.tracking_uri)
        ready()
        job.run(work, show)


def plan(spec: AblateSpec, display: Display) -> None:
    """Says how many trials an ablation would have and what each would take."""
    check_store(tracking_uri(spec.train.tracking_uri))
    set_environment()
    from jobs.ablation import run as job

    ablation = job.prepare(spec)
    with display as show, connected() as ready:
        ready()
        show(job.plan(ablation)[0])


def ablate(spec: AblateSpec, display: Display) -> str:
    """Trains in many variants, and compares them; the id of the run of the best."""
    check_store(tracking_uri(spec.train.tracking_uri))
    set_environment()
    from jobs.ablation import run as job

    ablation = job.prepare(spec)
    with display as show, connected(ablation.nbytes) as ready:
        ready()
        return job.run(ablation, show)


def resume_ablation(run: str, changes: Mapping[str, Any], display: Display) -> str:
    """Goes on with an ablation that stopped; the id of the run of the best trial."""
    set_environment()
    from jobs.ablation import run as job

    ablation = job.prepare_resume(run, changes)
    with display as show, connected(ablation.nbytes) as ready:
        ready()
        return job.run(ablation, show)


def summarize(run: str, changes: Mapping[str, Any], display: Display) -> None:
    """Compares an ablation's trials again, from what MLflow has of them."""
    set_environment()
    from jobs.ablation import run as job

    with display as show:
        job.summarize_again(run, changes, show)


def evaluate(specs: Sequence[EvaluationSpec], display: Display) -> None:
    """Runs one evaluation job after the other. All are prepared before the first starts, and Ray is started only if
    one of them needs it."""
    check_store(tracking_uri(specs[0].tracking_uri))
    set_environment()
    jobs = [import_module(f"jobs.evaluation.{job_of(spec)}") for spec in specs]
    with display as show:
        works = [job.prepare(spec) for job, spec in zip(jobs, specs, strict=True)]
        needs_ray = any(work.needs_ray for work in works)
        with connected(sum(work.nbytes for work in works)) if needs_ray else sigterm_as_interrupt() as ready:
            ready()
            for job, work in zip(jobs, works, strict=True):
                job.run(work, forgiving(show))


def demo(where: Mapping[str, Any], display: Display) -> None:
    """The README's first minute: small Glows on digits with each permutation, and what the best of them can do."""
    best = ablate(make_ablate_spec("demo", {"permutations": "all", **where}), display)
    common = {"model": best, **where}
    evaluate([validated(InterpolateSpec, common), validated(OodSpec, common)], display)
