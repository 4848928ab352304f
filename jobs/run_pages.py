"""What MLflow's UI says above each run, in Markdown: what it is, what it came to, and the command that repeats it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.display.training_lines import sizes_sentence
from jobs.specs.ablation import AXES, AblateSpec
from jobs.specs.training import TrainSpec
from jobs.text import count, plain

if TYPE_CHECKING:
    from jobs.evaluation.find_model import TrainedModel
    from jobs.tracking import Record
    from jobs.training.log import TrainResult

__all__ = ["ablation_description", "evaluation_description", "training_description"]

LONGEST = 8000
"""Letters of a tag that MLflow keeps."""

REST = "The rest is among the artifacts."


def training_description(spec: TrainSpec, record: Record, result: TrainResult | None = None) -> str:
    scale = f", {spec.scale} scale" if spec.coupling == "affine" else ""
    what = (
        f"A Glow of {spec.dataset}: permutation {spec.permutation}, depth K = {spec.depth}, levels L = {spec.levels}, "
        f"width {spec.width}, {spec.coupling} coupling{scale}, seed {spec.seed}; {count(spec.epochs, 'epoch')} with "
        f"batches of {spec.batch_size}, {spec.optimizer} at {plain(spec.learning_rate)}."
    )
    came_to = None
    if result is not None:
        came_to = (
            f"{sizes_sentence(result.to_dict())} on the test set, under the model of epoch {result.best_epoch}, the "
            f"best by validation: `{result.model}`"
        )
    return _page(what, came_to, _again("train", record))


def ablation_description(spec: AblateSpec, record: Record, came_to: str | None = None, details: str = "") -> str:
    axes = [f"{axis} {', '.join(map(plain, values))}" for name, axis in AXES.items() if (values := getattr(spec, name))]
    what = (
        f"An ablation on {spec.train.dataset}: {' x '.join(axes) or 'one configuration'}, at "
        f"{count(spec.seeds, 'seed')} each. Its trials are the runs beneath it."
    )
    return _page(what, came_to, _again("ablate", record), details)


def evaluation_description(
    job: str, model: TrainedModel, experiment_id: str, record: Record, came_to: str | None = None, details: str = ""
) -> str:
    """`experiment_id` is where the model's training is recorded."""
    trained_by = f"[{model.title}](#/experiments/{experiment_id}/runs/{model.run_id})" if model.run_id else model.title
    what = {
        "nll": "The negative log-likelihood of data sets under",
        "sample": "Images drawn from",
        "interpolate": "What lies between real images in the latents of",
        "ood": "Which batches of images do not belong to what it was trained on, by",
    }[job]
    return _page(f"{what} the model {trained_by}.", came_to, _again(job, record), details)


def _again(job: str, record: Record) -> str:
    return f"glowctl {job} --spec runs:/{record.run_id}/spec.json"


def _page(what: str, came_to: str | None, command: str, details: str = "") -> str:
    """`details` come last: of an ablation of many configurations they are longer than MLflow keeps."""
    result = f"**Result:** {came_to}" if came_to else ""
    head = _paragraphs(what, result, f"To repeat it: `{command}`")
    whole = _paragraphs(head, details)
    if len(whole) <= LONGEST:
        return whole
    room = max(0, LONGEST - len(_paragraphs(head, REST)) - len("\n\n"))
    return _paragraphs(head, details.strip()[:room].rpartition("\n")[0], REST)


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part.strip() for part in parts if part.strip())
